use crate::site::Site;

#[tokio::test]
async fn client1_reaches_both_servers_client2_one() {
    let site = Site::start().await;

    let mut pages = Vec::new();
    for _ in 0..10 {
        pages.push(site.page("client1").await.ok().stdout);
    }
    for page in ["webapp1\n", "webapp2\n"] {
        assert!(pages.iter().any(|got| got == page), "{pages:?}");
    }
    for _ in 0..6 {
        assert_eq!(site.page("client2").await.ok().stdout, "webapp2\n");
    }

    let records = site.balancer.wait_records(16).await;
    for record in &records {
        assert_eq!(record["outcome"], "ok", "{record}");
        let rule = record["client"].as_str().unwrap();
        assert_eq!(record["identity"], format!("cn:{rule}.lb.com"), "{record}");
        if rule == "client2" {
            assert_eq!(record["server"], "webapp2", "{record}");
        }
    }
    assert_eq!(records.len(), 16);
    assert_eq!(site.web1.requests().len() + site.web2.requests().len(), 16);
    site.finish().await;
}
