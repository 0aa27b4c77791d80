use crate::{
    program::{Output, command, run},
    site::{Site, repository},
};

async fn script(site: &Site, path: &str) -> Output {
    let mut script = command(repository().join(path));
    script
        .env("LB_ADDRESS", site.address().to_string())
        .env("CERTS", site.certs.path(""))
        .env("TMPDIR", site.certs.dir())
        .env("COUNT", "40")
        .env("AT_ONCE", "10");
    run(&mut script).await
}

#[tokio::test]
async fn mtls_scripts_succeed() {
    let site = Site::start().await;
    let text = script(&site, "certs/test-mtls.sh").await.ok().stdout;
    assert!(text.ends_with("all as expected\n"), "{text}");
    let text = script(&site, "certs/test-mtls-alt.sh").await.ok().stdout;
    assert!(text.contains("refused by TLS: alert unknown ca"), "{text}");
    let text = script(&site, "test/load.sh").await.ok().stdout;
    assert!(text.contains("80 requests, 10 at once"), "{text}");
    site.finish().await;
}

#[tokio::test]
async fn mtls_scripts_detect_failures() {
    let mut site = Site::start().await;
    // The script must detect that one server is down.
    site.web1.stop();
    let text = script(&site, "certs/test-mtls.sh").await;
    assert_eq!(text.code, 1, "{text:?}");
    assert!(text.stderr.contains("webapp1 answered none"), "{text:?}");
    // All scripts must detect that the balancer is down.
    crate::site::stop(&site.balancer).await;
    for name in [
        "certs/test-mtls.sh",
        "certs/test-mtls-alt.sh",
        "test/load.sh",
    ] {
        let text = script(&site, name).await;
        assert_eq!(text.code, 1, "{name}: {text:?}");
    }
}
