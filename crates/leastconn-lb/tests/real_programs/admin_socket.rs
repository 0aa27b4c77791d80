use leastconn_testkit::{Balancer, TempDir, Upstream};
use serde_json::Value;

use crate::{
    plain,
    program::{LB, run, tool},
};

/// The curl commands need no headers and no token.
#[tokio::test]
async fn curl_uses_the_admin_socket() {
    let dir = TempDir::new().unwrap();
    let web = Upstream::named("web1").await;
    let admin = format!("{}socket = \"lb.sock\"\n", plain::ADMIN);
    let servers = format!(
        "servers = [{{ name = \"web1\", address = \"{}\" }}]",
        web.addr()
    );
    let config = plain::configuration(&admin, &servers);
    let lb = Balancer::start(LB, &config, &dir).await.unwrap();
    let curl = async |args: &[&str]| {
        let mut curl = tool("curl");
        curl.args(["-q", "--silent", "--show-error", "--max-time", "20"])
            .args(["--write-out", " %{http_code}"])
            .arg("--unix-socket")
            .arg(dir.path().join("lb.sock"))
            .args(args);
        let text = run(&mut curl).await.ok().stdout;
        let (body, code) = text.rsplit_once(' ').unwrap();
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{text}"));
        (code.to_owned(), body)
    };
    let (code, done) = curl(&["-X", "POST", "http://x/api/v1/reload"]).await;
    assert_eq!((&*code, done["outcome"].as_str()), ("200", Some("applied")));
    let state = "http://x/api/v1/servers/web/web1/state";
    let (code, done) = curl(&["-d", r#"{"state":"drain"}"#, state]).await;
    assert_eq!((&*code, done["was"].as_str()), ("200", Some("ready")));
    // These endpoints reject requests that have no body.
    for path in ["servers/web/web1/state", "connections/kill", "log-level"] {
        let (code, wrong) = curl(&["-X", "POST", &format!("http://x/api/v1/{path}")]).await;
        let error = wrong["error"].as_str().unwrap();
        assert_eq!(code, "400", "{path}: {error}");
        assert!(error.contains("there is no body"), "{path}: {error}");
    }
    // A browser would send this header with requests from another site's page.
    let origin = ["-H", "Origin: http://evil.com"];
    let (code, _) = curl(&[&origin[..], &["-d", "{}", "http://x/api/v1/reload"]].concat()).await;
    assert_eq!(code, "421");
    let (code, _) = curl(&[
        "-H",
        "Origin: http://evil.com",
        "-d",
        "{}",
        "http://localhost/api/v1/reload",
    ])
    .await;
    assert_eq!(code, "403");
    let (_, servers) = curl(&["http://x/api/v1/servers"]).await;
    assert_eq!(servers["servers"][0]["state"], "drain");
    // The TCP address still refuses changes.
    let mut curl = tool("curl");
    curl.args(["-q", "--silent", "--show-error", "--max-time", "20"])
        .args(["--write-out", " %{http_code}", "-X", "POST"])
        .arg(format!("http://{}/api/v1/reload", lb.admin()));
    let text = run(&mut curl).await.ok().stdout;
    assert!(text.ends_with(" 403"), "{text}");
}
