//! `tls` of a listener.

use std::{sync::Arc, time::Duration};

use rustls::pki_types::CertificateDer;

use leastconn_tls::{
    alpn::Alpn,
    pattern::Spki,
    settings::{
        ClientAuth, MAX_CA_NAMES, MinVersion, ServerMaterial, ServerSettings, ca_names_length,
    },
};

use super::{
    Tls, TlsTable,
    inspect::{self, Purpose},
    loader::Loader,
};
use crate::{
    Problems, defaults, duration,
    raw::{
        RawTls, Resumption,
        value::{At, DurationText},
    },
    surroundings::Surroundings,
};

/// Maximum time for which sessions can be resumed: rustls always advertises a lifetime of
/// one day for TLS 1.3 tickets.
const LONGEST_RESUMPTION: Duration = Duration::from_hours(24);

/// Loads the table. Returns `None` if an error was reported. `default_alpn` is used if the
/// table has no `alpn`.
pub(crate) fn load(
    raw: &At<RawTls>,
    surroundings: &Surroundings<'_>,
    default_alpn: Alpn,
    problems: &mut Problems,
) -> Option<Tls> {
    let mut loader = Loader::new("client_ca", surroundings, problems);
    let errors = loader.problems.errors();
    let RawTls {
        cert,
        key,
        client_ca,
        client_pins,
        crl,
        min_version,
        client_auth,
        resumption,
        resumption_lifetime,
        groups,
        ciphers,
        alpn,
    } = &raw.value;
    let client_auth_at = client_auth.as_ref();
    let client_auth = client_auth_at.map_or(ClientAuth::Required, |at| at.value.into());
    let chain = cert
        .as_ref()
        .and_then(|at| loader.chain(at, Purpose::Server));
    let key = loader.key_of(cert.as_ref(), key.as_ref(), &raw.span);
    let key = key.and_then(|(key, at)| {
        loader.check_key_pair(chain.as_deref()?, &key, [&cert.as_ref()?.span, &at.span]);
        Some(key)
    });
    let authorities = client_ca.as_ref().map(|at| loader.authorities(at, None));
    loader.warn_of_unused_crls(crl.as_ref());
    for text in crl.iter().flat_map(At::each) {
        loader.crls(&text, authorities.as_ref().map(|list| list.as_deref()));
    }
    let crls = loader.crl_store();
    let pins_at = client_pins.as_ref();
    let client_pins = loader.pins("client_pins", pins_at);
    if let Some(at) = pins_at {
        loader.check_client_pins(at, client_auth, client_ca.is_some());
    }
    match (client_auth, client_ca) {
        (ClientAuth::Required, None) if pins_at.is_none() && !surroundings.is_pruned(&raw.span) => {
            let place = client_auth_at.map_or(&raw.span, |at| &at.span);
            loader
                .problems
                .error("clients must present a certificate, but there is no `client_ca` to verify it")
                .at(place.clone())
                .note("the authorities of the system are never used for clients")
                .help(
                    "add `client_ca` or `client_pins`, or write `client_auth = \"none\"` to request \
                    no certificates",
                );
        }
        (ClientAuth::None, Some(at)) => {
            loader
                .problems
                .warning(
                    "`client_ca` has no effect: with `client_auth = \"none\"` no certificate is requested",
                )
                .at(at.span.clone());
        }
        _ => {}
    }
    let authorities = authorities.flatten();
    if let (Some(authorities), Some(at)) = (&authorities, client_ca)
        && loader.problems.errors() == errors
    {
        loader.check_crl_coverage(authorities, &crls, at);
        loader.check_trust_anchors(authorities, &raw.span);
        loader.check_ca_names_length(authorities, at);
    }
    let resumption = loader.resumption(resumption.as_ref(), resumption_lifetime.as_ref());
    let min_version = min_version
        .as_ref()
        .map_or(MinVersion::Tls12, |at| at.value.into());
    let algorithms =
        loader.algorithms(groups.as_ref(), ciphers.as_ref(), min_version, key.as_ref());
    let alpn = match alpn {
        Some(at) => loader.alpn(Some(at)),
        None => default_alpn,
    };
    if loader.problems.errors() > errors {
        return None;
    }
    Some(Tls {
        table: TlsTable::of_listener(
            &raw.value,
            surroundings.base_dir,
            (min_version, client_auth, resumption),
            &alpn,
            &algorithms,
        )
        .list("client_pins", client_pins.iter().map(Spki::as_str)),
        settings: ServerSettings {
            min_version,
            client_auth,
            client_pins,
            resumption,
            algorithms,
            alpn,
            material: Arc::new(ServerMaterial {
                cert_chain: chain?,
                key: key?,
                client_ca: authorities.unwrap_or_default(),
                crls: Arc::new(crls),
            }),
        },
        files: loader.files.into(),
    })
}

impl Loader<'_> {
    /// How long sessions can be resumed. `None`: resumption is off.
    fn resumption(
        &mut self,
        resumption: Option<&At<Resumption>>,
        lifetime: Option<&At<DurationText>>,
    ) -> Option<Duration> {
        let on = resumption.is_some_and(|at| at.value == Resumption::On);
        let Some(At { value, span }) = lifetime else {
            return on.then_some(defaults::RESUMPTION_LIFETIME);
        };
        let wrong = match duration::parse(&value.0) {
            Ok(Duration::ZERO) => "cannot be zero: write `resumption = \"off\"` instead".to_owned(),
            Ok(lifetime) if lifetime > LONGEST_RESUMPTION => {
                "cannot be longer than a day: clients discard sessions after a day".to_owned()
            }
            Ok(lifetime) => {
                if !on {
                    self.problems
                        .warning(
                            "`resumption_lifetime` has no effect without `resumption = \"on\"`",
                        )
                        .at(span.clone());
                }
                return on.then_some(lifetime);
            }
            Err(error) => error.to_string(),
        };
        let default = duration::text(defaults::RESUMPTION_LIFETIME);
        self.problems
            .error(format!("`resumption_lifetime` {wrong}"))
            .at(span.clone())
            .help(format!("the default is {default:?}"));
        None
    }

    /// Warns if the CA names do not fit into a CertificateRequest.
    fn check_ca_names_length(&mut self, authorities: &[CertificateDer<'static>], at: &At<String>) {
        let names = authorities
            .iter()
            .filter_map(|der| inspect::parsed(der, |parsed| parsed.subject().as_raw().len()));
        let bytes = ca_names_length(names);
        if bytes > MAX_CA_NAMES {
            self.problems
                .warning(format!(
                    "{:?} holds {} authorities, whose names take {bytes} bytes: they are not sent \
                    to clients",
                    at.value,
                    authorities.len()
                ))
                .at(at.span.clone())
                .note(format!(
                    "with more than {MAX_CA_NAMES} bytes some clients (Java) abort the handshake; without \
                    the names, a client with several certificates must be configured to use the right one"
                ));
        }
    }
}
