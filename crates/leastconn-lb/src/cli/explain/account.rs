//! What became of a client, step by step.

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use leastconn::{ClientId, Limiter, Reason, net};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use super::rules::{self, Tried};
use leastconn_server::{
    authorization::{AuthInput, authorize},
    client_chain::{ChainStore, ClientChain},
    config::{Listener, MatchKey},
    identity::{self, Ambiguous, Certificate},
    policy::{Grant, Matched},
    snapshot::Snapshot,
    tls,
};
use leastconn_tls::settings::ClientAuth;

/// What is asked about.
pub(super) struct Asked<'a> {
    /// The client's certificate and those above it; empty: it shows none.
    pub(super) chain: &'a [CertificateDer<'static>],
    pub(super) source: IpAddr,
    /// In lower case, as a ClientHello is read.
    pub(super) sni: Option<String>,
    pub(super) now: Timestamp,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub(super) struct Account {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<Shown>,
    pub(super) source: IpAddr,
    /// Nobody said from where it connects.
    pub(super) source_assumed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sni: Option<String>,
    pub(super) listeners: Vec<AtListener>,
    /// Some listener lets it in.
    pub(super) admitted: bool,
}

/// What a certificate says.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) subject: String,
    pub(super) issuer: String,
    pub(super) not_before: String,
    pub(super) not_after: String,
    /// Certificates that came with it.
    pub(super) above: usize,
    /// What a rule could name it by.
    pub(super) candidates: Vec<String>,
    /// What rules can ask for besides.
    pub(super) attributes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ambiguous: Option<String>,
    /// Likely mistakes of whoever issued it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hints: Vec<String>,
}

/// What happens at one listener. What was not come to is left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct AtListener {
    pub(super) listener: String,
    pub(super) trust: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rules: Option<Tried>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shadow: Option<ShadowVerdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) servers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate_limit: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_conns: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<String>,
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Rate {
    pub(super) rate: f64,
    pub(super) burst: u32,
}

#[derive(Debug, Serialize)]
pub(super) struct ShadowVerdict {
    pub(super) client: String,
    pub(super) outcome: &'static str,
}

/// A refusal, with its words.
type Refused = (Reason, Option<String>);

impl Account {
    pub(super) fn of(
        asked: &Asked<'_>,
        source_assumed: bool,
        snapshot: &Snapshot,
        listeners: &[&Listener],
    ) -> Result<Self, String> {
        let read = (!asked.chain.is_empty()).then(|| {
            let chains = Arc::new(ChainStore::default());
            let interned = chains.intern(asked.chain.to_vec());
            interned.map_err(|unreadable| unreadable.error)
        });
        let mut answers = Vec::new();
        for &listener in listeners {
            answers.push(at_listener(asked, read.as_ref(), snapshot, listener)?);
        }
        Ok(Self {
            certificate: asked
                .chain
                .first()
                .map(|leaf| Shown::new(leaf, asked, read.as_ref())),
            source: asked.source,
            source_assumed,
            sni: asked.sni.clone(),
            admitted: answers
                .iter()
                .any(|answer| answer.outcome == Reason::Ok.as_str()),
            listeners: answers,
        })
    }
}

type Read = Result<Arc<ClientChain>, Ambiguous>;

impl Shown {
    fn new(leaf: &CertificateDer<'_>, asked: &Asked<'_>, read: Option<&Read>) -> Self {
        let parsed = X509Certificate::from_der(leaf)
            .ok()
            .map(|(_, parsed)| parsed);
        let said = |what: fn(&X509Certificate<'_>) -> String| {
            parsed.as_ref().map_or_else(|| "?".to_owned(), what)
        };
        let chain = read.and_then(|read| read.as_ref().ok());
        let certificate = chain.map(|chain| &*chain.certificate);
        let all = |keys: &[MatchKey]| {
            let keys = keys.iter().flat_map(|&key| {
                let texts = certificate.map_or(&[][..], |read| key.values_in(read));
                texts
                    .iter()
                    .map(move |text| format!("{}:{text}", key.as_str()))
            });
            keys.collect()
        };
        Self {
            subject: said(|parsed| parsed.subject().to_string()),
            issuer: said(|parsed| parsed.issuer().to_string()),
            not_before: said(|parsed| moment(parsed.validity().not_before.timestamp())),
            not_after: said(|parsed| moment(parsed.validity().not_after.timestamp())),
            above: asked.chain.len() - 1,
            candidates: all(&[MatchKey::Cn, MatchKey::Dns, MatchKey::Uri, MatchKey::Spki]),
            attributes: all(&[MatchKey::Ou, MatchKey::IssuerCn]),
            // Also of one that is not read any further.
            serial: parsed
                .as_ref()
                .map(|parsed| identity::serial(parsed.raw_serial())),
            hints: certificate.map_or_else(Vec::new, ip_in_dns),
            ambiguous: read.and_then(|read| read.as_ref().err().map(ToString::to_string)),
        }
    }
}

