//! One line of the access log.

use std::{borrow::Cow, cell::RefCell, fmt::Write};

use jiff::Timestamp;
use leastconn_config::text::escaped;
use serde::Serialize;

use crate::registry::DisplayAddress;

/// The fields of the line. Fields whose value is unknown are left out.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) time: String,
    pub(super) connection: u64,
    pub(super) listener: &'a str,
    pub(super) source: DisplayAddress,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proxy: Option<DisplayAddress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) serial: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) tls_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cipher: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) resumed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alpn: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) tls_offered: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) certificate: Option<RejectedCertificate<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alert_sent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) alert_received: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) server: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attempts: Option<u32>,
    pub(super) bytes_received: u64,
    pub(super) bytes_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) handshake_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connect_ms: Option<f64>,
    pub(super) duration_ms: f64,
    pub(super) outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shadow: Option<Shadow<'a>>,
    /// An explanation of the outcome, if the reason code alone is not enough.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<Cow<'a, str>>,
}

/// A time in UTC with milliseconds, in the format of RFC 3339.
pub(super) fn time_text(time: Timestamp) -> String {
    thread_local! {
        /// A second and its text without the final `Z`: most lines have the time of a line shortly
        /// before.
        static SECOND: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    if time < Timestamp::UNIX_EPOCH {
        return format!("{time:.3}");
    }
    let second = time.as_second();
    SECOND.with_borrow_mut(|(known, date)| {
        if *known != second {
            *known = second;
            *date = format!("{time:.0}");
            date.pop();
        }
        let mut text = String::with_capacity(24);
        text.push_str(date);
        // Writing to a string cannot fail.
        let _ = write!(text, ".{:03}Z", time.subsec_millisecond());
        text
    })
}

impl Line<'_> {
    /// The line as JSON, with a line feed.
    pub(super) fn to_text(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(512);
        // Serializing a plain struct into memory cannot fail.
        let _ = serde_json::to_writer(&mut text, self);
        text.push(b'\n');
        text
    }
}

/// The decision of a rule in shadow mode.
#[derive(Serialize)]
pub(super) struct Shadow<'a> {
    pub(super) client: &'a str,
    pub(super) outcome: &'static str,
}

/// Unverified contents of a certificate that was rejected.
#[derive(Serialize)]
pub(super) struct RejectedCertificate<'a> {
    pub(super) subject: Cow<'a, str>,
    pub(super) issuer: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) not_after: Option<String>,
}

impl<'a> RejectedCertificate<'a> {
    /// Cuts subject and issuer to `longest` bytes.
    pub(super) fn new(rejected: &'a leastconn_tls::RejectedCertificate, longest: usize) -> Self {
        Self {
            subject: escaped(&rejected.subject, longest),
            issuer: escaped(&rejected.issuer, longest),
            not_after: rejected.not_after.map(|at| at.to_string()),
        }
    }
}
