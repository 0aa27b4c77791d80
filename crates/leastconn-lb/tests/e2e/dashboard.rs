//! Tests of the dashboard that need no browser. `tests/browser` contains the tests that
//! need a browser.

use leastconn_testkit::{DEADLINE, Upstream, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Running, Site, tcp};

/// Requests a path, and returns head and body of the answer.
async fn get(lb: &Running, path: &str, header: &str) -> (String, String) {
    let mut stream = tcp(lb.admin()).await;
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within(DEADLINE, path, stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), body.to_owned())
}

/// Returns the text from each occurrence of `before` to the next quotation mark.
fn quoted<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    let parts = text.split(before).skip(1);
    parts.filter_map(|part| part.split('"').next())
}

#[tokio::test]
async fn page_and_its_assets_are_served() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let (head, page) = get(&lb, "/", "").await;
    assert!(head.starts_with("http/1.0 200"), "{head}");
    assert!(
        head.contains("content-type: text/html; charset=utf-8"),
        "{head}"
    );
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
    ] {
        assert!(head.contains(rule), "{rule}: {head}");
    }
    assert!(!head.contains("unsafe"), "{head}");

    let mut pending: Vec<String> = quoted(&page, "src=\"")
        .chain(quoted(&page, "<link rel=\"icon\" href=\""))
        .chain(quoted(&page, "<link rel=\"stylesheet\" href=\""))
        .map(str::to_owned)
        .collect();
    let mut seen = Vec::new();
    while let Some(path) = pending.pop() {
        if seen.contains(&path) {
            continue;
        }
        assert!(path.starts_with("/dashboard/"), "{path}");
        let (head, body) = get(&lb, &path, "").await;
        assert!(head.starts_with("http/1.0 200"), "{path}: {head}");
        let kind = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert!(
            head.contains(&format!("content-type: {kind}")),
            "{path}: {head}"
        );
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(head.contains("default-src 'none'"), "{head}");
        assert!(!body.is_empty());
        let modules = quoted(&body, "from \"./");
        pending.extend(modules.map(|module| format!("/dashboard/{module}")));
        seen.push(path);
    }
    // `format.js` is found only if the loop follows the imports of modules.
    assert!(
        seen.iter().any(|path| path.ends_with("/format.js")),
        "{seen:?}"
    );
    let (head, _) = get(&lb, "/dashboard/main.rs", "").await;
    assert!(head.starts_with("http/1.0 404"), "{head}");
    lb.quiet().await;
}

#[tokio::test]
async fn cached_assets_are_not_sent_again() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    let (head, body) = get(&lb, "/dashboard/style.css", "").await;
    assert!(head.contains("cache-control: no-cache"), "{head}");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    let tag = tag.unwrap();
    let condition = format!("if-none-match: \"other\", {tag}\r\n");
    let (head, again) = get(&lb, "/dashboard/style.css", &condition).await;
    assert!(head.starts_with("http/1.0 304"), "{head}");
    assert!(head.contains(tag));
    assert_eq!(again, "");
    let (_, other) = get(&lb, "/dashboard/style.css", "if-none-match: \"x\"\r\n").await;
    assert_eq!(other, body);
    lb.quiet().await;
}
