//! ALPN: the protocols that the balancer negotiates with clients and offers to servers.

use std::net::SocketAddr;
use std::sync::Arc;

use leastconn_testkit::client::read_line;
use leastconn_testkit::{TestCa, TlsClient, Upstream};
use rustls::{AlertDescription, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::{
    CLIENT1, NO_PROBES, Records, Running, Site, TLS, both_record_layers, cn, entries, entry,
    refused, talk,
};

both_record_layers! {
    #[tokio::test]
    listener_chooses_its_preferred_protocol,
    #[tokio::test]
    client_without_alpn_is_served,
    #[tokio::test]
    client_with_other_protocols_is_refused,
    #[tokio::test]
    server_is_offered_what_the_client_agreed_on,
}

fn site(records: Records, alpn: &str, web: &Upstream) -> Site {
    let tls = TLS.replace(" }", &format!(", alpn = {alpn} }}"));
    Site::new()
        .records(records)
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
}

fn negotiated(stream: &tokio_rustls::client::TlsStream<tokio::net::TcpStream>) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

/// Returns two clients like `client`, each restricted to one TLS version.
fn versions(client: &TlsClient) -> [TlsClient; 2] {
    [client.clone().tls12(), client.clone().tls13()]
}

async fn listener_chooses_its_preferred_protocol(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = site(records, "[\"h2\", \"http/1.1\"]", &web).start().await;
    let client = lb.client(CLIENT1).alpn(&["http/1.1", "x", "h2"]);
    for (n, client) in versions(&client).iter().enumerate() {
        let stream = client.connect(lb.main()).await.unwrap();
        assert_eq!(negotiated(&stream), Some(&b"h2"[..]));
        talk(stream).await.unwrap();
        assert_eq!(lb.expect_record(n, "ok").await["alpn"], "h2");
    }
    lb.quiet().await;
}

async fn client_without_alpn_is_served(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = site(records, "[\"postgresql\"]", &web).start().await;
    for (n, client) in versions(&lb.client(CLIENT1)).iter().enumerate() {
        let stream = client.connect(lb.main()).await.unwrap();
        assert_eq!(negotiated(&stream), None);
        talk(stream).await.unwrap();
        let record = lb.expect_record(n, "ok").await;
        assert!(record.get("alpn").is_none(), "{record}");
    }
    lb.quiet().await;
}

async fn client_with_other_protocols_is_refused(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = site(records, "\"postgresql\"", &web).start().await;
    let client = lb.client(CLIENT1).alpn(&["h2", "postgres\u{1b}[2J"]);
    for (n, client) in versions(&client).iter().enumerate() {
        let alert = refused(client, lb.main()).await;
        assert_eq!(alert, Some(AlertDescription::NoApplicationProtocol));
        let record = lb.expect_record(n, "handshake_failed").await;
        assert_eq!(record["alert_sent"], "no_application_protocol");
        let detail = record["detail"].as_str().unwrap();
        assert!(
            detail.contains("the client offers h2, postgres"),
            "{detail}"
        );
        assert!(!detail.contains('\u{1b}'), "{detail}");
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}

/// Starts a TLS server that sends the negotiated protocol, or `none`, as one line.
async fn protocol_server(ca: &TestCa, protocols: &[&str]) -> SocketAddr {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(ca.server(&["web.lb.com"]).resolver());
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let chosen = stream.get_ref().1.alpn_protocol();
            let chosen = String::from_utf8(chosen.unwrap_or(b"none").to_vec()).unwrap();
            let _ = stream.write_all(format!("{chosen}\n").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    address
}

async fn server_protocol(lb: &Running, client: &TlsClient) -> String {
    let mut stream = client.connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap()
}

async fn server_is_offered_what_the_client_agreed_on(records: Records) {
    let site = Site::new();
    let server = protocol_server(&site.ca, &["h2", "http/1.1", "postgresql"]).await;
    let tls = TLS.replace(" }", ", alpn = [\"h2\", \"http/1.1\", \"spdy\"] }");
    let server_tls = "tls = { ca = \"ca.crt\", server_name = \"web.lb.com\", alpn = [\"postgresql\", \"http/1.1\", \"h2\"] }";
    let lb = site
        .records(records)
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream(
            "web",
            &[NO_PROBES, server_tls],
            &[entry("web1", server, "")],
        )
        .client("client1", &cn(CLIENT1), "web", "")
        .start()
        .await;
    let client = lb.client(CLIENT1);
    // The server must use the client's protocol, even if the server prefers another one.
    assert_eq!(
        server_protocol(&lb, &client.clone().alpn(&["http/1.1"])).await,
        "http/1.1"
    );
    assert_eq!(
        server_protocol(&lb, &client.clone().alpn(&["h2"])).await,
        "h2"
    );
    // If the client negotiated no protocol, the balancer offers all protocols to the
    // server, which chooses.
    assert_eq!(
        server_protocol(&lb, &client.clone().alpn(&["spdy"])).await,
        "h2"
    );
    assert_eq!(server_protocol(&lb, &client).await, "h2");
    lb.wait_records(4).await;
    lb.quiet().await;
}
