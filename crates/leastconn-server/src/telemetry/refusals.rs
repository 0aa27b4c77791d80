//! The connections that were refused last, for operators: whose they were, why, and what
//! was known of them. Each is in the access log too, which may be filtered or elsewhere.

use std::collections::VecDeque;

use leastconn::Reason;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How many are kept; the oldest go first.
pub const KEPT: usize = 200;

/// Names of a certificate that are kept, and the characters of each: a flood of refusals
/// must not fill the memory.
pub const MAX_NAMES: usize = 8;
const MAX_CHARACTERS: usize = 256;

/// The last refusals.
#[derive(Debug, Default)]
pub struct RecentRefusals(Mutex<VecDeque<RecentRefusal>>);

/// A connection that was refused a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Refusal")]
pub struct RecentRefusal {
    /// Its ID.
    pub connection: u64,
    /// When it was accepted.
    pub time: String,
    /// The listener.
    pub listener: String,
    /// Where it came from.
    pub source: String,
    /// The balancer in front, whose PROXY header named `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// The rule that matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Who the client is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Names in its certificate, if that was trusted: `cn:…`, `dns:…`, `uri:…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// The subject of a certificate that was not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The issuer of that certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The certificate's serial number, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// The server name that it asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// The reason code.
    pub outcome: String,
    /// What happened, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl RecentRefusals {
    /// Adds one.
    pub fn push(&self, refusal: RecentRefusal) {
        let mut kept = self.lock();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(refusal);
    }

    /// The newest `limit` of those that `wanted` holds for, the newest first, and how many
    /// it holds for.
    pub fn newest(
        &self,
        limit: usize,
        wanted: impl Fn(&RecentRefusal) -> bool,
    ) -> (Vec<RecentRefusal>, usize) {
        let kept = self.lock();
        let found = kept.iter().rev().filter(|refusal| wanted(refusal));
        let total = found.clone().count();
        (found.take(limit).cloned().collect(), total)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RecentRefusal>> {
        self.0.lock()
    }
}

impl RecentRefusal {
    /// Whether one of its texts has this in it, which is in lower case.
    pub fn mentions(&self, lower: &str) -> bool {
        let optional = [
            &self.proxy,
            &self.client,
            &self.identity,
            &self.subject,
            &self.issuer,
            &self.serial,
            &self.sni,
            &self.detail,
        ];
        [&self.listener, &self.source, &self.outcome]
            .into_iter()
            .chain(optional.into_iter().flatten())
            .chain(&self.names)
            .any(|text| text.to_lowercase().contains(lower))
    }
}

/// Whether a connection that ended so never had a server.
pub const fn is_refusal(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::HandshakeTimeout
            | Reason::HandshakeFailed
            | Reason::NotTls
            | Reason::NoCertificate
            | Reason::UntrustedCertificate
            | Reason::ExpiredCertificate
            | Reason::RevokedCertificate
            | Reason::CrlExpired
            | Reason::AmbiguousIdentity
            | Reason::UnknownClient
            | Reason::NotAllowed
            | Reason::RateLimited
            | Reason::TooManyConnections
            | Reason::Overloaded
            | Reason::NoServerAvailable
            | Reason::ConnectFailed
    )
}

/// At most so many characters of a text as are kept, then `…`.
pub fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_come_first() {
        let refusals = RecentRefusals::default();
        for connection in 0..KEPT as u64 + 50 {
            refusals.push(RecentRefusal {
                connection,
                outcome: if connection % 2 == 0 {
                    "blocked"
                } else {
                    "not_allowed"
                }
                .to_owned(),
                ..RecentRefusal::default()
            });
        }
        let (all, total) = refusals.newest(1000, |_| true);
        assert_eq!((all.len(), total), (KEPT, KEPT));
        assert_eq!(all[0].connection, KEPT as u64 + 49);
        assert_eq!(all[KEPT - 1].connection, 50);
        let (some, total) = refusals.newest(3, |refusal| refusal.mentions("not_"));
        assert_eq!((some.len(), total), (3, KEPT / 2));
    }

    #[test]
    fn dashboard_tells_the_same_codes_refusals() {
        let script = include_str!("../dashboard/reasons.js");
        let codes = |table: &str| -> Vec<&str> {
            let (_, rest) = script
                .split_once(&format!("export const {table} = {{\n"))
                .unwrap();
            let (body, _) = rest.split_once("\n};").unwrap();
            body.lines()
                .map(|line| line.trim().split_once(':').unwrap().0)
                .collect()
        };
        let (refusals, endings) = (codes("REFUSALS"), codes("ENDINGS"));
        for reason in Reason::ALL {
            let is_in = [&refusals, &endings].map(|codes| codes.contains(&reason.as_str()));
            assert_eq!(
                is_in,
                [is_refusal(*reason), !is_refusal(*reason)],
                "{reason}"
            );
        }
        assert_eq!(refusals.len() + endings.len(), Reason::ALL.len());
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(bounded("short"), "short");
        let cut = bounded(&"ü".repeat(1000));
        assert_eq!(cut.chars().count(), MAX_CHARACTERS + 1);
        assert!(cut.ends_with('…'));
    }
}
