//! If there are several CRLs, the correct one is applied.

use std::io::Write;

use leastconn_testkit::{DEADLINE, TestCa, Upstream};

use crate::support::upgrading::message;
use crate::support::{CLIENT1, FILE_LOAD_TIME, Running, Site, refused, talk};

async fn is_served(lb: &Running, cert: &leastconn_testkit::Cert) -> bool {
    let before = lb.records().len();
    if let Ok(stream) = lb.client_with(cert).connect(lb.main()).await {
        let _ = talk(stream).await;
    }
    let records = lb.wait_records(before + 1).await;
    records[before]["outcome"] == "ok"
}

#[tokio::test]
async fn newest_crl_decides_in_any_order() {
    let web = Upstream::named("web1").await;
    for newest_first in [false, true] {
        let site = Site::usual(&[&web]);
        let revoked = site.cert(CLIENT1);
        let old = site
            .ca
            .crl_builder()
            .number(1)
            .validity(-7200, 86_400)
            .pem();
        let new = site.ca.crl_builder().number(2).revoke(&revoked).pem();
        let lists = if newest_first { new + &old } else { old + &new };
        std::fs::write(site.dir.path().join("ca.crl"), lists).unwrap();
        let lb = site.start().await;
        refused(&lb.client_with(&revoked), lb.main()).await;
        lb.expect_record(0, "revoked_certificate").await;
        assert!(is_served(&lb, &lb.ca().leaf(CLIENT1).build()).await);
        lb.quiet().await;
    }
}

#[tokio::test]
async fn crl_appended_to_the_file_revokes() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let revoked = site.cert(CLIENT1);
    let path = site.dir.path().join("ca.crl");
    std::fs::write(&path, site.ca.crl_builder().number(1).pem()).unwrap();
    let new = site.ca.crl_builder().number(2).revoke(&revoked).pem();
    let lb = site.start().await;
    let mut open = lb.client_with(&revoked).connect(lb.main()).await.unwrap();
    leastconn_testkit::client::read_line(&mut open)
        .await
        .unwrap();
    let mut file = std::fs::File::options().append(true).open(path).unwrap();
    file.write_all(new.as_bytes()).unwrap();
    // inotify reports the change when the file is closed.
    drop(file);
    lb.wait_record(
        |record| record["outcome"] == "revoked_certificate",
        FILE_LOAD_TIME,
    )
    .await;
    refused(&lb.client_with(&revoked), lb.main()).await;
    lb.wait_records(2).await;
    lb.expect_record(1, "revoked_certificate").await;
    lb.wait_log(
        |line| message(line).contains("is older than another one and is ignored"),
        DEADLINE,
    )
    .await;
    lb.quiet().await;
}

#[tokio::test]
async fn rekeyed_authority_has_a_crl_per_key() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let new = TestCa::new("test CA");
    let both = site.ca.cert_pem() + &new.cert_pem();
    std::fs::write(site.dir.path().join("ca.crt"), both).unwrap();
    let [of_old, of_new] = [&site.ca, &new].map(|ca| ca.leaf(CLIENT1).build());
    let lists = site.ca.crl_builder().number(9).revoke(&of_old).pem()
        + &new.crl_builder().revoke(&of_new).pem();
    std::fs::write(site.dir.path().join("ca.crl"), lists).unwrap();
    let lb = site.start().await;
    for (position, cert) in [&of_old, &of_new].into_iter().enumerate() {
        refused(&lb.client_with(cert), lb.main()).await;
        lb.expect_record(position, "revoked_certificate").await;
    }
    for ca in [lb.ca(), &new] {
        assert!(is_served(&lb, &ca.leaf(CLIENT1).build()).await);
    }
    lb.quiet().await;
}

#[tokio::test]
async fn revoked_intermediate_of_client_ca_ends_its_clients() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let [revoked, beside] = ["revoked", "beside"].map(|name| site.ca.intermediate(name));
    let below = revoked.intermediate("below");
    let authorities = [&site.ca, &revoked, &beside, &below].map(TestCa::cert_pem);
    std::fs::write(site.dir.path().join("ca.crt"), authorities.concat()).unwrap();
    let lists = |root: String| root + &[&revoked, &beside, &below].map(|ca| ca.crl(&[])).concat();
    let path = site.dir.path().join("ca.crl");
    std::fs::write(&path, lists(site.ca.crl_builder().number(1).pem())).unwrap();
    let lb = site.start().await;
    let listed = lb.ca().leaf(CLIENT1).build();
    let certs = [&revoked, &below].map(|ca| ca.leaf(CLIENT1).build());
    let mut open = Vec::new();
    for cert in &certs {
        let mut stream = lb.client_with(cert).connect(lb.main()).await.unwrap();
        leastconn_testkit::client::read_line(&mut stream)
            .await
            .unwrap();
        open.push(stream);
    }
    let new = lb.ca().crl_builder().number(2).revoke(revoked.cert());
    let new = new.revoke(&listed).pem();
    let loaded = lb.reloading(|| std::fs::write(&path, lists(new)).unwrap());
    assert_eq!(loaded.await, "applied");
    for record in lb.wait_records(2).await {
        assert_eq!(record["outcome"], "revoked_certificate", "{record}");
    }
    for (position, cert) in certs.iter().chain([&listed]).enumerate() {
        refused(&lb.client_with(cert), lb.main()).await;
        lb.expect_record(2 + position, "revoked_certificate").await;
    }
    assert!(is_served(&lb, &beside.leaf(CLIENT1).build()).await);
    lb.quiet().await;
}

#[tokio::test]
async fn partition_does_not_cover_certificates_without_point() {
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]);
    let list = site
        .ca
        .crl_builder()
        .distribution_point("http://crl.example/1.crl")
        .pem();
    std::fs::write(site.dir.path().join("ca.crl"), list).unwrap();
    let lb = site.start().await;
    refused(&lb.client(CLIENT1), lb.main()).await;
    let record = lb.expect_record(0, "untrusted_certificate").await;
    let detail = record["detail"].as_str().unwrap();
    assert!(
        detail.contains("the certificate names no distribution point with a URI"),
        "{detail}"
    );
    let covered = lb
        .ca()
        .leaf(CLIENT1)
        .crl_distribution_point("http://crl.example/1.crl");
    assert!(is_served(&lb, &covered.build()).await);
    lb.quiet().await;
}
