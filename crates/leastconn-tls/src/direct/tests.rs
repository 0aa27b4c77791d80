//! Arbitrary sequences of operations on both sides of a connection, with rustls as the
//! client.

use std::{
    io::{Read, Write},
    sync::{Arc, LazyLock},
};

use leastconn_testkit::{TestCa, data::pattern};
use proptest::prelude::*;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, SupportedCipherSuite,
    crypto::aws_lc_rs, pki_types::ServerName,
};

use super::{
    memory::{Socket, context},
    *,
};
use crate::permit::Unscheduled;
use crate::{
    record::{
        content,
        drive::{limited, pair},
    },
    unbuffered::handshake_for_direct,
};

/// An operation of the client, of the server or of the wire between them.
#[derive(Clone, Debug)]
enum Op {
    ClientWrites(usize),
    ServerWrites(usize),
    /// The client updates its keys and requests a key update from the server.
    ClientUpdates,
    /// This many bytes from the client arrive at the server.
    Arrives(usize),
    /// The server reads once into a buffer of this size.
    ServerReads(usize),
    /// This many bytes from the server arrive at the client.
    Leaves(usize),
    ClientReads,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    CloseNotify,
    /// FIN without `close_notify`.
    Truncated,
    /// FIN in the middle of a record.
    Cut,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let size = || prop_oneof![3 => 0..100_usize, 2 => 0..20_000_usize, 1 => 0..100_000_usize];
    prop::collection::vec(
        prop_oneof![
            size().prop_map(Op::ClientWrites),
            size().prop_map(Op::ServerWrites),
            Just(Op::ClientUpdates),
            size().prop_map(Op::Arrives),
            (1..70_000_usize).prop_map(Op::ServerReads),
            (1..100_usize).prop_map(Op::ServerReads),
            size().prop_map(Op::Leaves),
            Just(Op::ClientReads),
        ],
        0..50,
    )
}

/// Certificates, shared by all cases because generating them takes time.
struct Setup {
    roots: RootCertStore,
    ecdsa: leastconn_testkit::Cert,
    rsa: leastconn_testkit::Cert,
}

static SETUP: LazyLock<Setup> = LazyLock::new(|| {
    let ca = TestCa::new("property");
    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    Setup {
        roots,
        ecdsa: ca.leaf("server").dns("localhost").build(),
        rsa: ca.leaf("server").dns("localhost").rsa().build(),
    }
});

fn configs(
    suite: SupportedCipherSuite,
    fragment: Option<usize>,
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let cert = if format!("{suite:?}").contains("_ECDHE_RSA_") {
        &SETUP.rsa
    } else {
        &SETUP.ecdsa
    };
    let mut server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(cert.chain_der.clone(), cert.key_der.clone_key())
        .unwrap();
    server.send_tls13_tickets = 0;
    server.enable_secret_extraction = true;
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![suite];
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(SETUP.roots.clone())
        .with_no_client_auth();
    client.max_fragment_size = fragment;
    (Arc::new(server), Arc::new(client))
}

/// Both sides and the bytes exchanged so far.
struct Talk {
    wire: Socket,
    server: DirectStream<Socket>,
    client: ClientConnection,
    client_wrote: usize,
    server_read: Vec<u8>,
    /// Number of bytes that the server's stream has accepted.
    server_wrote: usize,
    to_write: usize,
    client_read: Vec<u8>,
}

