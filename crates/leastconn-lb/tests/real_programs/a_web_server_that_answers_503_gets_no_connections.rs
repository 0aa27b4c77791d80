use std::time::Duration;

use crate::{program::replace, site::Site};

#[tokio::test]
async fn a_web_server_that_answers_503_gets_no_connections() {
    let site = Site::start_with(|config| {
        replace(
            &config,
            "type = \"tcp\", interval = \"10s\"",
            "type = \"http\", path = \"/healthz\", status = 200, interval = \"100ms\"",
        )
    })
    .await;
    let up = "leastconn_server_up{upstream=\"web\",server=\"webapp1\"}";
    let limit = Duration::from_secs(10);
    site.balancer.wait_metric(up, 1.0, limit).await;

    let webs = async |count: usize| {
        let mut pages = Vec::new();
        for _ in 0..count {
            pages.push(site.page("client1").await.ok().stdout);
        }
        pages
    };
    assert!(webs(6).await.contains(&"webapp1\n".to_owned()));

    site.web1.be_well(false);
    site.balancer.wait_metric(up, 0.0, limit).await;
    assert_eq!(webs(6).await, ["webapp2\n"; 6]);

    site.web1.be_well(true);
    site.balancer.wait_metric(up, 1.0, limit).await;
    assert!(webs(6).await.contains(&"webapp1\n".to_owned()));
    site.finish().await;
}
