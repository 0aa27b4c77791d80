//! Attacks on session resumption, with a rustls client over real sockets, in both TLS
//! versions and with both record layers.

use std::cell::Cell;

use leastconn_testkit::{DEADLINE, TestCa, TlsClient, pki::Cert, within};
use rustls::{CertificateError, Error, pki_types::PrivateKeyDer, pki_types::pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;
use crate::{
    HandshakeError, Server, Trust,
    algorithms::Algorithms,
    alpn::Alpn,
    permit::Unscheduled,
    settings::{ClientAuth, MinVersion, RecordLayer, ServerMaterial, ServerSettings},
};

const HOUR: Duration = Duration::from_hours(1);

thread_local! {
    /// How far the session clock is ahead of real time in this test.
    static AHEAD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

fn ahead() -> Now {
    let now = Now::read();
    let time = Duration::from_secs(now.time.as_secs());
    Now {
        instant: now.instant + AHEAD.get(),
        time: UnixTime::since_unix_epoch(time + AHEAD.get()),
    }
}

/// A server that accepts the clients of `ca` except `revoked`.
fn server_of(ca: &TestCa, revoked: &[&Cert], records: RecordLayer) -> Server {
    let cert = ca.server(&[]);
    let list = ca.crl(revoked);
    let settings = ServerSettings {
        client_pins: Vec::new(),
        min_version: MinVersion::Tls12,
        client_auth: ClientAuth::Required,
        resumption: Some(HOUR),
        algorithms: Algorithms::default(),
        alpn: Alpn::default(),
        material: Arc::new(ServerMaterial {
            cert_chain: cert.chain_der.clone(),
            key: PrivateKeyDer::from_pem_slice(cert.key_pem.as_bytes()).unwrap(),
            client_ca: vec![ca.cert().der().clone()],
            crls: Arc::new(crate::crl::tests::store(&[ca], &[list])),
        }),
    };
    AHEAD.set(Duration::ZERO);
    let mut server = crate::server(
        &settings,
        Trust::new(&settings, 8).unwrap().as_ref(),
        records,
    )
    .unwrap();
    let sessions = server.sessions.as_mut().unwrap();
    Arc::get_mut(sessions).unwrap().clock = ahead;
    server
}

impl Server {
    fn sessions(&self) -> &Sessions {
        self.sessions.as_ref().unwrap()
    }

    /// Moves the sessions of another server to this server. Only tests do this.
    fn inherit(&self, other: &Self) {
        let table = std::mem::take(&mut *other.sessions().table());
        *self.sessions().table() = table;
    }
}

/// Connects and closes the connection with `close_notify`. Returns whether both sides
/// resumed a session.
async fn connect(server: &Server, client: &TlsClient) -> Result<bool, HandshakeError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let hello = crate::read_hello(&mut socket, &mut Vec::new())
            .await
            .unwrap();
        match crate::accept(socket, hello, server, &Unscheduled).await {
            Ok(mut stream) => {
                // A resumed connection must have the original certificate, too.
                assert!(stream.take_peer_chain().is_some());
                stream.write_all(b"x").await.unwrap();
                let resumed = stream.is_resumed();
                stream.shutdown().await.unwrap();
                Ok(resumed)
            }
            Err((failed, mut socket)) => {
                socket.shutdown().await.unwrap();
                Err(failed.error)
            }
        }
    };
    let connecting = async {
        let Ok(mut stream) = client.connect(address).await else {
            return None;
        };
        // The client receives tickets before the data, so reading all data is enough.
        stream.read_to_end(&mut Vec::new()).await.ok()?;
        stream.get_ref().1.handshake_kind()
    };
    let both = async { tokio::join!(accepting, connecting) };
    let (accepted, kind) = within(DEADLINE, "a connection", both).await;
    if let Ok(resumed) = accepted {
        assert_eq!(kind == Some(HandshakeKind::Resumed), resumed);
    }
    accepted
}

/// All combinations of record layer and version.
fn ways(ca: &TestCa, cert: &Cert) -> Vec<(RecordLayer, TlsClient)> {
    let mut ways = Vec::new();
    for records in [RecordLayer::Direct, RecordLayer::Rustls] {
        // Each client has its own sessions.
        let client = || TlsClient::new(ca, Some(cert)).with_resumption();
        ways.push((records, client().tls12()));
        ways.push((records, client().tls13()));
    }
    ways
}

fn setting() -> (TestCa, Cert) {
    let ca = TestCa::new("resumption");
    let cert = ca.leaf("client1").build();
    (ca, cert)
}

#[tokio::test]
async fn sessions_are_resumed_repeatedly() {
    let (ca, cert) = setting();
    for (records, client) in ways(&ca, &cert) {
        let server = server_of(&ca, &[], records);
        assert!(!connect(&server, &client).await.unwrap());
        for _ in 0..5 {
            assert!(connect(&server, &client).await.unwrap(), "{records:?}");
        }
        assert_eq!(server.sessions().table().sessions.len(), 1);
    }
}

#[tokio::test]
async fn sessions_belong_to_one_listener() {
    let (ca, cert) = setting();
    for (records, client) in ways(&ca, &cert) {
        let (one, other) = (server_of(&ca, &[], records), server_of(&ca, &[], records));
        assert!(!connect(&one, &client).await.unwrap());
        assert!(!connect(&other, &client).await.unwrap(), "{records:?}");
    }
}