fn ip_in_dns(certificate: &Certificate) -> Vec<String> {
    let names = certificate.dns.iter();
    let addresses = names.filter(|name| name.parse::<IpAddr>().is_ok());
    let hint = |name| {
        format!("`{name}` is an IP address given as a DNS name; IP addresses identify no client")
    };
    addresses.map(hint).collect()
}

fn moment(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

fn at_listener(
    asked: &Asked<'_>,
    read: Option<&Read>,
    snapshot: &Snapshot,
    listener: &Listener,
) -> Result<AtListener, String> {
    let mut answer = AtListener {
        listener: listener.name.to_string(),
        ..AtListener::default()
    };
    let decision = match handshake(asked, read, listener, &mut answer)? {
        Ok(chain) => {
            let input = AuthInput {
                listener: &listener.name,
                source: asked.source.to_canonical(),
                chain,
                sni: listener.tls.as_ref().and(asked.sni.as_deref()),
                open: None,
            };
            decide(asked, &input, snapshot, &mut answer)
        }
        Err(refused) => Err(refused),
    };
    let (reason, detail) = decision.err().unwrap_or((Reason::Ok, None));
    answer.outcome = reason.as_str();
    answer.detail = detail;
    Ok(answer)
}

/// The handshake: returns the client's chain if the listener requires one and trusts it.
fn handshake<'a>(
    asked: &Asked<'_>,
    read: Option<&'a Read>,
    listener: &Listener,
    answer: &mut AtListener,
) -> Result<Result<Option<&'a ClientChain>, Refused>, String> {
    let tls = match &listener.tls {
        None => {
            answer.trust = "no TLS: clients are identified by address".to_owned();
            return Ok(Ok(None));
        }
        Some(tls) if tls.settings.client_auth == ClientAuth::None => {
            answer.trust =
                "no certificate is required: clients are identified by address".to_owned();
            return Ok(Ok(None));
        }
        Some(tls) => tls,
    };
    let (Some((leaf, above)), Some(read)) = (asked.chain.split_first(), read) else {
        answer.trust = "a certificate is required, and none is shown".to_owned();
        return Ok(Err((Reason::NoCertificate, None)));
    };
    if let Err(error) = tls::trusts(&tls.settings, listener.max_intermediates, leaf, above)
        .map_err(|error| error.to_string())?
    {
        answer.trust = "not trusted".to_owned();
        return Ok(Err((error.reason(), Some(error.to_string()))));
    }
    answer.trust = if tls.settings.material.crls.is_empty() {
        "trusted, in time; there is no revocation list".to_owned()
    } else {
        "trusted, in time, not revoked".to_owned()
    };
    Ok(match read {
        Ok(chain) => Ok(Some(&**chain)),
        Err(ambiguous) => Err((ambiguous.reason(), Some(ambiguous.to_string()))),
    })
}

/// Authorization and limits, as for a connection.
fn decide(
    asked: &Asked<'_>,
    input: &AuthInput<'_>,
    snapshot: &Snapshot,
    answer: &mut AtListener,
) -> Result<(), Refused> {
    let policy = &snapshot.policy;
    if let Some(listener) = snapshot.listener(input.listener) {
        let rules = input.for_rules(listener);
        answer.rules = Some(rules::tried(policy, &rules, asked.now));
        if let Some(shadow) = policy.shadow(&rules, asked.now) {
            let outcome = shadow
                .grant(&listener.routing, input.sni)
                .map_or_else(|denied| denied.reason(), |_| Reason::Ok);
            answer.shadow = Some(ShadowVerdict {
                client: shadow.client().to_owned(),
                outcome: outcome.as_str(),
            });
        }
        if let Ok(matched) = policy.identify(&rules, asked.now) {
            describe(&matched, answer);
        }
    }
    let grant = authorize(snapshot, input, asked.now)
        .map_err(|refusal| (refusal.reason(), Some(refusal.to_string())))?;
    admit(&grant, answer)
}

/// The limits, with a token bucket that nobody has used, and the servers.
fn admit(grant: &Grant, answer: &mut AtListener) -> Result<(), Refused> {
    let permit = Limiter::new(1, net::now())
        .admit(
            &ClientId::from(grant.identity().as_str()),
            grant.limits(),
            net::now(),
        )
        .map_err(|refusal| (refusal.reason(), Some(refusal.to_string())))?;
    let (pool, selector) = grant.servers(&permit);
    answer.upstream = Some(pool.id().to_string());
    let candidates = pool.candidates(selector);
    answer.servers = candidates
        .members()
        .iter()
        .map(|member| member.server.id().to_string())
        .collect();
    Ok(())
}

fn describe(matched: &Matched<'_>, answer: &mut AtListener) {
    let rule = matched.rule();
    let limits = rule.limits();
    answer.client = Some(matched.client().to_owned());
    answer.identity = Some(matched.identity().to_string());
    answer.rate_limit = limits.rate.map(|rate| Rate {
        rate: rate.per_second(),
        burst: rate.burst().get(),
    });
    answer.max_conns = limits.max_conns.map(std::num::NonZeroU32::get);
    answer.expires = rule.expires().map(|at| at.to_string());
}
