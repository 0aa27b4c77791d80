use leastconn_testkit::{DEADLINE, eventually};

use crate::site::{Site, raise_rate_limit};

#[tokio::test]
async fn client1_reaches_both_servers_client2_one() {
    let site = Site::start_with(|config| raise_rate_limit(&config)).await;

    // The balancer breaks ties between idle servers at random, so request pages until both
    // servers have answered.
    let mut pages = Vec::new();
    let all = ["webapp1\n", "webapp2\n"];
    while pages.len() < 10 || !all.iter().all(|page| pages.iter().any(|got| got == page)) {
        assert!(pages.len() < 50, "{pages:?}");
        pages.push(site.page("client1").await.ok().stdout);
    }
    for _ in 0..6 {
        assert_eq!(site.page("client2").await.ok().stdout, "webapp2\n");
    }

    let count = pages.len() + 6;
    let records = site.balancer.wait_records(count).await;
    for record in &records {
        assert_eq!(record["outcome"], "ok", "{record}");
        let rule = record["client"].as_str().unwrap();
        assert_eq!(record["identity"], format!("cn:{rule}.lb.com"), "{record}");
        if rule == "client2" {
            assert_eq!(record["server"], "webapp2", "{record}");
        }
    }
    assert_eq!(records.len(), count);
    // nginx logs a request shortly after it has sent the response.
    eventually(DEADLINE, || async {
        let requests = site.web1.requests().len() + site.web2.requests().len();
        (requests == count)
            .then_some(())
            .ok_or(format!("{requests} requests"))
    })
    .await
    .unwrap();
    site.finish().await;
}