#[tokio::test]
async fn resumption_does_not_renew_the_age() {
    let (ca, cert) = setting();
    for (records, client) in ways(&ca, &cert) {
        let server = server_of(&ca, &[], records);
        assert!(!connect(&server, &client).await.unwrap());
        for minutes in [20, 40, 59] {
            AHEAD.set(Duration::from_mins(minutes));
            assert!(connect(&server, &client).await.unwrap(), "{minutes}");
        }
        AHEAD.set(HOUR);
        assert!(!connect(&server, &client).await.unwrap(), "{records:?}");
        // The new session keeps the age of the old session.
        AHEAD.set(HOUR + Duration::from_mins(59));
        assert!(connect(&server, &client).await.unwrap(), "{records:?}");
    }
}

#[tokio::test]
async fn revoked_client_cannot_resume() {
    let (ca, cert) = setting();
    for (records, client) in ways(&ca, &cert) {
        let before = server_of(&ca, &[], records);
        assert!(!connect(&before, &client).await.unwrap());
        let now = server_of(&ca, &[&cert], records);
        // Without the old sessions, the client would perform a full handshake, and this test would
        // not test resumption.
        now.inherit(&before);
        let refused = connect(&now, &client).await.unwrap_err();
        assert!(
            matches!(
                refused,
                HandshakeError::Tls(Error::InvalidCertificate(CertificateError::Revoked))
            ),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn sessions_end_with_their_authority() {
    let (ca, cert) = setting();
    let other = TestCa::new("another");
    for (records, client) in ways(&ca, &cert) {
        let before = server_of(&ca, &[], records);
        assert!(!connect(&before, &client).await.unwrap());
        let mut now = server_of(&other, &[], records);
        // Keep the server certificate, so that the client accepts the session.
        let config = Arc::get_mut(&mut now.config).unwrap();
        config.cert_resolver = Arc::clone(&before.config.cert_resolver);
        now.inherit(&before);
        let refused = connect(&now, &client).await.unwrap_err();
        assert!(
            matches!(
                refused,
                HandshakeError::Tls(Error::InvalidCertificate(CertificateError::UnknownIssuer))
            ),
            "{refused}"
        );
    }
}

#[tokio::test]
async fn sessions_end_with_the_certificate() {
    let ca = TestCa::new("resumption");
    let cert = ca.leaf("client1").validity(-60, 1800).build();
    for (records, client) in ways(&ca, &cert) {
        let server = server_of(&ca, &[], records);
        assert!(!connect(&server, &client).await.unwrap());
        AHEAD.set(Duration::from_mins(29));
        assert!(connect(&server, &client).await.unwrap());
        // According to the session clock, the certificate has expired. A full handshake uses the
        // real time and succeeds.
        AHEAD.set(Duration::from_mins(31));
        assert!(!connect(&server, &client).await.unwrap(), "{records:?}");
    }
}

#[tokio::test]
async fn ticket_is_used_once() {
    let (ca, cert) = setting();
    let server = server_of(&ca, &[], RecordLayer::Direct);
    let client = TlsClient::new(&ca, Some(&cert)).with_resumption().tls13();
    assert!(!connect(&server, &client).await.unwrap());
    let key = *server.sessions().table().sessions.keys().next().unwrap();
    assert!(server.sessions().find(&key, true).is_some());
    assert!(server.sessions().find(&key, true).is_none());
    assert!(!connect(&server, &client).await.unwrap());
}

#[tokio::test]
async fn failed_handshake_stores_no_session() {
    let (ca, _) = setting();
    let foreign = TestCa::new("foreign").leaf("client1").build();
    for (records, client) in ways(&ca, &foreign) {
        let server = server_of(&ca, &[], records);
        assert!(connect(&server, &client).await.is_err());
        assert!(server.sessions().table().sessions.is_empty(), "{records:?}");
    }
}

fn sessions(lifetime: Duration) -> Sessions {
    Sessions::new(None, lifetime)
}

fn session(size: usize, started: Instant) -> Session {
    let chain = Vec::new();
    Session {
        value: vec![0; size],
        proof: Arc::new(Proof { started, chain }),
    }
}

fn key(number: usize) -> Key {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_be_bytes());
    key
}

#[test]
fn oldest_sessions_are_evicted() {
    let sessions = sessions(HOUR);
    let now = leastconn::net::now();
    for number in 0..CAPACITY + 100 {
        sessions
            .table()
            .insert(key(number), session(10, now), now, HOUR);
    }
    assert_eq!(sessions.table().sessions.len(), CAPACITY);
    assert!(sessions.find(&key(99), false).is_none());
    assert!(sessions.find(&key(100), false).is_some());
    for number in 0..100 {
        let large = session(1 << 20, now);
        sessions.table().insert(key(number), large, now, HOUR);
    }
    let table = sessions.table();
    assert!(table.bytes <= CAPACITY_BYTES, "{}", table.bytes);
    assert!(table.order.len() <= CAPACITY);
    let sum: usize = table.sessions.values().map(Session::size).sum();
    assert_eq!(table.bytes, sum);
    assert!(table.sessions.contains_key(&key(99)));
}

#[test]
fn expired_sessions_are_removed() {
    let sessions = sessions(HOUR);
    let now = leastconn::net::now();
    for number in 0..1000 {
        sessions
            .table()
            .insert(key(number), session(10, now), now, HOUR);
        if number % 2 == 0 {
            sessions.find(&key(number), true).unwrap();
        }
    }
    let later = now + HOUR;
    sessions
        .table()
        .insert(key(1000), session(10, later), later, HOUR);
    assert_eq!(sessions.table().sessions.len(), 1);
    assert_eq!(sessions.table().order.len(), 1);
}
