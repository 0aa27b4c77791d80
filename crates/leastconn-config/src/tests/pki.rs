//! Certificate files for tests.

use std::fs;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

use super::{PLAIN, reading};

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

/// A directory with a valid set of files.
pub(super) struct Pki {
    pub(super) dir: TempDir,
    pub(super) ca: Authority,
}

pub(super) fn authority(name: &str, from: i32, to: i32) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(super) fn server_params() -> CertificateParams {
    let mut params = CertificateParams::new(vec!["lb.com".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "lb.com");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    params
}

pub(super) fn crl(by: &Authority, to: (i32, u8, u8)) -> rcgen::CertificateRevocationList {
    crl_of(by, to, None)
}

pub(super) fn crl_of(
    by: &Authority,
    to: (i32, u8, u8),
    revoked: Option<SerialNumber>,
) -> rcgen::CertificateRevocationList {
    let revoked_certs = revoked.into_iter().map(|serial_number| RevokedCertParams {
        serial_number,
        revocation_time: date_time_ymd(2025, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 1, 1),
        next_update: date_time_ymd(to.0, to.1, to.2),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
    .signed_by(by)
    .unwrap()
}

impl Pki {
    pub(super) fn new() -> Self {
        let pki = Self {
            dir: tempfile::tempdir().unwrap(),
            ca: authority("the CA", 2020, 2040),
        };
        pki.write("ca.crt", pki.ca.pem());
        pki.write("ca.crl", crl(&pki.ca, (2027, 1, 1)).pem().unwrap());
        pki.server(server_params());
        pki
    }

    pub(super) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.dir.path().join(name), content).unwrap();
    }

    pub(super) fn server(&self, params: CertificateParams) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        self.write("server.crt", certificate.pem());
        self.write("server.key", key.serialize_pem());
    }

    /// Returns the problems of a listener with this `tls` table, without their positions.
    pub(super) fn problems(&self, tls: &str) -> Vec<String> {
        self.problems_of(&with_tls(tls))
    }

    /// Returns the problems of a configuration, without their positions.
    pub(super) fn problems_of(&self, text: &str) -> Vec<String> {
        reading(text, self.dir.path())
            .problems
            .lines()
            .map(|line| line.replace(&self.dir.path().display().to_string(), "DIR"))
            .map(|line| {
                let (_, expected) = line.split_once(": ").unwrap();
                expected.to_owned()
            })
            .collect()
    }
}

pub(super) const ALL: &str =
    r#"cert = "server.crt", key = "server.key", client_ca = "ca.crt", crl = "ca.crl""#;

/// [`PLAIN`] with TLS. If the listener requests certificates, the client is matched by name.
pub(super) fn with_tls(tls: &str) -> String {
    let text = PLAIN.replace(
        "upstream = \"web\"\n",
        &format!("upstream = \"web\"\ntls = {{ {tls} }}\n"),
    );
    by_name(text)
}

/// Lets the client in a variant of [`PLAIN`] be matched by name if a listener requests
/// certificates. A rule with only `source` would cause a warning.
pub(super) fn by_name(text: String) -> String {
    if text.contains("client_auth = \"none\"") {
        return text;
    }
    text.replace("source = \"10.0.0.0/8\"", "cn = \"office\"")
}
