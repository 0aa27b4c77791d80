//! TLS options for both clients and servers.

use std::path::Path;

use super::super::{
    super::{
        keystore,
        model::{Table, Value},
        pem,
        tls_names::{self, ALL_SUITES, requires_tls13},
    },
    options::{Section, Setting},
};

/// How the peer's certificate is verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verify {
    /// The peer must present a certificate.
    pub(super) requires_certificate: bool,
    /// The certificate must be issued by an authority in `CAfile`.
    pub(super) chain: bool,
    /// The certificate must be in `CAfile`.
    pub(super) peer: bool,
}

impl Verify {
    /// Applies the options in their order, those of the global part first. `verifyChain = no` and
    /// `verifyPeer = no` do not undo that an earlier option requires a certificate.
    pub(super) fn of(section: &Section) -> Self {
        let mut verify = Self::default();
        for option in verification(section) {
            let value = option.value.to_ascii_lowercase();
            match (option.name.as_str(), value.as_str()) {
                ("verify", level) => {
                    let level = level.parse().unwrap_or(2);
                    verify = Self {
                        requires_certificate: level >= 2,
                        chain: (1..=3).contains(&level),
                        peer: level >= 3,
                    };
                }
                ("verifychain", "yes") => {
                    verify.requires_certificate = true;
                    verify.chain = true;
                }
                ("verifypeer", "yes") => {
                    verify.requires_certificate = true;
                    verify.peer = true;
                }
                ("requirecert", "yes") => verify.requires_certificate = true,
                ("verifychain", "no") => verify.chain = false,
                ("verifypeer", "no") => verify.peer = false,
                ("requirecert", "no") => verify.requires_certificate = false,
                // stunnel does not start with other values.
                _ => {}
            }
        }
        verify
    }

    /// Whether certificates are verified at all.
    pub(super) fn is_on(self) -> bool {
        self.chain || self.peer
    }
}

/// Returns the options for [`Verify::of`] in their order.
pub(super) fn verification(section: &Section) -> Vec<&Setting> {
    let names = ["verify", "verifychain", "verifypeer", "requirecert"];
    let options = section.options.iter();
    options
        .filter(|option| names.contains(&option.name.as_str()))
        .collect()
}

/// Returns the reason why `verifyPeer` has no equivalent, if a CRL applies to its certificates.
pub(super) fn revoked_pins(section: &Section, verify: Verify) -> Option<(&Setting, &'static str)> {
    let crl = section.file("crlfile")?;
    let is_pinned = verify.peer && !verify.chain;
    is_pinned.then_some((
        crl,
        "pins are not compared with a CRL: remove revoked certificates from `CAfile`, remove \
         `CRLfile`, and import again",
    ))
}

/// Explains pins that are made from certificates.
pub(super) const PINNED: &str = "the pins are those of the certificates that were in this file when \
    it was imported: they do not follow later changes of the file";

/// Returns pins of the certificates in `CAfile`. Returns `None` if there are none, or if the file
/// cannot be read.
pub(super) fn pins(ca: &Setting, dir: Option<&Path>) -> Option<Vec<String>> {
    let path = dir.unwrap_or(Path::new("")).join(&ca.value);
    pem::key_pins(&path).filter(|pins| !pins.is_empty())
}

/// Translates `CAfile`, as `key`, and `CRLfile`.
pub(super) fn authorities(key: &'static str, ca: &Setting, section: &Section, tls: &mut Table) {
    tls.set(key, Value::text(&ca.value));
    if let Some(crl) = section.file("crlfile") {
        tls.set("crl", Value::text(&crl.value));
    }
}

/// Translates `cert`, and `key` if it is another file.
///
/// # Errors
/// If there is no private key.
pub(super) fn certificate(
    cert: &Setting,
    section: &Section,
    tls: &mut Table,
    dir: Option<&Path>,
) -> Result<(), String> {
    if keystore::is_pkcs12(&cert.value) {
        keystore::pkcs12(&cert.value, &cert.place, tls);
        return Ok(());
    }
    tls.set("cert", Value::text(&cert.value));
    match section.file("key").filter(|key| key.value != cert.value) {
        Some(key) => tls.set("key", Value::text(&key.value)),
        None if pem::lacks_key(&dir.unwrap_or(Path::new("")).join(&cert.value)) => {
            return Err(format!(
                "{} has no private key, and there is no `key`",
                cert.value
            ));
        }
        None => {}
    }
    Ok(())
}

/// Translates TLS versions, cipher suites and groups.
pub(super) fn common(section: &Section, tls: &mut Table) {
    let only = section.one("sslversion");
    let min = section.one("sslversionmin").or(only);
    if min.is_some_and(|option| option.value == "TLSv1.3") {
        tls.set("min_version", Value::text("1.3"));
    }
    for option in section.all("options") {
        match option.value.as_str() {
            "NO_TLSv1.2" | "NO_TLSv1_2" => tls.set("min_version", Value::text("1.3")),
            "NO_TLSv1.3" | "NO_TLSv1_3" => {
                tls.note(option.place.left_out("a maximum TLS version cannot be set"));
            }
            "NO_TICKET" => tls.note(
                option
                    .place
                    .remark("TLS 1.3 tickets are always on; each is valid for one connection"),
            ),
            _ => tls.note(option.place.remark("not needed")),
        }
    }
    if let Some(option) = only.filter(|option| option.value == "TLSv1.2") {
        tls.note(option.place.left_out("a maximum TLS version cannot be set"));
    }
    let mut suites: Vec<String> = Vec::new();
    for name in ["ciphersuites", "ciphers"] {
        let Some(option) = section.one(name) else {
            continue;
        };
        let list = tls_names::ciphers(&option.value);
        if !list.unsupported.is_empty() {
            let unknown = list.unsupported.join(", ");
            tls.note(
                option
                    .place
                    .left_out(format!("not supported as cipher suites: {unknown}")),
            );
        }
        if list.names.is_empty() && list.unsupported.is_empty() {
            tls.note(option.place.remark(ALL_SUITES));
        }
        suites.extend(list.names);
    }
    if !suites.is_empty() {
        let suites = tls_names::with_both_versions(suites, requires_tls13(tls));
        tls.set("ciphers", Value::list(suites));
    }
    if let Some(option) = section.one("curves").or(section.one("curve")) {
        let (known, unknown) = tls_names::groups(&option.value);
        if !known.is_empty() {
            tls.set("groups", Value::list(known));
        }
        if !unknown.is_empty() {
            tls.note(
                option
                    .place
                    .left_out(format!("not supported: {}", unknown.join(", "))),
            );
        }
    }
}
