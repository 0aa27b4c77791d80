//! Expiry of the contents of certificate and CRL files.

use std::path::PathBuf;

use jiff::{SignedDuration, Timestamp};

/// A file of certificates or CRLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFile {
    /// The path as written in the configuration.
    pub name: String,
    /// The path that was read.
    pub path: PathBuf,
    pub kind: FileKind,
    /// The certificates or the CRLs in force in the file. Not empty.
    pub dated: Vec<Dated>,
}

/// What a file contains. See [`CertificateFile::deciding`] for the effect on the file's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    /// A certificate and its intermediates. The chain is valid only while all of them are
    /// valid.
    Chain,
    /// CA certificates. Each is trusted independently of the others.
    Authorities,
    /// CRLs. Each is needed to verify certificates of its issuer.
    Lists,
}

/// The validity of a certificate or CRL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dated {
    /// The certificate's subject or the CRL's issuer, in backticks.
    pub name: String,
    /// `notBefore` or `thisUpdate`.
    pub from: Timestamp,
    /// `notAfter` or `nextUpdate`.
    pub until: Timestamp,
}

/// How soon something expires. This is the only rule for warnings about expiry: `check`, the log, the
/// API, `ctl status`, `top` and the dashboard use it, and the alert rules contain the same formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Not soon.
    Fine,
    /// In the last quarter of the validity period, but at most 14 days before its end.
    Soon,
    /// In the last eighth of the validity period, but at most two days before its end.
    Urgent,
    Expired,
}

impl Urgency {
    pub fn is_warning(self) -> bool {
        matches!(self, Self::Soon | Self::Urgent)
    }
}

impl Dated {
    /// How soon the item expires. The thresholds depend on the length of the validity period.
    /// Otherwise a CRL that is valid for one day and renewed daily would cause a permanent warning.
    pub fn urgency(&self, now: Timestamp) -> Urgency {
        const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
        const URGENT: SignedDuration = SignedDuration::from_hours(2 * 24);
        let validity = self.until.duration_since(self.from);
        let left = self.until.duration_since(now);
        if left <= SignedDuration::ZERO {
            Urgency::Expired
        } else if left <= URGENT.min(validity / 8) {
            Urgency::Urgent
        } else if left <= SOON.min(validity / 4) {
            Urgency::Soon
        } else {
            Urgency::Fine
        }
    }
}

impl CertificateFile {
    /// The item that determines the expiry of the file: the most urgent item or, if several
    /// items are equally urgent, the item that expires first. Expired CAs are skipped,
    /// unless all CAs in the file have expired.
    pub fn deciding(&self, now: Timestamp) -> Option<&Dated> {
        let urgent = |one: &&Dated| (one.urgency(now), std::cmp::Reverse(one.until));
        match self.kind {
            FileKind::Chain | FileKind::Lists => self.dated.iter().max_by_key(urgent),
            FileKind::Authorities => {
                let in_force = self.dated.iter().filter(|one| one.until > now);
                let last = self.dated.iter().max_by_key(|one| one.until);
                in_force.max_by_key(urgent).or(last)
            }
        }
    }

    /// The CAs that have expired.
    pub fn expired(&self, now: Timestamp) -> impl Iterator<Item = &Dated> {
        let of_kind = self.kind == FileKind::Authorities;
        self.dated
            .iter()
            .filter(move |one| of_kind && one.until <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn dated(from: i64, until: i64) -> Dated {
        Dated {
            name: "`CN=x`".to_owned(),
            from: Timestamp::from_second(from).unwrap(),
            until: Timestamp::from_second(until).unwrap(),
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn warnings_are_relative_to_the_validity() {
        let month = dated(0, 30 * DAY);
        for (now, urgency) in [
            (0, Urgency::Fine),
            (22 * DAY, Urgency::Fine),
            (23 * DAY, Urgency::Soon),
            (27 * DAY, Urgency::Soon),
            (28 * DAY, Urgency::Urgent),
            (30 * DAY, Urgency::Expired),
        ] {
            assert_eq!(month.urgency(at(now)), urgency, "day {}", now / DAY);
        }
        let year = dated(0, 365 * DAY);
        for (left, urgency) in [
            (15, Urgency::Fine),
            (14, Urgency::Soon),
            (2, Urgency::Urgent),
        ] {
            let now = at((365 - left) * DAY);
            assert_eq!(year.urgency(now), urgency, "{left} days left");
        }
        let day = dated(0, DAY);
        for (hours, urgency) in [
            (0, Urgency::Fine),
            (17, Urgency::Fine),
            (18, Urgency::Soon),
            (21, Urgency::Urgent),
            (24, Urgency::Expired),
        ] {
            assert_eq!(day.urgency(at(hours * 3600)), urgency, "hour {hours}");
        }
    }

    #[test]
    fn short_lived_crl_does_not_hide_another() {
        let file = CertificateFile {
            name: "all.crl".to_owned(),
            path: "all.crl".into(),
            kind: FileKind::Lists,
            dated: vec![dated(0, 30 * DAY), dated(25 * DAY, 26 * DAY)],
        };
        let deciding = file.deciding(at(25 * DAY)).unwrap();
        assert_eq!(deciding.until, at(30 * DAY));
        assert_eq!(deciding.urgency(at(25 * DAY)), Urgency::Soon);
    }

    #[test]
    fn expired_ca_does_not_hide_the_next() {
        let file = |kind| CertificateFile {
            name: "ca.crt".to_owned(),
            path: "ca.crt".into(),
            kind,
            dated: vec![dated(0, 100), dated(0, 300), dated(0, 200)],
        };
        let until = |kind, now| file(kind).deciding(at(now)).unwrap().until.as_second();
        assert_eq!(until(FileKind::Authorities, 50), 100);
        assert_eq!(until(FileKind::Authorities, 100), 200);
        assert_eq!(until(FileKind::Authorities, 400), 300);
        assert_eq!(until(FileKind::Chain, 150), 100);
        assert_eq!(until(FileKind::Lists, 150), 100);
        let expired = file(FileKind::Authorities);
        assert_eq!(expired.expired(at(250)).count(), 2);
    }
}
