//! The server side of TLS: the rustls configurations of one listener.

use std::sync::Arc;

use rustls::{
    NamedGroup, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup},
    server::NoServerSessionStorage,
};

use crate::{
    client_hello::Hello,
    provider::{provider, versions},
    sessions::{ConnectionSessions, Sessions},
    settings::{RecordLayer, ServerSettings},
    tls_error::TlsError,
    trust::Trust,
};

/// The TLS configuration of a listener, with the sessions that clients may resume.
#[derive(Clone, Debug)]
pub struct Server {
    pub(super) config: Arc<ServerConfig>,
    /// For each key exchange group, in the order given in the settings, a configuration that is
    /// restricted to this group. With these configurations, the settings decide the order of
    /// preference. rustls itself would follow the client's order.
    by_group: Arc<[(NamedGroup, Arc<ServerConfig>)]>,
    pub(super) records: RecordLayer,
    pub(super) sessions: Option<Arc<Sessions>>,
}

/// Creates a server from a rustls configuration, for tests and benchmarks. It uses direct
/// records if the configuration allows secrets to be extracted.
impl From<Arc<ServerConfig>> for Server {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self {
            records: if config.enable_secret_extraction {
                RecordLayer::Direct
            } else {
                RecordLayer::Rustls
            },
            config,
            by_group: Arc::default(),
            sessions: None,
        }
    }
}

impl Server {
    pub(super) fn config(&self, hello: &Hello) -> ConnectionConfig {
        let config = hello
            .preferred_group(self.by_group.iter().map(|(group, _)| *group))
            .and_then(|group| self.by_group.iter().find(|(known, _)| *known == group))
            .map_or(&self.config, |(_, config)| config);
        match &self.sessions {
            Some(sessions) if hello.may_resume() => {
                let (config, sessions) = sessions.for_connection(config);
                ConnectionConfig {
                    config: Arc::new(config),
                    sessions: Some(sessions),
                }
            }
            _ => ConnectionConfig::from(Arc::clone(config)),
        }
    }
}

pub(super) struct ConnectionConfig {
    pub(super) config: Arc<ServerConfig>,
    /// The sessions of this connection. Call [`ConnectionSessions::complete`] when the
    /// handshake is complete.
    pub(super) sessions: Option<Arc<ConnectionSessions>>,
}

impl From<Arc<ServerConfig>> for ConnectionConfig {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            sessions: None,
        }
    }
}

/// Creates the configuration of a listener. Without `trust`, clients are not asked for a
/// certificate.
///
/// # Errors
/// If rustls rejects the settings.
pub fn server(
    tls: &ServerSettings,
    trust: Option<&Trust>,
    records: RecordLayer,
) -> Result<Server, TlsError> {
    let all = provider(&tls.algorithms, records);
    let versions = versions(tls.min_version, &all);
    let spoken = |group: &&&'static dyn SupportedKxGroup| {
        let mut versions = versions.iter();
        versions.any(|version| group.usable_for_version(version.version))
    };
    let by_group = all.kx_groups.iter().filter(spoken).map(|group| {
        let provider = CryptoProvider {
            kx_groups: vec![*group],
            ..all.clone()
        };
        let config = server_config(tls, trust, provider, &versions, records)?;
        Ok((group.name(), Arc::new(config)))
    });
    let by_group = by_group.collect::<Result<_, TlsError>>()?;
    let config = server_config(tls, trust, all, &versions, records)?;
    Ok(Server {
        by_group,
        records,
        config: Arc::new(config),
        sessions: tls.resumption.map(|lifetime| {
            let verifier = trust.map(Trust::verifier);
            Arc::new(Sessions::new(verifier, lifetime))
        }),
    })
}

fn server_config(
    tls: &ServerSettings,
    trust: Option<&Trust>,
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
    records: RecordLayer,
) -> Result<ServerConfig, TlsError> {
    let builder =
        ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(versions)?;
    let material = &tls.material;
    let builder = match trust {
        None => builder.with_no_client_auth(),
        Some(trust) => builder.with_client_cert_verifier(trust.verifier()),
    };
    let mut config =
        builder.with_single_cert(material.cert_chain.clone(), material.key.clone_key())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.ignore_client_order = true;
    config.enable_secret_extraction = records == RecordLayer::Direct;
    config.alpn_protocols = tls.alpn.protocols();
    Ok(config)
}
