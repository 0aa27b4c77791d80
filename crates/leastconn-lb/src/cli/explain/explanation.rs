//! Runs the steps of a connection for one client and records each result.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use leastconn::{
    ClientId, Limiter, Pool,
    net::{self, ConnectError},
};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::{
    rules::{self, RuleTrace},
    running::{Refusal, RunningBalancer},
};
use crate::figures::count;
use leastconn_config::{IpNet, Listener, MatchKey, Target};
use leastconn_server::{
    authorization::{AuthInput, authorize},
    policy::{Grant, Matched},
    reason_code::ReasonCode,
    snapshot::Snapshot,
    upstream::SourceStatus,
};
use leastconn_tls::settings::ClientAuth;
use leastconn_tls::{
    certificate::{self, Ambiguous, Certificate},
    client_chain::{ChainStore, ClientChain},
};

/// The client whose handling is explained.
pub(super) struct Query<'a> {
    /// The client certificate, then intermediates; empty if the client sends none.
    pub(super) chain: &'a [CertificateDer<'static>],
    pub(super) source: IpAddr,
    /// Server name in lower case, because the ClientHello parser also returns lower case.
    pub(super) sni: Option<String>,
    pub(super) now: Timestamp,
    /// `None` if no balancer runs with this configuration.
    pub(super) running: Option<&'a RunningBalancer>,
}

#[derive(Debug, Serialize)]
pub(super) struct Explanation {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<CertificateSummary>,
    pub(super) source: IpAddr,
    /// Whether `source` is the default because `--source` was not given.
    pub(super) source_assumed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sni: Option<String>,
    /// Whether the running balancer has reported its blocks and the state of its servers.
    pub(super) balancer_running: bool,
    pub(super) listeners: Vec<ListenerResult>,
    /// Whether at least one listener accepts the client.
    pub(super) admitted: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct CertificateSummary {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    /// Number of certificates after the leaf in the file.
    #[serde(rename = "above")]
    pub(super) intermediates: usize,
    /// Identities that a rule can match, such as `cn:client1.lb.com`.
    pub(super) candidates: Vec<String>,
    /// Other attributes that a rule can match, such as `ou:sales`.
    pub(super) attributes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ambiguous: Option<String>,
    /// Hints about likely mistakes in the certificate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hints: Vec<String>,
}

/// The result at one listener. Steps that were not reached are `None`.
#[derive(Debug, Default, Serialize)]
pub(super) struct ListenerResult {
    pub(super) listener: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) source_rate_limit: Option<SourceLimit>,
    pub(super) trust: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rules: Option<RuleTrace>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shadow: Option<ShadowResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) routing: Option<RoutingResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) servers: Vec<String>,
    /// The servers in `servers` that would not get a connection now, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) unavailable_servers: BTreeMap<String, String>,
    /// The servers in `servers` that are backups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) backup_servers: Vec<String>,
    /// Why `servers` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) no_servers: Option<String>,
    /// The upstream's discovery sources, with the servers that they have found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) discovery: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_limit: Option<RateLimit>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_conns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// What delays or endangers a connection that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(super) struct RateLimit {
    pub(super) rate: f64,
    pub(super) burst: u32,
}

/// `source_rate_limit` of the listener.
#[derive(Debug, Serialize)]
pub(super) struct SourceLimit {
    /// The address or network whose connections share the limit.
    pub(super) source: String,
    #[serde(flatten)]
    pub(super) limit: RateLimit,
}

/// `routes` of the listener.
#[derive(Debug, Serialize)]
pub(super) struct RoutingResult {
    pub(super) routes: Vec<RouteResult>,
    /// What the server name of the client selects.
    pub(super) selected: String,
}

#[derive(Debug, Serialize)]
pub(super) struct RouteResult {
    pub(super) sni: String,
    /// `None`: connections with this name are refused.
    pub(super) upstream: Option<String>,
}