impl Talk {
    fn begin(suite: SupportedCipherSuite, fragment: Option<usize>, piece: usize) -> Self {
        let (server, client) = configs(suite, fragment);
        let wire = Socket::default();
        wire.0.borrow_mut().piece = piece;
        let name = ServerName::try_from("localhost").unwrap();
        let mut client = ClientConnection::new(client, name).unwrap();
        client.set_buffer_limit(None);
        let mut socket = wire.clone();
        let place = Unscheduled;
        let mut handshake = Box::pin(handshake_for_direct(
            &mut socket,
            Vec::new(),
            server.into(),
            &place,
        ));
        let done = loop {
            let mut sent = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut sent).unwrap();
            }
            {
                let mut wire = wire.0.borrow_mut();
                wire.inbound.extend(sent);
                wire.readable = usize::MAX;
                wire.writable = usize::MAX;
            }
            if let Poll::Ready(done) = handshake.as_mut().poll(&mut context()) {
                break done.map_err(|error| error.to_string()).unwrap();
            }
            let answer = std::mem::take(&mut wire.0.borrow_mut().outbound);
            let mut answer = answer.as_slice();
            while !answer.is_empty() {
                client.read_tls(&mut answer).unwrap();
                client.process_new_packets().unwrap();
            }
        };
        drop(handshake);
        {
            let mut wire = wire.0.borrow_mut();
            wire.readable = 0;
            wire.writable = 0;
        }
        let server = into_direct(socket, done.secrets, &done.unopened)
            .map_err(|(violation, _)| violation)
            .unwrap();
        let mut talk = Self {
            wire,
            server,
            client,
            client_wrote: 0,
            server_read: Vec::new(),
            server_wrote: 0,
            to_write: 0,
            client_read: Vec::new(),
        };
        // In TLS 1.2 this read completes the handshake.
        talk.client_reads();
        talk
    }

    fn client_sends(&mut self) {
        let mut sent = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut sent).unwrap();
        }
        self.wire.0.borrow_mut().inbound.extend(sent);
    }

    fn client_reads(&mut self) {
        let came = std::mem::take(&mut self.wire.0.borrow_mut().outbound);
        let mut came = came.as_slice();
        while !came.is_empty() {
            self.client.read_tls(&mut came).unwrap();
            self.client.process_new_packets().unwrap();
            match self.client.reader().read_to_end(&mut self.client_read) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
    }

    fn server_writes(&mut self) {
        while self.server_wrote < self.to_write {
            let left = pattern(self.server_wrote as u64, self.to_write - self.server_wrote);
            match Pin::new(&mut self.server).poll_write(&mut context(), &left) {
                Poll::Ready(count) => self.server_wrote += count.unwrap(),
                Poll::Pending => break,
            }
        }
        let _ = Pin::new(&mut self.server).poll_flush(&mut context());
    }

    fn server_reads(&mut self, room: usize) -> Poll<io::Result<usize>> {
        let mut space = vec![0; room];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.server).poll_read(&mut context(), &mut buffer))?;
        self.server_read.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::ClientWrites(count) => {
                let bytes = pattern(self.client_wrote as u64, count);
                self.client.writer().write_all(&bytes).unwrap();
                self.client_wrote += count;
                self.client_sends();
            }
            Op::ServerWrites(count) => {
                self.to_write += count;
                self.server_writes();
            }
            Op::ClientUpdates => {
                // In TLS 1.2 this call fails.
                let _ = self.client.refresh_traffic_keys();
                self.client_sends();
            }
            Op::Arrives(count) => self.wire.0.borrow_mut().readable += count,
            Op::ServerReads(room) => {
                if let Poll::Ready(read) = self.server_reads(room) {
                    assert!(read.unwrap() > 0, "unexpected end of the stream");
                }
            }
            Op::Leaves(count) => {
                self.wire.0.borrow_mut().writable += count;
                self.server_writes();
            }
            Op::ClientReads => self.client_reads(),
        }
    }

    /// Delivers all bytes in transit, then ends both sides.
    fn settle(mut self, end: End, room: usize) {
        {
            let mut wire = self.wire.0.borrow_mut();
            wire.readable = usize::MAX / 2;
            wire.writable = usize::MAX / 2;
        }
        self.server_writes();
        match end {
            End::CloseNotify => self.client.send_close_notify(),
            End::Truncated => {}
            End::Cut => self.client.writer().write_all(b"half").unwrap(),
        }
        self.client_sends();
        {
            let mut wire = self.wire.0.borrow_mut();
            if end == End::Cut {
                wire.inbound.pop_back();
            }
            wire.ended = true;
        }
        let received = loop {
            match self.server_reads(room) {
                Poll::Ready(Ok(0)) => break None,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => break Some(error.kind()),
                Poll::Pending => panic!("the stream waits although everything has arrived"),
            }
        };
        assert!(self.server_read == pattern(0, self.client_wrote));
        let expected = match end {
            End::CloseNotify => None,
            End::Truncated | End::Cut => Some(io::ErrorKind::UnexpectedEof),
        };
        assert_eq!(received, expected);
        // A second read must report the same end, and the server can still send.
        let again = match self.server_reads(room) {
            Poll::Ready(again) => again.map_err(|error| error.kind()),
            Poll::Pending => panic!("the stream no longer reports its end"),
        };
        assert_eq!(again, expected.map_or(Ok(0), Err));
        self.to_write += 100;
        self.server_writes();
        let shut = Pin::new(&mut self.server).poll_shutdown(&mut context());
        assert!(matches!(shut, Poll::Ready(Ok(()))));
        assert!(self.wire.0.borrow().shut);
        self.client_reads();
        assert!(self.client_read == pattern(0, self.to_write));
        // The client received `close_notify`.
        assert_eq!(self.client.reader().read(&mut [0]).unwrap(), 0);
        let state = &self.server.state;
        assert!(state.unopened.is_empty() && state.unread.is_empty() && state.unsent.is_empty());
    }
}

