use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Upstream};

use crate::page::Page;
use crate::support::{CLIENT1, Running, Site, cn};

const TOKEN: &str = "a-long-random-token";

async fn site(web: &Upstream, admin: &str) -> Running {
    let site = Site::usual(&[web])
        .client("other", &cn("other.lb.com"), "web", "")
        .admin(admin);
    std::fs::write(site.dir.path().join("token"), TOKEN).unwrap();
    site.start().await
}

/// Waits until the page shows the connection of `client`; returns its ID and its button.
async fn close_button(page: &Page, client: &str) -> (u64, String) {
    let id = page
        .wait(&format!(
            "Number([...document.querySelectorAll('[data-connection]')].find((row) => row.innerText.includes('{client}'))?.dataset.connection ?? 0)"
        ))
        .await
        .as_u64()
        .unwrap();
    (id, format!("[data-connection=\"{id}\"] button"))
}

#[tokio::test]
async fn kill_ends_only_the_chosen_connection() {
    let web = Upstream::named("web1").await;
    let lb = site(&web, "token = \"token\"").await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut mine = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    let mut other = lb.client("other.lb.com").connect(lb.main()).await.unwrap();
    for stream in [&mut mine, &mut other] {
        read_line(stream).await.unwrap();
    }
    let (id, button) = close_button(&page, "other").await;

    // Use the keyboard only. Escape cancels the dialog and closes no connection.
    let focus = format!("document.querySelector('{button}').focus()");
    page.eval(&focus).await;
    page.press("Enter").await;
    page.wait("document.getElementById('control').open").await;
    let description = page.text("#control-status").await;
    for part in ["Client other", "cn:other.lb.com", "127.0.0.1:", "web/web1"] {
        assert!(description.contains(part), "{part}: {description}");
    }
    page.press("Escape").await;
    page.wait("!document.getElementById('control').open").await;
    let back = format!("document.activeElement === document.querySelector('{button}')");
    assert_eq!(page.eval(&back).await, true);
    assert_eq!(roundtrip(&mut other, b"hello").await.unwrap(), b"hello");

    page.press("Enter").await;
    page.wait("document.activeElement.id === 'control-token'")
        .await;
    page.send("Input.insertText", serde_json::json!({ "text": TOKEN }))
        .await;
    page.press("Enter").await;
    let done = format!("Connection {id} is closed.");
    page.wait(&format!(
        "document.getElementById('control-result').textContent === '{done}'"
    ))
    .await;
    let _ = read_to_close(&mut other).await;
    lb.wait_metric(
        "leastconn_connections_total{listener=\"main\",outcome=\"killed\"}",
        1.0,
        DEADLINE,
    )
    .await;
    assert_eq!(page.text("#notice").await, done);
    page.wait(&format!("!document.querySelector('{button}')"))
        .await;
    page.press("Enter").await;
    page.wait("!document.getElementById('control').open").await;
    assert_eq!(roundtrip(&mut mine, b"hello").await.unwrap(), b"hello");
    page.wait("document.activeElement.id === 'main'").await;

    // If the connection ends before the request arrives, the page says so.
    let (id, button) = close_button(&page, "client1").await;
    page.click(&button).await;
    page.wait("document.activeElement.id === 'control-close'")
        .await;
    drop(mine);
    page.wait(&format!("!document.querySelector('{button}')"))
        .await;
    page.click("#control-choices button").await;
    page.wait("document.getElementById('control-result').className === 'bad'")
        .await;
    let result = page.text("#control-result").await;
    assert!(
        result.contains(&format!("no open connection {id}")),
        "{result}"
    );
    page.assert_same_origin_requests().await;
    drop((page, other));
    lb.quiet().await;
}

#[tokio::test]
async fn kill_command_is_shown_without_a_token() {
    let web = Upstream::named("web1").await;
    let lb = site(&web, "").await;
    let Some(page) = Page::open(&lb).await else {
        return;
    };
    let mut stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    read_line(&mut stream).await.unwrap();
    let (id, button) = close_button(&page, "client1").await;
    page.click(&button).await;
    let command = page.text("#control-commands code").await;
    assert!(
        command.ends_with(&format!("kill --connection {id}")),
        "{command}"
    );
    assert_eq!(
        page.eval("document.getElementById('control-choices').hidden")
            .await,
        true
    );
    assert_eq!(roundtrip(&mut stream, b"hello").await.unwrap(), b"hello");
    page.finish(&lb, stream).await;
}
