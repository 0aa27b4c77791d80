//! HTTP/2: curl and nghttp as clients, nginx as server.

use crate::{
    curl,
    nginx::Nginx,
    program::{run, tool},
    service::{Front, NO_PROBES, are_installed},
    site::Certs,
};

#[tokio::test]
async fn http2_clients_are_served() {
    let certs = Certs::generate().await;
    let nginx = Nginx::start_http2("web", certs.dir()).await;
    let front = Front::start(certs, nginx.address(), "alpn = [\"h2\"]", NO_PROBES).await;
    let address = front.balancer.address("main");
    let version = ["--http2", "-w", "%{http_version}\n"];
    let mut curl = curl::get(&front.certs, address, Some("client1"));
    // curl sends two requests on one connection.
    curl.args(version)
        .args(["https://lb.com/", "https://lb.com/"]);
    assert_eq!(run(&mut curl).await.ok().stdout, "web\n2\nweb\n2\n");
    let mut connections = 1;
    if are_installed(&[("nghttp", "nghttp2-client")]) {
        let [_, cert, key] = front.files();
        let mut nghttp = tool("nghttp");
        nghttp.arg("--cert").arg(cert).arg("--key").arg(key);
        nghttp.args(["--multiply=50", &format!("https://{address}/")]);
        let ended = run(&mut nghttp).await.ok();
        assert_eq!(ended.stdout, "web\n".repeat(50), "{ended:?}");
        connections += 1;
    }
    for record in front.finish(connections).await {
        assert_eq!(record["alpn"], "h2");
    }
}
