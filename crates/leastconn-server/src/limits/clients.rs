//! Limits on client identities: token buckets and connection counts.
//!
//! Clients identified by source address and clients identified by certificate have separate tables,
//! because an attacker can use any number of source addresses and must not displace clients that
//! have a certificate. A full table refuses no client. Instead, it forgets clients without
//! connections, starting with those whose buckets are fullest.
//!
//! Each identity takes about 240 bytes, including a name of up to `MAX_NAME` bytes. In total,
//! sources take at most 62 MB and certificates at most 250 MB. The maximum for certificates is
//! reached only if a million certificates are used within the time that a bucket takes to fill. In
//! a fleet, each limited identity needs about twice as much.

use std::{borrow::Cow, num::NonZeroU32, time::Instant};

use aws_lc_rs::digest::{SHA256, digest};
use leastconn::{
    Admission, Change, ClientId, Limiter, Limits, Permit, Refusal, Sharing, UsageReport,
};

/// Capacity of the table of clients that are identified by source address.
const MAX_SOURCES: usize = 1 << 18;

/// Capacity of the table of identities from certificates.
const MAX_CERTIFICATES: usize = 1 << 20;

/// Maximum length of a stored name in bytes. A longer name is stored as its hash.
const MAX_NAME: usize = 256;

/// The limiters of a process.
#[derive(Debug)]
pub struct ClientLimiters {
    sources: Limiter,
    certificates: Limiter,
}

impl ClientLimiters {
    /// `epoch` must not be later than any `now` that is passed to the other methods.
    pub fn new(epoch: Instant) -> Self {
        Self::with_capacities(MAX_SOURCES, MAX_CERTIFICATES, epoch)
    }

    fn with_capacities(sources: usize, certificates: usize, epoch: Instant) -> Self {
        Self {
            sources: Limiter::forgetful(sources, epoch),
            certificates: Limiter::forgetful(certificates, epoch),
        }
    }

    /// Admits one connection of `client` under `limits`, or refuses it.
    ///
    /// # Errors
    /// If the client is over a limit.
    pub fn admit(
        &self,
        client: &ClientId,
        limits: &Limits,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        self.table(client).admit(&key(client), limits, now)
    }

    /// Sets a function that is called when [`Self::usage_reports`] has something new to report.
    #[must_use]
    pub fn on_change(self, on_change: impl Fn(Change) + Send + Sync + Clone + 'static) -> Self {
        Self {
            sources: self.sources.on_change(on_change.clone()),
            certificates: self.certificates.on_change(on_change),
        }
    }

    /// Like [`Self::admit`], under limits that the members of a fleet share.
    ///
    /// # Errors
    /// If the client is over a limit.
    pub fn admit_shared(
        &self,
        client: &ClientId,
        limits: &Limits,
        sharing: Sharing,
        now: Instant,
    ) -> Result<Admission, Refusal> {
        self.table(client)
            .admit_shared(&key(client), limits, sharing, now)
    }

    /// See [`Limiter::share_open`].
    pub fn share_open(&self, client: &ClientId, limits: &Limits, now: Instant) {
        self.table(client).share_open(&key(client), limits, now);
    }

    /// Returns the usage of up to `max` clients that the fleet's store does not know yet. A quarter
    /// of the reports is reserved for sources, so that certificates cannot displace them.
    pub fn usage_reports(&self, max: usize, now: Instant) -> Vec<UsageReport> {
        let mut reports = self.certificates.usage_reports(max - max / 4, now);
        reports.extend(self.sources.usage_reports(max - reports.len(), now));
        reports
    }

    /// See [`Limiter::repeat_reports`].
    pub fn repeat_reports(&self, now: Instant) {
        self.sources.repeat_reports(now);
        self.certificates.repeat_reports(now);
    }

    /// See [`Limiter::unanswered`].
    pub fn unanswered(&self, members: NonZeroU32, now: Instant) {
        self.sources.unanswered(members, now);
        self.certificates.unanswered(members, now);
    }

