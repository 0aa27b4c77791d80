//! Recently refused connections, for `ctl refusals` and the dashboard. The access log also contains
//! these connections, but may be filtered or stored on another machine.

use std::collections::VecDeque;

use leastconn_config::text::floor_escape_boundary;
use parking_lot::{Mutex, MutexGuard};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Number of refusals that are kept.
pub const KEPT: usize = 200;

/// Limits on the names of a certificate, so that a flood of refusals needs little memory.
pub const MAX_NAMES: usize = 8;
const MAX_CHARACTERS: usize = 256;

/// Ring buffer of refusals.
#[derive(Debug, Default)]
pub struct RecentRefusals(Mutex<VecDeque<RecentRefusal>>);

/// A refused connection, which was never assigned a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Refusal")]
pub struct RecentRefusal {
    /// ID of the connection.
    pub connection: u64,
    /// Time at which the connection was accepted.
    pub time: String,
    /// Name of the listener.
    pub listener: String,
    /// Address of the client.
    pub source: String,
    /// Address of the trusted proxy whose PROXY header contained `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Name of the matching rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Identity of the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Names in a verified certificate: `cn:…`, `dns:…`, `uri:…`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Subject of a rejected certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Issuer of a rejected certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Serial number of the certificate, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Server name (SNI) in the ClientHello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Reason code.
    pub outcome: String,
    /// Explanation of the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl RecentRefusals {
    pub fn push(&self, refusal: RecentRefusal) {
        let mut kept = self.lock();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(refusal);
    }

    /// The refusals by the time at which their connections were accepted, newest first.
    pub fn newest_first(&self) -> Vec<RecentRefusal> {
        let mut refusals: Vec<_> = self.lock().iter().rev().cloned().collect();
        // They were added when the connections ended, some of them after waiting for a server.
        refusals.sort_by(|a, b| b.time.cmp(&a.time));
        refusals
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<RecentRefusal>> {
        self.0.lock()
    }
}

/// Truncates a long, escaped text, with `…` at the end. Escape sequences are not split.
pub fn bounded(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARACTERS) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..floor_escape_boundary(text, end)]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason_code::ReasonCode;

    #[test]
    fn newest_refusals_are_kept_in_order() {
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
        let all = refusals.newest_first();
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0].connection, KEPT as u64 + 49);
        assert_eq!(all[KEPT - 1].connection, 50);
    }

    #[test]
    fn refusals_are_sorted_by_time() {
        let refusals = RecentRefusals::default();
        for (connection, second) in [(1, 4), (2, 6), (3, 5)] {
            refusals.push(RecentRefusal {
                connection,
                time: format!("2026-12-01T03:48:0{second}.123Z"),
                ..RecentRefusal::default()
            });
        }
        let order: Vec<_> = refusals
            .newest_first()
            .iter()
            .map(|one| one.connection)
            .collect();
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn dashboard_lists_the_same_refusal_codes() {
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
        for reason in ReasonCode::ALL {
            let is_in = [&refusals, &endings].map(|codes| codes.contains(&reason.as_str()));
            assert_eq!(
                is_in,
                [reason.is_refusal(), !reason.is_refusal()],
                "{reason}"
            );
        }
        assert_eq!(refusals.len() + endings.len(), ReasonCode::ALL.len());
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(bounded("short"), "short");
        let cut = bounded(&"ü".repeat(1000));
        assert_eq!(cut.chars().count(), MAX_CHARACTERS + 1);
        assert!(cut.ends_with('…'));
    }

    #[test]
    fn escape_sequences_are_kept_whole() {
        use leastconn_config::text::escape;

        for letters in 240..=MAX_CHARACTERS {
            let letters = "x".repeat(letters);
            let cut = bounded(&escape(&format!("{letters}\u{202e}{}", "y".repeat(50))));
            let rest = cut.strip_prefix(&letters).unwrap_or_default();
            let is_whole = rest.starts_with("\\u{202e}") || ["…", ""].contains(&rest);
            assert!(is_whole, "{cut}");
        }
    }
}
