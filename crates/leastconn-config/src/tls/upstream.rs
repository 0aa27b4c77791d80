//! `tls` of an upstream: verification of servers, and the balancer's own certificate.

use std::{ops::Range, sync::Arc};

use leastconn::ServerSpec;
use rustls::pki_types::ServerName;

use leastconn_tls::{
    pattern::{Spki, UriPattern},
    settings::{ClientMaterial, ClientSettings, KeyPair, MinVersion},
};

use super::{TlsTable, UpstreamTls, inspect::Purpose, loader::Loader};
use crate::{
    Problems,
    raw::{
        self, RawUpstreamTls,
        value::{At, OneOrMany},
    },
    surroundings::Surroundings,
};

/// Loads the table. Returns `None` if an error was reported. `servers` are the servers of the
/// upstream.
pub(crate) fn load(
    raw: &At<RawUpstreamTls>,
    servers: &[ServerSpec],
    surroundings: &Surroundings<'_>,
    problems: &mut Problems,
) -> Option<UpstreamTls> {
    let mut loader = Loader::new("ca", surroundings, problems);
    let errors = loader.problems.errors();
    let RawUpstreamTls {
        ca,
        server_name,
        uri,
        pin,
        cert,
        key,
        crl,
        min_version,
        groups,
        ciphers,
        alpn,
    } = &raw.value;
    let pins = loader.pins("pin", pin.as_ref());
    let uris = uris(&mut loader, uri.as_ref());
    if ca.is_none() && !surroundings.is_pruned(&raw.span) {
        report_missing_ca(&mut loader, raw);
    }
    let mut alone = Vec::new();
    let authorities = ca
        .as_ref()
        .and_then(|at| loader.authorities(at, Some(&mut alone)));
    loader.warn_of_unused_crls(crl.as_ref());
    for text in crl.iter().flat_map(At::each) {
        loader.crls(&text, ca.as_ref().map(|_| authorities.as_deref()));
    }
    let crls = loader.crl_store();
    if cert.is_none()
        && let Some(at) = key
        && !surroundings.is_pruned(&raw.span)
    {
        loader
            .problems
            .error("`key` without `cert`")
            .at(at.span.clone())
            .help("presenting a certificate to servers needs `cert`");
    }
    let own = own(&mut loader, cert.as_ref(), key.as_ref(), &raw.span);
    let min_version = min_version
        .as_ref()
        .map_or(MinVersion::Tls12, |at| at.value.into());
    let algorithms = loader.algorithms(groups.as_ref(), ciphers.as_ref(), min_version, None);
    let alpn = loader.alpn(alpn.as_ref());
    let server_name = server_name.as_ref().and_then(|at| name(&mut loader, at));
    if let (Some(authorities), Some(at)) = (&authorities, ca)
        && loader.problems.errors() == errors
    {
        loader.check_crl_coverage(authorities, &crls, at);
        loader.check_trust_anchors(authorities, &raw.span);
    }
    let mut table = TlsTable::new(surroundings.base_dir)
        .file("ca", ca.as_ref())
        .file("cert", cert.as_ref())
        .file("key", key.as_ref())
        .files_of("crl", crl.as_ref())
        .text("min_version", raw::MinVersion::from(min_version).as_str())
        .list("groups", algorithms.group_names())
        .list("ciphers", algorithms.suite_names())
        .list("alpn", alpn.names())
        .list("uri", uris.iter().map(UriPattern::as_str))
        .list("pin", pins.iter().map(Spki::as_str));
    if let Some(at) = &raw.value.server_name {
        table = table.text("server_name", &at.value);
    }
    let tls = UpstreamTls {
        settings: ClientSettings {
            min_version,
            algorithms,
            server_name,
            uris,
            pins,
            needs_authority: ca.is_some(),
            alpn,
            material: Arc::new(ClientMaterial {
                ca: authorities.unwrap_or_default(),
                self_signed: alone,
                crls: Arc::new(crls),
                own,
            }),
        },
        table,
        files: std::mem::take(&mut loader.files).into(),
    };
    let has_names_of_servers =
        raw.value.server_name.is_none() && raw.value.uri.is_none() && raw.value.pin.is_none();
    if has_names_of_servers && !surroundings.is_pruned(&raw.span) {
        check_server_names(&mut loader, &tls.settings, servers, raw);
    }
    let ClientMaterial {
        ca, self_signed, ..
    } = &*tls.settings.material;
    let trusts = !ca.is_empty() || !self_signed.is_empty() || !tls.settings.needs_authority;
    (loader.problems.errors() == errors && trusts).then_some(tls)
}

fn report_missing_ca(loader: &mut Loader<'_>, raw: &At<RawUpstreamTls>) {
    let needed_by = match (&raw.value.pin, &raw.value.server_name, &raw.value.uri) {
        (None, ..) => "",
        (Some(_), Some(_), _) => " for `server_name`",
        (Some(_), _, Some(_)) => " for `uri`",
        (Some(_), None, None) => return,
    };
    loader
        .problems
        .error(format!("`upstream.tls` needs `ca`{needed_by}"))
        .at(raw.span.clone())
        .help(
            "set `ca` to the authorities that issue the servers' certificates, or use only `pin`",
        );
}

fn uris(loader: &mut Loader<'_>, uris: Option<&At<OneOrMany>>) -> Vec<UriPattern> {
    let mut all = Vec::new();
    let Some(at) = uris else {
        return all;
    };
    if at.each().is_empty() && !loader.is_pruned(&at.span) {
        loader
            .problems
            .error("`uri` is an empty list")
            .at(at.span.clone())
            .help("remove the key, or list the URIs of the servers' certificates");
    }
    for text in at.each() {
        match UriPattern::parse(text.value) {
            Ok(pattern) => all.push(pattern),
            Err(error) => {
                loader
                    .problems
                    .error(format!("`uri`: {error}"))
                    .at(text.span);
            }
        }
    }
    all
}

fn own(
    loader: &mut Loader<'_>,
    cert: Option<&At<String>>,
    key: Option<&At<String>>,
    table: &Range<usize>,
) -> Option<KeyPair> {
    let chain = cert.and_then(|at| loader.chain(at, Purpose::Client));
    let key = loader.key_of(cert, key, table);
    let (cert_chain, (key, at)) = (chain?, key?);
    loader.check_key_pair(&cert_chain, &key, [&cert?.span, &at.span]);
    Some(KeyPair { cert_chain, key })
}

fn name(loader: &mut Loader<'_>, at: &At<String>) -> Option<ServerName<'static>> {
    let name = ServerName::try_from(at.value.clone()).ok();
    if name.is_none() {
        loader
            .problems
            .error(format!(
                "{:?} is neither a DNS name nor an IP address",
                at.value
            ))
            .at(at.span.clone())
            .note("the certificate of every server must contain it")
            .help("write a name such as \"web.internal\", without a port");
    }
    name
}

fn check_server_names(
    loader: &mut Loader<'_>,
    tls: &ClientSettings,
    servers: &[ServerSpec],
    raw: &At<RawUpstreamTls>,
) {
    for server in servers {
        if tls.name_of(&server.address).is_none() {
            loader
                .problems
                .error(format!(
                    "no certificate can contain `{}`, the host of server `{}`",
                    server.address.host(),
                    server.id
                ))
                .at(raw.span.clone())
                .help("add `server_name`, a name that the servers' certificates contain");
        }
    }
}
