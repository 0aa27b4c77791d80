//! Renders certificates and CRLs that expire soon.

use leastconn_server::api::{Certificate, CertificateKind, CertificateState};

use crate::cli::ctl::table::{OutputStyle, Tone};

/// Returns a line for each file that has expired or expires soon. If there is none, returns a line
/// for the file that expires first.
pub(super) fn lines(files: &[Certificate], style: &OutputStyle) -> Vec<String> {
    let expiring = files.iter();
    let expiring = expiring.filter(|file| file.state != CertificateState::Valid);
    let mut lines: Vec<_> = expiring.map(|file| expiry(file, style)).collect();
    for file in files {
        lines.extend(file.expired.iter().map(|name| {
            let text = format!("{}: {name} has expired: its clients are refused", file.file);
            style.paint(&text, Tone::Bad)
        }));
    }
    if lines.is_empty() {
        lines.extend(files.first().map(first_expiry));
    }
    lines
}

/// Returns the line that is shown if no file expires soon.
fn first_expiry(file: &Certificate) -> String {
    format!(
        "none expires soon; the first to expire is {} at {}, in {}",
        file.file,
        file.not_after,
        days(file)
    )
}

fn days(file: &Certificate) -> String {
    match file.days_left {
        ..1 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    }
}

fn expiry(file: &Certificate, style: &OutputStyle) -> String {
    let at = &file.not_after;
    let (when, tone) = match file.state {
        CertificateState::Expired if file.kind == CertificateKind::Crl => (
            format!("expired at {at}: clients of its issuer are refused (crl_expired)"),
            Tone::Bad,
        ),
        CertificateState::Expired if file.kind == CertificateKind::Authorities => (
            format!("expired at {at}: certificates that it issued are refused"),
            Tone::Bad,
        ),
        CertificateState::Expired => (
            format!("expired at {at}: peers that verify it refuse the connection"),
            Tone::Bad,
        ),
        CertificateState::ExpiresNow => (format!("expires in {}, at {at}", days(file)), Tone::Bad),
        CertificateState::Valid | CertificateState::ExpiresSoon => {
            (format!("expires in {}, at {at}", days(file)), Tone::Warning)
        }
    };
    let name = match &*file.name {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    style.paint(&format!("{}{name} {when}", file.file), tone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expired_files_say_what_they_cause() {
        let file = |kind| Certificate {
            file: "a.pem".to_owned(),
            kind,
            name: "CN=a".to_owned(),
            not_before: "2025-12-01T00:00:00Z".to_owned(),
            not_after: "2026-12-01T00:00:00Z".to_owned(),
            days_left: -1,
            state: CertificateState::Expired,
            expired: Vec::new(),
        };
        for (kind, effect) in [
            (
                CertificateKind::Certificate,
                "peers that verify it refuse the connection",
            ),
            (
                CertificateKind::Authorities,
                "certificates that it issued are refused",
            ),
            (
                CertificateKind::Crl,
                "clients of its issuer are refused (crl_expired)",
            ),
        ] {
            assert_eq!(
                expiry(&file(kind), &OutputStyle::new(None, false)),
                format!("a.pem (CN=a) expired at 2026-12-01T00:00:00Z: {effect}")
            );
        }
    }
}
