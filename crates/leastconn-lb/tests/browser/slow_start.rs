use leastconn_testkit::Upstream;
use leastconn_testkit::client::read_line;

use crate::page::Page;
use crate::support::{CLIENT1, Site};

#[tokio::test]
async fn slow_start_progress_is_shown() {
    let webs = [Upstream::named("web1").await, Upstream::named("web2").await];
    let site = Site::usual(&[&webs[0], &webs[1]]).admin("token = \"token\"");
    std::fs::write(site.dir.path().join("token"), "a-long-random-token").unwrap();
    let lb = site.start().await;
    // The ramp takes one hour, so that the share stays at its minimum even on a slow
    // machine.
    let slow = lb
        .config()
        .replace("[[upstream]]", "[[upstream]]\nslow_start = \"1h\"");
    assert_eq!(lb.reload(&slow).await, "applied");
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    for state in ["maint", "ready"] {
        let set = format!(
            "fetch('/api/v1/servers/web/web2/state', {{ method: 'POST', body: '{{\"state\":\"{state}\"}}',
               headers: {{ authorization: 'Bearer a-long-random-token', 'content-type': 'application/json' }} }})
               .then((answer) => answer.status)"
        );
        assert_eq!(page.eval(&set).await, 200);
    }
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let slow = "document.querySelector('[data-server=\"web/web2\"] .slow')";
    page.wait(&format!("!{slow}.hidden")).await;
    assert_eq!(
        page.eval(&format!("{slow}.textContent")).await,
        "slow 10\u{202f}%"
    );
    let other = "document.querySelector('[data-server=\"web/web1\"] .slow').hidden";
    assert_eq!(page.eval(other).await, true);
    page.click("[data-server=\"web/web2\"] button").await;
    let now = page.text("#control-status").await;
    // The connection above may have gone to either server.
    let states = ["0 open connections", "1 open connection"]
        .map(|open| format!("State: unchecked, with {open}. Slow start"));
    assert!(states.iter().any(|state| now.starts_with(state)), "{now}");
    assert!(now.contains("59 min") || now.contains("1 h"), "{now}");
    page.finish(&lb, stream).await;
}
