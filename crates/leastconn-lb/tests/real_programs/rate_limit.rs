use crate::{
    curl,
    program::{replace, run},
    site::Site,
};

#[tokio::test]
async fn rate_limit_applies_per_client() {
    // The rate in the example adds a token every 50 ms, and curl needs about that long for 21
    // handshakes. This rate adds no token during the test.
    let site = Site::start_with(|config| {
        replace(&config, "rate = 20, burst = 20", "rate = 0.001, burst = 20")
    })
    .await;

    let mut greedy = curl::get(&site.certs, site.address(), Some("client1"));
    greedy
        .args(["--parallel", "--parallel-immediate", "--parallel-max", "21"])
        .args(["--write-out", "code %{http_code}\n"])
        .args((0..21).map(|n| format!("https://lb.com/{n}")));
    let (greedy, other) = tokio::join!(run(&mut greedy), site.page("client2"));

    assert_eq!(other.ok().stdout, "webapp2\n");
    let served = greedy.stdout.matches("code 200").count();
    assert_eq!(served, 20, "{greedy:#?}");
    let records = site.balancer.wait_records(22).await;
    let count = |client: &str, outcome: &str| {
        let matching = |r: &&serde_json::Value| r["client"] == client && r["outcome"] == outcome;
        records.iter().filter(matching).count()
    };
    assert_eq!(count("client1", "rate_limited"), 1, "{records:#?}");
    assert_eq!(count("client1", "ok"), 20, "{records:#?}");
    assert_eq!(count("client2", "ok"), 1, "{records:#?}");
    site.finish().await;
}
