//! Recognizes other protocols by their first bytes, if they arrive instead of a
//! ClientHello. The result is used only for the `detail` of a refusal.

use std::fmt;

/// What was received instead of a ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignProtocol {
    Known(&'static Protocol),
    /// An unknown protocol, with its first bytes.
    Bytes(Vec<u8>),
    /// Nothing was received, although the client did not close the connection.
    Nothing,
    /// The client closed the connection before anything was received.
    Closed,
}

/// A protocol, with the texts for messages.
#[derive(Debug, PartialEq, Eq)]
pub struct Protocol {
    what: &'static str,
    /// How the operator can make the client speak TLS.
    help: &'static str,
}

macro_rules! protocols {
    ($($name:ident: $what:literal, $help:literal;)+) => {
        $(static $name: Protocol = Protocol { what: $what, help: $help };)+
    };
}

protocols! {
    POSTGRES_SSL: "a PostgreSQL client asks for TLS in its own protocol (SSLRequest)",
        "set `starttls = \"postgres\"` on the listener";
    POSTGRES_GSS: "a PostgreSQL client asks for GSSAPI encryption (GSSENCRequest)",
        "set `starttls = \"postgres\"` on the listener";
    POSTGRES_PLAIN: "a PostgreSQL client without TLS (StartupMessage)",
        "set sslmode=verify-full in the client, and `starttls = \"postgres\"` on the listener";
    POSTGRES_CANCEL: "a PostgreSQL client cancels a query without TLS (CancelRequest)",
        "use a client with libpq 17 or newer, and `starttls = \"postgres\"` on the listener";
    PROXY_V1: "a PROXY protocol header, version 1",
        "set `proxy_protocol = \"required\"` on the listener, or have the balancer in front send none";
    PROXY_V2: "a PROXY protocol header, version 2",
        "set `proxy_protocol = \"required\"` on the listener, or have the balancer in front send none";
    HTTP: "an HTTP request without TLS", "use https://";
    SSH: "an SSH client", "tunnel it through TLS: `ProxyCommand openssl s_client -quiet …`";
    SMTP: "an SMTP client", "STARTTLS is not supported for SMTP: use implicit TLS (submissions, smtps)";
    MAIL: "an IMAP, POP3 or FTP client", "STARTTLS is not supported there: use implicit TLS (imaps, pop3s, ftps)";
    RDP: "a Remote Desktop client (RDP)", "RDP begins with a request of its own, which is not supported";
    SSL2: "an SSL 2.0 ClientHello", "use a client that speaks TLS 1.2 or 1.3";
    ALERT: "a TLS alert in place of a ClientHello", "look at the client's own log";
    REDIS: "a Redis client without TLS", "switch on TLS in the client (redis-cli --tls)";
    MONGODB: "a MongoDB client without TLS", "switch on TLS in the client (tls=true)";
    MQTT: "an MQTT client without TLS", "switch on TLS in the client (mqtts)";
    AMQP: "an AMQP client without TLS", "switch on TLS in the client (amqps://)";
    LDAP: "an LDAP client without TLS", "use ldaps://: StartTLS is not supported for LDAP";
    KAFKA: "a Kafka client without TLS", "set security.protocol=SSL in the client";
    SQL_SERVER: "a Microsoft SQL Server client (TDS PRELOGIN)",
        "set Encrypt=Strict in the client (TDS 8.0): older versions carry TLS inside their own packets";
}

const HTTP_METHODS: [&[u8]; 10] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI * HTTP/2",
];

const SMTP_COMMANDS: [&[u8]; 3] = [b"EHLO", b"HELO", b"LHLO"];

const MAIL_COMMANDS: [&[u8]; 5] = [b"USER ", b"AUTH ", b"CAPA", b"FEAT", b"STARTTLS"];

/// The beginning of a PROXY protocol header, version 2.
const PROXY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

impl ForeignProtocol {
    /// Classifies the first bytes of a connection.
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            return Self::Nothing;
        }
        match text(bytes).or_else(|| binary(bytes)) {
            Some(protocol) => Self::Known(protocol),
            None => Self::Bytes(bytes.iter().take(16).copied().collect()),
        }
    }

    /// Like [`Self::of`], but returns `None` if `bytes` may be the beginning of a
    /// ClientHello.
    pub fn unless_tls(bytes: &[u8]) -> Option<Self> {
        let is_tls = bytes.first() == Some(&0x16) && bytes.get(1).is_none_or(|&major| major == 3);
        (!is_tls).then(|| Self::of(bytes))
    }
}

impl fmt::Display for ForeignProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(Protocol { what, help }) => write!(f, "not TLS but {what}: {help}"),
            Self::Bytes(bytes) => {
                write!(f, "not TLS: it begins with \"{}\"", bytes.escape_ascii())
            }
            Self::Closed => f.write_str(
                "the client closed the connection without having sent anything: a TCP probe does \
                 so, and a client that waits for the server to speak first (MySQL, SMTP, FTP, IMAP)",
            ),
            Self::Nothing => f.write_str(
                "the client sent nothing: with some protocols (MySQL, SMTP, FTP, IMAP) clients \
                 wait for the server to speak first, and must be configured to start with TLS",
            ),
        }
    }
}

fn begins(bytes: &[u8], all: &[&[u8]]) -> bool {
    all.iter().any(|start| {
        let found = bytes.get(..start.len());
        found.is_some_and(|found| found.eq_ignore_ascii_case(start))
    })
}