fn target_text(target: &Target) -> String {
    match target.upstream() {
        Some(id) => format!("upstream `{id}`"),
        None => "no upstream (`upstream = false` refuses the connection)".to_owned(),
    }
}

impl RoutingResult {
    /// Returns `None` if the listener has no routes.
    fn new(listener: &Listener, sni: Option<&str>) -> Option<Self> {
        if listener.routes.is_empty() {
            return None;
        }
        let mut routes = listener.routes.iter();
        let otherwise = match &listener.upstream {
            Some(target) => target_text(target),
            None => "the upstream in `allow` of the client's rule".to_owned(),
        };
        let selected = match sni {
            None => format!("{otherwise}, because no server name is given (set it with --sni)"),
            Some(name) => match routes.find(|route| route.sni.matches(name)) {
                Some(route) => format!("{}, by its route", target_text(&route.upstream)),
                None => format!("{otherwise}, because no route matches `{name}`"),
            },
        };
        let routes = listener.routes.iter().map(|route| RouteResult {
            sni: route.sni.as_str().to_owned(),
            upstream: route.upstream.upstream().map(ToString::to_string),
        });
        Some(Self {
            routes: routes.collect(),
            selected,
        })
    }
}

#[derive(Debug, Serialize)]
pub(super) struct ShadowResult {
    pub(super) client: String,
    pub(super) outcome: &'static str,
}

impl From<leastconn::RateLimit> for RateLimit {
    fn from(rate: leastconn::RateLimit) -> Self {
        Self {
            rate: rate.per_second(),
            burst: rate.burst().get(),
        }
    }
}

impl Explanation {
    pub(super) fn new(
        query: &Query<'_>,
        source_assumed: bool,
        snapshot: &Snapshot,
        listeners: &[&Listener],
    ) -> Result<Self, String> {
        let chain = (!query.chain.is_empty()).then(|| {
            let chains = Arc::new(ChainStore::default());
            let interned = chains.intern(query.chain.to_vec());
            interned.map_err(|unreadable| unreadable.error)
        });
        let mut results = Vec::new();
        for &listener in listeners {
            results.push(explain_listener(query, chain.as_ref(), snapshot, listener)?);
        }
        Ok(Self {
            certificate: query
                .chain
                .first()
                .map(|der| CertificateSummary::new(der, query, chain.as_ref())),
            source: query.source,
            source_assumed,
            sni: query.sni.clone(),
            balancer_running: query.running.is_some(),
            admitted: results
                .iter()
                .any(|result| result.outcome == ReasonCode::Ok.as_str()),
            listeners: results,
        })
    }
}

type ParsedChain = Result<Arc<ClientChain>, Ambiguous>;

impl CertificateSummary {
    fn new(leaf: &CertificateDer<'_>, query: &Query<'_>, chain: Option<&ParsedChain>) -> Self {
        let parsed = X509Certificate::from_der(leaf)
            .ok()
            .map(|(_, parsed)| parsed);
        let field = |get: fn(&X509Certificate<'_>) -> String| {
            parsed.as_ref().map_or_else(|| "?".to_owned(), get)
        };
        let certificate = chain.and_then(|chain| chain.as_ref().ok());
        let certificate = certificate.map(|chain| &*chain.certificate);
        let values = |are_identities: bool| {
            let keys = MatchKey::TEXTS.into_iter();
            let keys = keys.filter(|key| key.is_identity() == are_identities);
            let keys = keys.flat_map(|key| {
                let texts = certificate.map_or(&[][..], |leaf| key.values_in(leaf));
                texts
                    .iter()
                    .map(move |text| format!("{}:{text}", key.as_str()))
            });
            keys.collect()
        };
        Self {
            subject: field(|parsed| parsed.subject().to_string()),
            issuer: field(|parsed| parsed.issuer().to_string()),
            not_before: field(|parsed| timestamp(parsed.validity().not_before.timestamp())),
            not_after: field(|parsed| timestamp(parsed.validity().not_after.timestamp())),
            intermediates: query.chain.len() - 1,
            candidates: values(true),
            attributes: values(false),
            // The serial number is shown even if the rest of the certificate is unusable.
            serial: parsed
                .as_ref()
                .map(|parsed| certificate::serial(parsed.raw_serial())),
            hints: certificate.map_or_else(Vec::new, ip_in_dns),
            ambiguous: chain.and_then(|chain| chain.as_ref().err().map(ToString::to_string)),
        }
    }
}

