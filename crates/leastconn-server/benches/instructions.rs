//! Fixed workloads for counting instructions, like the benchmark of the same name in `leastconn`.
//! `scripts/instructions.py` runs them.
#![expect(clippy::unwrap_used, reason = "an error aborts the benchmark")]

use std::{
    collections::HashMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::ExitCode,
    sync::Arc,
    thread,
};

use jiff::Timestamp;
use leastconn_config::Config;
use leastconn_server::policy::{Policy, RuleInput};
use leastconn_testkit::{Cert, TestCa};
use leastconn_tls::{
    self as tls, Trust, certificate::Certificate, permit::Unscheduled, settings::RecordLayer,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName,
};

const LISTENER: &str =
    "[[listener]]\nname = \"main\"\nbind = \"127.0.0.1:0\"\nupstream = \"web\"\n";
const UPSTREAM: &str = "[[upstream]]\nname = \"web\"\nservers = [\"127.0.0.1:1\"]\n";

/// Number of clients whose certificates are created. It does not depend on the number of
/// handshakes, so that the difference of two runs contains only handshakes.
const CLIENTS: usize = 12;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (Some(what), Some(Ok(count))) = (args.next(), args.next().map(|n| n.parse())) else {
        // `cargo bench` runs every benchmark with arguments of its own. In that case, only print a
        // hint.
        eprintln!("instructions: counted by scripts/instructions.py");
        return ExitCode::SUCCESS;
    };
    match what.as_str() {
        "authorize" => authorize(count),
        "handshake" => handshake(count),
        other => {
            eprintln!("instructions: unknown workload `{other}`");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn load(text: &str, directory: &Path) -> Config {
    let loaded = leastconn_config::load_text("leastconn.toml", text, directory);
    loaded
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config
}

/// Finds the rule of a client among 1,000 rules.
fn authorize(count: usize) {
    let mut text = format!("{LISTENER}{UPSTREAM}");
    for number in 0..1_000 {
        writeln!(
            text,
            "[[client]]\nname = \"client{number}\"\nmatch = {{ cn = \"client{number}.example.org\" }}\n\
             allow = [\"web\"]"
        )
        .unwrap();
    }
    let config = load(&text, Path::new("/nowhere"));
    let policy = Policy::new(&config, &HashMap::new());
    let certificate = Certificate {
        cn: Some("client700.example.org".to_owned()),
        dns: vec!["client700.example.org".to_owned()],
        ..Certificate::default()
    };
    let input = RuleInput {
        source: IpAddr::V4(Ipv4Addr::LOCALHOST),
        prefixes: Default::default(),
        certificate: Some(&certificate),
    };
    for _ in 0..count {
        let matched = policy.identify(&input, Timestamp::UNIX_EPOCH);
        assert_eq!(matched.unwrap().client(), "client700");
    }
}

/// Mutual TLS 1.3 handshakes with the settings of a listener. Each of the first [`CLIENTS`]
/// handshakes verifies a certificate chain that is not in the cache. Client and server are counted.
fn handshake(count: usize) {
    let ca = TestCa::new("bench");
    let dir = tempfile::tempdir().unwrap();
    drop(ca.write_set(&dir, &[]));
    let files = "tls = { cert = \"server.crt\", key = \"server.key\", client_ca = \"ca.crt\", \
                 crl = \"ca.crl\" }\n";
    let config = load(&format!("{LISTENER}{files}{UPSTREAM}"), dir.path());
    let listener = &config.listeners[0];
    let settings = &listener.tls.as_ref().unwrap().settings;
    let trust = Trust::new(settings, listener.max_intermediates).unwrap();
    let server = tls::server(settings, trust.as_ref(), RecordLayer::Direct).unwrap();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| client(&ca, &ca.leaf(&format!("client{number}")).build()))
        .collect();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connecting = thread::spawn(move || {
        for client in clients.iter().cycle().take(count) {
            let mut socket = TcpStream::connect(address).unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let mut session = ClientConnection::new(Arc::clone(client), name).unwrap();
            while session.is_handshaking() {
                session.complete_io(&mut socket).unwrap();
            }
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        for _ in 0..count {
            let (mut socket, _) = listener.accept().await.unwrap();
            let hello = tls::read_hello(&mut socket, &mut Vec::new()).await;
            let hello = hello.map_err(|failed| failed.to_string()).unwrap();
            let accepted = tls::accept(socket, hello, &server, &Unscheduled).await;
            drop(accepted.map_err(|(error, _)| error.to_string()).unwrap());
        }
    });
    connecting.join().unwrap();
}

fn client(ca: &TestCa, leaf: &Cert) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(leaf.chain_der.clone(), leaf.key_der.clone_key())
        .unwrap();
    Arc::new(client)
}
