//! Changed certificates, keys, CAs and CRLs are loaded automatically. If a file is invalid,
//! the error is logged and the previous content stays in use.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, TestCa, TlsClient, Upstream, eventually, metrics, within};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{CLIENT1, FILE_LOAD_TIME, Running, Site, refused, talk};

/// The certificate that the balancer presents, in DER.
async fn presented(lb: &Running) -> Vec<u8> {
    let stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    let certificates = stream.get_ref().1.peer_certificates().unwrap();
    let leaf = certificates[0].to_vec();
    talk(stream).await.unwrap();
    leaf
}

#[tokio::test]
async fn new_crl_ends_exactly_the_revoked_clients() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let certs = [(); 2].map(|()| lb.ca().leaf(CLIENT1).build());
    let mut streams = Vec::new();
    for cert in &certs {
        let mut stream = lb.client_with(cert).connect(lb.main()).await.unwrap();
        read_line(&mut stream).await.unwrap();
        streams.push(stream);
    }
    let outcome = lb
        .reloading(|| lb.ca().write_crl(lb.dir(), &[&certs[0]]))
        .await;
    assert_eq!(outcome, "applied");
    let mut rest = Vec::new();
    let _ = within(DEADLINE, "the close", streams[0].read_to_end(&mut rest)).await;
    lb.expect_record(0, "revoked_certificate").await;
    assert_eq!(roundtrip(&mut streams[1], b"on").await.unwrap(), b"on");
    assert!(
        refused(&lb.client_with(&certs[0]), lb.main())
            .await
            .is_some()
    );
    lb.expect_record(1, "revoked_certificate").await;
    // A loaded file is not loaded again.
    assert_eq!(lb.reloads().await, [1.0, 0.0]);
    let mut last = streams.pop().unwrap();
    last.shutdown().await.unwrap();
    read_to_close(&mut last).await.unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn invalid_renewal_keeps_the_current_certificate() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let before = presented(&lb).await;
    let end = |metrics: &metrics::Metrics| {
        let mut all = metrics::family(metrics, "leastconn_certificate_not_after_seconds");
        all.find(|(key, _)| key.contains("server.crt")).unwrap().1
    };
    let until = end(&lb.metrics().await);
    let new = lb
        .ca()
        .leaf("localhost")
        .dns("localhost")
        .validity(-60, 50_000)
        .build();
    let (half, _) = new.cert_pem.split_at(new.cert_pem.len() / 2);
    let file = lb.dir().join("server.crt");
    let current = fs::read_to_string(&file).unwrap();
    assert_eq!(
        lb.reloading(|| fs::write(&file, half).unwrap()).await,
        "rejected"
    );
    lb.wait_log(
        |event| {
            let message = event["fields"]["message"].as_str().unwrap_or_default();
            event["level"] == "ERROR" && message.contains("server.crt") && message.contains("PEM")
        },
        DEADLINE,
    )
    .await;
    assert_eq!(presented(&lb).await, before);
    // The certificate file is complete, but the key file still contains the old key.
    let whole = || fs::write(&file, &new.cert_pem).unwrap();
    assert_eq!(lb.reloading(whole).await, "rejected");
    assert_eq!(presented(&lb).await, before);
    // The files in use are back.
    let previous = || fs::write(&file, &current).unwrap();
    assert_eq!(lb.reloading(previous).await, "applied");
    let is_valid = |event: &Value| event["fields"]["message"] == "TLS files valid again, unchanged";
    lb.wait_log(is_valid, DEADLINE).await;
    new.write(lb.dir(), "server");
    // The certificate and its key are loaded together. The watcher may have read the files
    // any number of times before.
    eventually(FILE_LOAD_TIME, || async {
        let [applied, rejected] = lb.reloads().await;
        (applied == 2.0)
            .then_some(())
            .ok_or(format!("{applied} applied, {rejected} rejected"))
    })
    .await
    .unwrap();
    assert_eq!(presented(&lb).await, new.der().to_vec());
    assert_ne!(end(&lb.metrics().await), until);
    lb.quiet().await;
}

/// Row 16 of docs/threats.md: an invalid CRL must not count as no CRL.
#[tokio::test]
async fn invalid_crl_keeps_the_current_crl() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).process("watch = \"off\"");
    let listed = site.cert(CLIENT1);
    site.ca.write_crl(&site.dir, &[&listed]);
    let lb = site.start().await;
    let file = lb.dir().join("ca.crl");
    let empty = lb.ca().crl(&[]);
    // None of these CRLs revokes the client that the current CRL revokes.
    let lists = [
        ("expired at", Some(lb.ca().crl_until(&[], -60))),
        ("PEM", Some(empty[..empty.len() / 2].to_owned())),
        ("not signed", Some(TestCa::new("test CA").crl(&[]))),
        ("No such file", None),
    ];
    for (n, (reason, list)) in lists.into_iter().enumerate() {
        match list {
            Some(list) => fs::write(&file, list).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        assert_eq!(lb.reload(&lb.config()).await, "rejected", "{reason}");
        lb.wait_log(
            |event| {
                let message = event["fields"]["message"].as_str().unwrap_or_default();
                event["level"] == "ERROR" && message.contains("ca.crl") && message.contains(reason)
            },
            DEADLINE,
        )
        .await;
        assert!(refused(&lb.client_with(&listed), lb.main()).await.is_some());
        lb.expect_record(2 * n, "revoked_certificate").await;
        talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
            .await
            .unwrap();
        lb.expect_record(2 * n + 1, "ok").await;
    }
    fs::write(&file, empty).unwrap();
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    talk(lb.client_with(&listed).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn changed_symlinks_are_followed() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let dir = site.dir.path().to_owned();
    let other = TestCa::new("other CA");
    for (name, ca) in [("v1", &site.ca), ("v2", &other)] {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("ca.crt"), ca.cert_pem()).unwrap();
        fs::write(dir.join(name).join("ca.crl"), ca.crl(&[])).unwrap();
    }
    let point = |to: &str| {
        symlink(to, dir.join("..new")).unwrap();
        fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
    };
    point("v1");
    for file in ["ca.crt", "ca.crl"] {
        fs::remove_file(dir.join(file)).unwrap();
        symlink(format!("..data/{file}"), dir.join(file)).unwrap();
    }
    let lb = site.start().await;
    talk(lb.client(CLIENT1).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    // The configuration file is not watched, so this change has no effect.
    lb.write_config(&lb.config().replace(CLIENT1, "client2.lb.com"));
    assert_eq!(lb.reloading(|| point("v2")).await, "applied");
    assert!(refused(&lb.client(CLIENT1), lb.main()).await.is_some());
    lb.expect_record(1, "untrusted_certificate").await;
    let leaf = other.leaf(CLIENT1).build();
    let theirs = TlsClient::new(lb.ca(), Some(&leaf));
    talk(theirs.connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn unwatched_files_need_a_reload() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web])
        .process("watch = \"off\"")
        .start()
        .await;
    let cert = lb.ca().leaf(CLIENT1).build();
    lb.ca().write_crl(lb.dir(), &[&cert]);
    // Nothing must happen when the file changes. The file watcher needs less time than this
    // to load a file.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    talk(lb.client_with(&cert).connect(lb.main()).await.unwrap())
        .await
        .unwrap();
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    assert!(refused(&lb.client_with(&cert), lb.main()).await.is_some());
    lb.expect_record(1, "revoked_certificate").await;
    lb.quiet().await;
}
