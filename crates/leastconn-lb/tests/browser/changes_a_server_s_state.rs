use leastconn_testkit::Upstream;

use crate::page::Page;
use crate::support::Site;

#[tokio::test]
async fn without_a_token_the_command_is_shown() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    page.click("[data-server=\"web/web1\"] button").await;
    page.wait("document.getElementById('control').open").await;
    assert_eq!(page.text("#control-title").await, "web/web1");
    assert_eq!(
        page.text("#control-ctl").await,
        "leastconn-lb ctl drain web/web1"
    );
    drop(page);
    lb.quiet().await;
}