#[test]
fn exhausted_key_ends_sending_without_close_notify() {
    let (mut client, records) = pair(false, false).unwrap();
    let wire = Socket::default();
    wire.0.borrow_mut().writable = usize::MAX / 2;
    let mut stream = DirectStream::new(wire.clone(), limited(records, 3), &[]);
    let mut write = |bytes: &[u8]| Pin::new(&mut stream).poll_write(&mut context(), bytes);
    for _ in 0..2 {
        assert!(matches!(write(b"some"), Poll::Ready(Ok(4))));
    }
    for _ in 0..2 {
        assert!(matches!(write(b"more"), Poll::Ready(Err(_))));
    }
    let shut = Pin::new(&mut stream).poll_shutdown(&mut context());
    assert!(matches!(shut, Poll::Ready(Ok(()))));
    // The server sent FIN without `close_notify`, so the client detects the truncation.
    assert!(wire.0.borrow().shut);
    let seen = client.back(&wire.0.borrow().outbound).unwrap();
    assert_eq!(seen, vec![(content::DATA, b"some".to_vec()); 2]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// After any operations on both sides, and with any split of the bytes on the wire, the bytes
    /// arrive unchanged, the end is reported correctly, and all buffers are empty.
    #[test]
    fn bytes_and_end_of_stream_arrive(
        suite in prop::sample::select(aws_lc_rs::ALL_CIPHER_SUITES),
        fragment in prop_oneof![
            Just(None), (32..200_usize).prop_map(Some), (32..16_389_usize).prop_map(Some),
        ],
        piece in prop_oneof![2 => Just(0), 1 => 1..30_usize, 1 => 1..20_000_usize],
        room in prop_oneof![2 => Just(64 * 1024), 1 => 1..50_usize, 1 => 1..70_000_usize],
        end in prop::sample::select(vec![End::CloseNotify, End::Truncated, End::Cut]),
        ops in ops(),
    ) {
        let mut talk = Talk::begin(suite, fragment, piece);
        for op in &ops {
            talk.run(op);
        }
        talk.settle(end, room);
    }

    /// The property that the fuzz target checks.
    #[test]
    fn arbitrary_client_does_not_break_the_stream(
        setting: u8,
        ops in prop::collection::vec(
            prop_oneof![
                8 => (any::<u8>(), any::<u8>()).prop_map(|(op, size)| {
                    // Operations 1 and 2 have a body, which must follow them in `data`.
                    // Replace them by operation 0.
                    vec![if (1..3).contains(&(op & 7)) { op & 0xf8 } else { op }, size]
                }),
                1 => prop::collection::vec(any::<u8>(), 0..10),
            ],
            0..60,
        ),
    ) {
        let mut data = vec![setting];
        data.extend(ops.concat());
        drive::drive(&data);
    }
}