fn ip_in_dns(certificate: &Certificate) -> Vec<String> {
    let names = certificate.dns.iter();
    let addresses = names.filter(|name| name.parse::<IpAddr>().is_ok());
    let hint = |name| {
        format!(
            "`{name}` is an IP address given as a DNS name; clients cannot be identified by an IP address"
        )
    };
    addresses.map(hint).collect()
}

fn timestamp(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

fn explain_listener(
    query: &Query<'_>,
    chain: Option<&ParsedChain>,
    snapshot: &Snapshot,
    listener: &Listener,
) -> Result<ListenerResult, String> {
    let mut result = ListenerResult {
        listener: listener.name.to_string(),
        source_rate_limit: listener.source_rate_limit.map(|limit| SourceLimit {
            source: IpNet::of(query.source.to_canonical(), limit.prefixes).to_string(),
            limit: limit.rate.into(),
        }),
        routing: RoutingResult::new(listener, query.sni.as_deref()),
        ..ListenerResult::default()
    };
    let decision = match handshake(query, chain, listener, &mut result)? {
        Ok(chain) => {
            let input = AuthInput {
                listener: &listener.name,
                source: query.source.to_canonical(),
                chain,
                sni: listener.tls.as_ref().and(query.sni.as_deref()),
                open: None,
            };
            decide(query, &input, snapshot, &mut result)
        }
        Err(refusal) => Err(refusal),
    };
    let (reason, detail) = decision.err().unwrap_or((ReasonCode::Ok, None));
    result.outcome = reason.as_str();
    result.detail = detail;
    Ok(result)
}

/// Verifies the client certificate as in a handshake. Returns the client's chain if the
/// listener requires a certificate and trusts it.
fn handshake<'a>(
    query: &Query<'_>,
    parsed: Option<&'a ParsedChain>,
    listener: &Listener,
    result: &mut ListenerResult,
) -> Result<Result<Option<&'a ClientChain>, Refusal>, String> {
    let tls = match &listener.tls {
        None => {
            result.trust = "no TLS: clients are identified by source address".to_owned();
            return Ok(Ok(None));
        }
        Some(tls) if tls.settings.client_auth == ClientAuth::None => {
            result.trust =
                "client certificates are not requested: clients are identified by source address"
                    .to_owned();
            return Ok(Ok(None));
        }
        Some(tls) => tls,
    };
    let (Some((leaf, intermediates)), Some(parsed)) = (query.chain.split_first(), parsed) else {
        result.trust = "a client certificate is required, but none was given".to_owned();
        return Ok(Err((ReasonCode::NoCertificate, None)));
    };
    if let Err(error) = leastconn_tls::trusts(
        &tls.settings,
        listener.max_intermediates,
        leaf,
        intermediates,
    )
    .map_err(|error| error.to_string())?
    {
        result.trust = "not trusted".to_owned();
        return Ok(Err((error.kind().into(), Some(error.to_string()))));
    }
    result.trust = if tls.settings.material.crls.is_empty() {
        "trusted, within its validity period; no CRL is configured".to_owned()
    } else {
        "trusted, within its validity period, not revoked".to_owned()
    };
    Ok(match parsed {
        Ok(chain) => Ok(Some(&**chain)),
        Err(ambiguous) => Err((ReasonCode::AmbiguousIdentity, Some(ambiguous.to_string()))),
    })
}

