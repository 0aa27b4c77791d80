use crate::{
    program::{Ended, command, run},
    site::{Site, repository},
};

async fn script(site: &Site, path: &str) -> Ended {
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
    let said = script(&site, "certs/test-mtls.sh").await.ok().stdout;
    assert!(said.ends_with("all as expected\n"), "{said}");
    let said = script(&site, "certs/test-mtls-alt.sh").await.ok().stdout;
    assert!(said.contains("refused by TLS: alert unknown ca"), "{said}");
    let said = script(&site, "test/load.sh").await.ok().stdout;
    assert!(said.contains("80 requests, 10 at once"), "{said}");
    site.finish().await;
}

#[tokio::test]
async fn mtls_scripts_detect_failures() {
    let mut site = Site::start().await;
    // The other server is missing.
    site.web1.stop();
    let said = script(&site, "certs/test-mtls.sh").await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("webapp1 answered none"), "{said:?}");
    // The balancer is.
    crate::site::stop(&site.balancer).await;
    for name in [
        "certs/test-mtls.sh",
        "certs/test-mtls-alt.sh",
        "test/load.sh",
    ] {
        let said = script(&site, name).await;
        assert_eq!(said.code, 1, "{name}: {said:?}");
    }
}
