use leastconn_testkit::Upstream;
use serde_json::json;

use crate::page::Page;
use crate::support::Site;

#[tokio::test]
async fn injected_content_does_not_run() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    page.assert_no_errors().await;

    // Each attempt returns "yes" if the browser allows it.
    for (what, attempt) in [
        (
            "a script in the page",
            "(() => { const s = document.createElement('script');
               try { s.textContent = 'window.ran = true'; document.body.append(s); } catch {}
               return window.ran ? 'yes' : 'no'; })()",
        ),
        (
            "text as HTML",
            "(() => { try { document.createElement('p').innerHTML = '<img src=x>'; return 'yes'; }
               catch { return 'no'; } })()",
        ),
        (
            "an event handler in an attribute",
            "(() => { const b = document.createElement('button');
               try { b.setAttribute('onclick', 'window.ran = true'); b.click(); } catch {}
               return window.ran ? 'yes' : 'no'; })()",
        ),
        (
            "another origin",
            "fetch('http://127.0.0.99:1/').then(() => 'yes', () => 'no')",
        ),
        (
            "an image from elsewhere",
            "new Promise((done) => { const i = new Image();
               addEventListener('securitypolicyviolation', () => done('no'), { once: true });
               i.onload = () => done('yes'); i.src = 'http://127.0.0.99:1/x.png'; })",
        ),
        (
            "a style in the page",
            "(() => { const s = document.createElement('style'); s.textContent = 'body { --ran: 1 }';
               document.head.append(s);
               return getComputedStyle(document.body).getPropertyValue('--ran') ? 'yes' : 'no'; })()",
        ),
    ] {
        assert_eq!(page.eval(attempt).await, json!("no"), "{what}");
    }
    // The browser reports each violation of the policy as an error of the page.
    assert!(!page.errors().await.is_empty());
    let responses = page.events("Network.responseReceived").await;
    for event in responses {
        let url = event["response"]["url"].as_str().unwrap();
        assert!(!url.contains("127.0.0.99"), "{url}");
    }
    drop(page);
    lb.quiet().await;
}
