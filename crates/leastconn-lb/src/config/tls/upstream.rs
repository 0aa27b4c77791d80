//! `tls` of an upstream: whom servers must be, and what they are shown.

use std::{path::Path, sync::Arc};

use jiff::Timestamp;
use leastconn::ServerSpec;
use rustls::pki_types::ServerName;

use super::{
    KeyPair, MinVersion, UpstreamTls, UpstreamTlsMaterial, Written, inspect::Purpose, load::Loader,
};
use crate::config::{
    Problems,
    raw::{RawUpstreamTls, value::At},
};

/// What the table says, if nothing of it is an error. `servers` are those that it
/// is for.
pub(crate) fn load(
    raw: &At<RawUpstreamTls>,
    servers: &[ServerSpec],
    base_dir: &Path,
    now: Timestamp,
    problems: &mut Problems,
) -> Option<UpstreamTls> {
    let mut loader = Loader::new("ca", base_dir, now, problems);
    let errors = loader.problems.errors();
    let RawUpstreamTls {
        ca,
        server_name,
        cert,
        key,
        crl,
        min_version,
        alpn,
    } = &raw.value;
    let mut alone = Vec::new();
    let authorities = ca
        .as_ref()
        .and_then(|at| loader.authorities(at, Some(&mut alone)));
    loader.lists_among_authorities(crl.as_ref());
    for text in crl.iter().flat_map(At::each) {
        // Without `ca` the table is refused already.
        loader.crls(&text, Some(authorities.as_deref()));
    }
    let crls = loader.crl_store();
    let own = own(&mut loader, cert.as_ref(), key.as_ref());
    let alpn = loader.alpn(alpn.as_ref());
    let server_name = server_name.as_ref().and_then(|at| name(&mut loader, at));
    if let (Some(authorities), Some(at)) = (&authorities, ca)
        && loader.problems.errors() == errors
    {
        loader.every_authority_is_covered(authorities, &crls, at);
        loader.anchors(authorities, &raw.span);
    }
    let min_version = min_version
        .as_ref()
        .map_or(MinVersion::Tls12, |at| at.value);
    let mut written = Written::new(base_dir)
        .file("ca", ca.as_ref())
        .file("cert", cert.as_ref())
        .file("key", key.as_ref())
        .files_of("crl", crl.as_ref())
        .text("min_version", min_version.text())
        .list("alpn", alpn.names());
    if let Some(at) = &raw.value.server_name {
        written = written.text("server_name", &at.value);
    }
    let tls = UpstreamTls {
        min_version,
        server_name,
        alpn,
        written,
        material: Arc::new(UpstreamTlsMaterial {
            ca: authorities.unwrap_or_default(),
            alone,
            crls: Arc::new(crls),
            own,
            files: std::mem::take(&mut loader.files),
        }),
    };
    if raw.value.server_name.is_none() {
        every_server_has_a_name(&mut loader, &tls, servers, raw);
    }
    let UpstreamTlsMaterial { ca, alone, .. } = &*tls.material;
    let trusts = !ca.is_empty() || !alone.is_empty();
    (loader.problems.errors() == errors && trusts).then_some(tls)
}

fn own(
    loader: &mut Loader<'_>,
    cert: Option<&At<String>>,
    key: Option<&At<String>>,
) -> Option<KeyPair> {
    let alone = match (cert, key) {
        (Some(cert), None) => Some((cert, "`cert` without `key`")),
        (None, Some(key)) => Some((key, "`key` without `cert`")),
        _ => None,
    };
    if let Some((at, message)) = alone {
        loader
            .problems
            .error(message)
            .at(at.span.clone())
            .help("a certificate is shown to servers only together with its key: write both");
    }
    let chain = cert.and_then(|at| loader.chain(at, Purpose::Client));
    let key_at = key;
    let key = key.and_then(|at| loader.key(at));
    let (cert_chain, key) = (chain?, key?);
    loader.fits(&cert_chain, &key, [&cert?.span, &key_at?.span]);
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
            .note("the certificate of every server must be for it")
            .help("write a name such as \"web.internal\", without a port");
    }
    name
}

fn every_server_has_a_name(
    loader: &mut Loader<'_>,
    tls: &UpstreamTls,
    servers: &[ServerSpec],
    raw: &At<RawUpstreamTls>,
) {
    for server in servers {
        if tls.name_of(&server.address).is_none() {
            loader
                .problems
                .error(format!(
                    "no certificate can be for `{}`, the host of server `{}`",
                    server.address.host(),
                    server.id
                ))
                .at(raw.span.clone())
                .help("add `server_name`, the name that the servers' certificates are for");
        }
    }
}
