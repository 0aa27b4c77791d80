use leastconn_testkit::{DEADLINE, eventually};

use crate::{curl, program::run, site::Site};

#[tokio::test]
async fn curl_reuses_one_connection() {
    let site = Site::start().await;
    let mut curl = curl::get(&site.certs, site.address(), Some("client2"));
    curl.args(["--write-out", "new %{num_connects}\n"])
        .args((0..4).map(|n| format!("https://lb.com/{n}")));
    let text = run(&mut curl).await.ok().stdout;
    assert_eq!(
        text,
        "webapp2\nnew 1\n".to_owned() + &"webapp2\nnew 0\n".repeat(3)
    );

    // The balancer also uses one connection to the server, with requests 1 to 4. nginx logs
    // a request shortly after it has answered the request.
    let written = eventually(DEADLINE, || async {
        let requests = site.web2.requests();
        (requests.len() == 4)
            .then_some(requests)
            .ok_or_else(|| "not all requests".to_owned())
    });
    let requests = written.await.unwrap();
    let of: Vec<Vec<&str>> = requests.iter().map(|r| r.split(' ').collect()).collect();
    for (n, request) in of.iter().enumerate() {
        assert_eq!(request[0], of[0][0], "{requests:?}");
        assert_eq!(request[1], (n + 1).to_string(), "{requests:?}");
        assert_eq!(request[2], format!("/{n}"), "{requests:?}");
    }
    let records = site.balancer.wait_records(1).await;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["outcome"], "ok", "{}", records[0]);
    site.finish().await;
}
