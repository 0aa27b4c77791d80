use crate::{
    openssl::{REQUEST, s_client},
    program::{Input, run, run_with, tool},
    site::{RecordLayer, Site, both_record_layers},
};

both_record_layers! {
    #[tokio::test]
    openssl_gets_no_session,
    #[tokio::test]
    python_gets_no_session,
    #[tokio::test]
    renegotiation_is_refused,
}

async fn openssl_gets_no_session(layer: RecordLayer) {
    let site = Site::with_record_layer(layer).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let file = site.certs.path(&format!("session{version}"));
        let mut first = s_client(&site.certs, site.address(), Some("client1"));
        first.arg(version).arg("-sess_out").arg(&file);
        let output = run_with(&mut first, Input::Open(REQUEST)).await.ok();
        assert!(output.stdout.contains("\nNew, "), "{output:#?}");
        // Without a session, s_client writes no file. If it writes one, resumption must
        // fail.
        if file.exists() {
            let mut second = s_client(&site.certs, site.address(), Some("client1"));
            second.arg(version).arg("-sess_in").arg(&file);
            let output = run_with(&mut second, Input::Open(REQUEST)).await.ok();
            assert!(output.stdout.contains("\nNew, "), "{output:#?}");
            assert!(!output.stdout.contains("\nReused, "), "{output:#?}");
        }
    }
    site.finish().await;
}

/// Python program that opens two connections, and offers the session of the first one for
/// the second.
const RESUME: &str = r#"
import socket, ssl, sys
host, port, ca, cert, key, version = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
session = None
for _ in range(2):
    with socket.create_connection((host, int(port)), 10) as tcp:
        tls = context.wrap_socket(tcp, server_hostname="lb.com", session=session)
        tls.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while tls.recv(4096):
            pass
        session = tls.session
        print("reused", tls.session_reused, "ticket", bool(session and session.has_ticket))
        tls.unwrap()
"#;

async fn python_gets_no_session(layer: RecordLayer) {
    let site = Site::with_record_layer(layer).await;
    let (cert, key) = site.certs.pair("client1");
    for version in ["TLSv1_2", "TLSv1_3"] {
        let mut python = tool("python3");
        python
            .args([
                "-c",
                RESUME,
                "127.0.0.1",
                &site.address().port().to_string(),
            ])
            .args([&site.certs.path("ca/ca.crt"), &cert, &key])
            .arg(version);
        let text = run(&mut python).await.ok().stdout;
        assert_eq!(text, "reused False ticket False\n".repeat(2), "{version}");
    }
    site.finish().await;
}

async fn renegotiation_is_refused(layer: RecordLayer) {
    let site = Site::with_record_layer(layer).await;
    let mut openssl = s_client(&site.certs, site.address(), Some("client1"));
    // s_client renegotiates when it reads the line `R`.
    let output = run_with(openssl.arg("-tls1_2"), Input::Open(b"R\n")).await;
    assert!(output.stdout.contains("\nNew, "), "{output:#?}");
    assert!(output.all().contains("no renegotiation"), "{output:#?}");
    site.balancer.wait_records(1).await;
    site.finish().await;
}