    /// See [`Limiter::stop_sharing`].
    pub fn stop_sharing(&self, now: Instant) {
        self.sources.stop_sharing(now);
        self.certificates.stop_sharing(now);
    }

    /// The number of open connections of `client`.
    pub fn open(&self, client: &ClientId) -> u64 {
        self.table(client).open(&key(client))
    }

    /// Whether no client is known.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty() && self.certificates.is_empty()
    }

    /// Forgets clients that are idle at `now`.
    pub fn forget_idle(&self, now: Instant) {
        self.sources.forget_idle(now);
        self.certificates.forget_idle(now);
    }

    /// The table for this identity. Connections matched by a rule in shadow mode count under
    /// `shadow:RULE:IDENTITY`.
    fn table(&self, client: &ClientId) -> &Limiter {
        let name = client.as_str();
        let shadowed = name
            .strip_prefix("shadow:")
            .and_then(|name| Some(name.split_once(':')?.1));
        if shadowed.unwrap_or(name).starts_with("source:") {
            &self.sources
        } else {
            &self.certificates
        }
    }
}

fn key(client: &ClientId) -> Cow<'_, ClientId> {
    let name = client.as_str();
    if name.len() <= MAX_NAME {
        return Cow::Borrowed(client);
    }
    let hash = digest(&SHA256, name.as_bytes());
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Cow::Owned(ClientId::from(format!("sha256:{hex}")))
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use leastconn::{RateLimit, net};

    use super::*;

    fn slow() -> Limits {
        Limits::default()
            .rate(RateLimit::new(0.0001, NonZeroU32::MIN))
            .max_conns(NonZeroU32::new(1))
    }

    #[test]
    fn sources_do_not_push_out_certificates() {
        let now = net::now();
        let limiters = ClientLimiters::with_capacities(100, 100, now);
        let tenant = ClientId::from("cn:tenant");
        drop(limiters.admit(&tenant, &slow(), now).unwrap());
        for n in 0..10_000 {
            let source = ClientId::from(format!("source:2001:db8:{n:x}::/64"));
            drop(limiters.admit(&source, &slow(), now).unwrap());
            let shadow = ClientId::from(format!("shadow:rule:source:2001:db8:{n:x}::/64"));
            drop(limiters.admit(&shadow, &slow(), now).unwrap());
        }
        assert_eq!(limiters.certificates.len(), 1);
        assert!(limiters.sources.len() <= 100);
        let again = limiters.admit(&tenant, &slow(), now).unwrap_err();
        assert!(matches!(again, Refusal::RateLimited { .. }), "{again:?}");
    }

    #[test]
    fn full_table_refuses_no_certificate() {
        let now = net::now();
        let limiters = ClientLimiters::with_capacities(100, 100, now);
        let held: Vec<_> = (0..1_000)
            .map(|n| {
                let client = ClientId::from(format!("cn:client{n}"));
                limiters.admit(&client, &slow(), now).unwrap()
            })
            .collect();
        // A client with a connection is never forgotten, because it could then exceed its limit.
        let first = limiters.admit(&ClientId::from("cn:client0"), &slow(), now);
        assert_eq!(first.unwrap_err(), Refusal::TooManyConnections);
        drop(held);
        let later = now + Duration::from_secs(1);
        let another = ClientId::from("cn:another");
        drop(limiters.admit(&another, &slow(), later).unwrap());
        assert!(limiters.certificates.len() <= 100);
    }

    #[test]
    fn long_identities_are_stored_as_their_hash() {
        let now = net::now();
        let limiters = ClientLimiters::with_capacities(10, 10, now);
        let long = |end: &str| ClientId::from(format!("cn:{}{end}", "x".repeat(58_000)));
        let _held = limiters.admit(&long("a"), &slow(), now).unwrap();
        drop(limiters.admit(&long("b"), &slow(), now).unwrap());
        assert!(limiters.admit(&long("a"), &slow(), now).is_err());
        assert_eq!(key(&long("a")).as_str().len(), 71);
    }
}
