use crate::{
    openssl::{REQUEST, s_client},
    program::{Input, run, run_with, tool},
    site::{Records, Site, both_record_layers},
};

both_record_layers! {
    #[tokio::test]
    openssl_gets_no_session,
    #[tokio::test]
    python_gets_no_session,
    #[tokio::test]
    renegotiation_is_refused,
}

async fn openssl_gets_no_session(records: Records) {
    let site = Site::with_records(records).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let file = site.certs.path(&format!("session{version}"));
        let mut first = s_client(&site.certs, site.address(), Some("client1"));
        first.arg(version).arg("-sess_out").arg(&file);
        let ended = run_with(&mut first, Input::Open(REQUEST)).await.ok();
        assert!(ended.stdout.contains("\nNew, "), "{ended:#?}");
        // openssl writes what the server lets it resume: nothing. Should a version
        // of it write something, that must not work.
        if file.exists() {
            let mut second = s_client(&site.certs, site.address(), Some("client1"));
            second.arg(version).arg("-sess_in").arg(&file);
            let ended = run_with(&mut second, Input::Open(REQUEST)).await.ok();
            assert!(ended.stdout.contains("\nNew, "), "{ended:#?}");
            assert!(!ended.stdout.contains("\nReused, "), "{ended:#?}");
        }
    }
    site.finish().await;
}

/// Python offers the session of its first connection for the second.
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

async fn python_gets_no_session(records: Records) {
    let site = Site::with_records(records).await;
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
        let said = run(&mut python).await.ok().stdout;
        assert_eq!(said, "reused False ticket False\n".repeat(2), "{version}");
    }
    site.finish().await;
}

async fn renegotiation_is_refused(records: Records) {
    let site = Site::with_records(records).await;
    let mut openssl = s_client(&site.certs, site.address(), Some("client1"));
    // To s_client a line that says R means: renegotiate.
    let ended = run_with(openssl.arg("-tls1_2"), Input::Open(b"R\n")).await;
    assert!(ended.stdout.contains("\nNew, "), "{ended:#?}");
    assert!(ended.all().contains("no renegotiation"), "{ended:#?}");
    site.balancer.wait_records(1).await;
    site.finish().await;
}