fn text(bytes: &[u8]) -> Option<&'static Protocol> {
    if begins(bytes, &[b"PROXY "]) {
        Some(&PROXY_V1)
    } else if begins(bytes, &HTTP_METHODS) {
        Some(&HTTP)
    } else if bytes.starts_with(b"SSH-") {
        Some(&SSH)
    } else if begins(bytes, &SMTP_COMMANDS) {
        Some(&SMTP)
    } else if begins(bytes, &MAIL_COMMANDS) {
        Some(&MAIL)
    } else if bytes.starts_with(b"AMQP") {
        Some(&AMQP)
    } else if is_redis(bytes) {
        Some(&REDIS)
    } else {
        None
    }
}

/// Whether `bytes` begin with an array of bulk strings: `*2\r\n$5\r\nHELLO\r\n…`.
fn is_redis(bytes: &[u8]) -> bool {
    let Some(rest) = bytes.strip_prefix(b"*") else {
        return false;
    };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    digits > 0 && rest[digits..].starts_with(b"\r\n")
}

fn binary(bytes: &[u8]) -> Option<&'static Protocol> {
    // Only plausible lengths are accepted, so that random bytes rarely match.
    let be32 = |at: usize| {
        let four = bytes.get(at..at + 4)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*four))
    };
    if bytes.len() >= 5 && PROXY_SIGNATURE.starts_with(&bytes[..bytes.len().min(12)]) {
        return Some(&PROXY_V2);
    }
    match (be32(0), be32(4)) {
        (Some(8), Some(80_877_103)) => return Some(&POSTGRES_SSL),
        (Some(8), Some(80_877_104)) => return Some(&POSTGRES_GSS),
        (Some(_), Some(80_877_102)) => return Some(&POSTGRES_CANCEL),
        (Some(8..=10_000), Some(code)) if matches!(code >> 16, 2 | 3) && code & 0xffff < 16 => {
            return Some(&POSTGRES_PLAIN);
        }
        // An ApiVersions request has key 18 and a small version.
        (Some(8..=100_000), Some(code)) if code >> 16 == 18 && code & 0xffff < 16 => {
            return Some(&KAFKA);
        }
        _ => {}
    }
    match bytes {
        // A TPKT header of version 3.
        [3, 0, ..] => Some(&RDP),
        [0x12, 1, _, _, 0, 0, ..] => Some(&SQL_SERVER),
        [0x15, 3, ..] => Some(&ALERT),
        [high, _, 1, 0 | 3, ..] if high & 0x80 != 0 => Some(&SSL2),
        [0x10, rest @ ..] if rest.windows(4).take(6).any(|four| four == b"MQTT") => Some(&MQTT),
        // An LDAP message has an ID, then a bind request or an extended request.
        [0x30, rest @ ..] if is_ldap(rest) => Some(&LDAP),
        // A MongoDB request has a length, an ID, a zero `responseTo`, and the operation code
        // OP_MSG or OP_QUERY.
        _ if is_mongodb(bytes) => Some(&MONGODB),
        _ => None,
    }
}

fn is_ldap(after_tag: &[u8]) -> bool {
    let skip = match after_tag.first() {
        Some(&length) if length < 0x80 => 1,
        Some(&length) => 1 + usize::from(length & 0x7f),
        None => return false,
    };
    matches!(after_tag.get(skip..), Some([2, 1..=4, ..]))
}

fn is_mongodb(bytes: &[u8]) -> bool {
    let word = |at: usize| {
        let four = bytes.get(at..at + 4)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*four))
    };
    word(8) == Some(0) && matches!(word(12), Some(2013 | 2004))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_protocols_are_recognized() {
        for (bytes, expected) in [
            (&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], &POSTGRES_SSL),
            (b"\0\0\0\x08\x04\xd2\x16\x30", &POSTGRES_GSS),
            (
                b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02",
                &POSTGRES_CANCEL,
            ),
            (b"\0\0\0\x29\0\x03\0\0user\0x\0\0", &POSTGRES_PLAIN),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", &PROXY_V1),
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &PROXY_V2),
            (b"\r\n\r\n\0", &PROXY_V2),
            (b"GET / HTTP/1.1\r\n", &HTTP),
            (b"get / HTTP/1.1\r\n", &HTTP),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &HTTP),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", &SSH),
            (b"EHLO client.example\r\n", &SMTP),
            (b"USER anonymous\r\n", &MAIL),
            (
                b"\x03\0\0\x13\x0e\xe0\0\0\0\0\0\x01\0\x08\0\x03\0\0\0",
                &RDP,
            ),
            (b"\x80\x2e\x01\x03\x01\0\x15", &SSL2),
            (b"\x15\x03\x01\0\x02\x02\x28", &ALERT),
            (b"*1\r\n$4\r\nPING\r\n", &REDIS),
            (b"AMQP\0\0\x09\x01", &AMQP),
            (b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04abcd", &MQTT),
            (
                b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0",
                &LDAP,
            ),
            (b"\0\0\0\x20\0\x12\0\x03\0\0\0\x01", &KAFKA),
            (b"\x12\x01\0\x2f\0\0\x01\0", &SQL_SERVER),
            (b"\x40\x01\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0", &MONGODB),
        ] {
            assert_eq!(
                ForeignProtocol::of(bytes),
                ForeignProtocol::Known(expected),
                "{}",
                bytes.escape_ascii()
            );
        }
        assert_eq!(ForeignProtocol::of(b""), ForeignProtocol::Nothing);
        assert_eq!(
            ForeignProtocol::of(b"\x01hello"),
            ForeignProtocol::Bytes(b"\x01hello".to_vec())
        );
        assert_eq!(ForeignProtocol::unless_tls(b"\x16\x03\x01"), None);
        assert_eq!(ForeignProtocol::unless_tls(b"\x16"), None);
    }

    proptest! {
        #[test]
        fn texts_are_bounded(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = ForeignProtocol::of(&bytes).to_string();
            prop_assert!(text.len() < 256);
            prop_assert!(!text.chars().any(char::is_control));
        }
    }
}