/// Applies rules and limits by calling the code that handles connections.
fn decide(
    query: &Query<'_>,
    input: &AuthInput<'_>,
    snapshot: &Snapshot,
    result: &mut ListenerResult,
) -> Result<(), Refusal> {
    let policy = &snapshot.policy;
    if let Some(listener) = snapshot.listener(input.listener) {
        let rules = input.for_rules(listener);
        result.rules = Some(rules::trace(policy, &rules, query.now));
        if let Some(shadow) = policy.shadow(&rules, query.now) {
            let outcome = shadow
                .grant(&listener.routing, input.sni)
                .map_or_else(|denied| denied.reason(), |_| ReasonCode::Ok);
            result.shadow = Some(ShadowResult {
                client: shadow.client().to_owned(),
                outcome: outcome.as_str(),
            });
        }
        if let Ok(matched) = policy.identify(&rules, query.now) {
            record_rule(&matched, result);
        }
    }
    let grant = authorize(snapshot, input, query.now)
        .map_err(|refusal| (refusal.reason(), Some(refusal.to_string())))?;
    let sources = grant.upstream().sources();
    result.discovery = sources.iter().map(describe_source).collect();
    admit(query, &grant, result)
}

fn describe_source(source: &SourceStatus) -> String {
    match &source.error {
        Some(error) => format!("{}: {error}", source.kind),
        None => format!("{}: {}", source.kind, count(source.servers.len(), "server")),
    }
}

/// Checks the limits as if the client had no open connections and its token bucket were full.
/// Records the servers that the client may use, and checks whether one of them is available.
fn admit(query: &Query<'_>, grant: &Grant, result: &mut ListenerResult) -> Result<(), Refusal> {
    let permit = Limiter::new(1, net::now())
        .admit(
            &ClientId::from(grant.identity().as_str()),
            grant.limits(),
            net::now(),
        )
        .map_err(|refusal| (refusal.reason().into(), Some(refusal.to_string())))?;
    let (pool, selector) = grant.servers(&permit);
    result.upstream = Some(pool.id().to_string());
    let candidates = pool.candidates(selector);
    for member in candidates.members() {
        let name = member.server.id().to_string();
        if member.backup {
            result.backup_servers.push(name.clone());
        }
        result.servers.push(name);
    }
    if result.servers.is_empty() {
        result.no_servers = Some(why_no_servers(grant.client(), pool));
        let error = ConnectError::NoServerAvailable.to_string();
        return Err((ReasonCode::NoServerAvailable, Some(error)));
    }
    let Some(running) = query.running else {
        return Ok(());
    };
    result.unavailable_servers = running.describe(pool, &candidates).into_iter().collect();
    result.note = running.check(pool, &candidates)?;
    Ok(())
}

/// Explains why none of the servers of `pool` may be used.
fn why_no_servers(client: &str, pool: &Pool) -> String {
    let members = pool.members();
    if members.is_empty() {
        return format!(
            "upstream `{}` has no servers: none were discovered",
            pool.id()
        );
    }
    let names = members.iter().map(|member| member.server.id().to_string());
    let names = listed(names);
    format!(
        "`allow` of client `{client}` names none of the servers that upstream `{}` has at present: \
         {names}",
        pool.id()
    )
}

/// Lists the first names, and the number of the remaining names.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    /// Maximum number of names.
    const MAX_NAMES: usize = 5;
    let more = names.len().saturating_sub(MAX_NAMES);
    let mut listed: Vec<_> = names.take(MAX_NAMES).collect();
    if more > 0 {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}

fn record_rule(matched: &Matched<'_>, result: &mut ListenerResult) {
    let rule = matched.rule();
    let limits = rule.limits();
    result.client = Some(matched.client().to_owned());
    result.identity = Some(matched.identity().to_string());
    result.rate_limit = limits.rate.map(RateLimit::from);
    result.max_conns = limits.max_conns.map(std::num::NonZeroU32::get);
    result.expires = rule.expires().map(|at| at.to_string());
}
