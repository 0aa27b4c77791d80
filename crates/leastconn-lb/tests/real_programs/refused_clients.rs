use leastconn_testkit::{DEADLINE, eventually};

use crate::{
    curl,
    program::{replace, run},
    site::Site,
};

/// Starts a site, and waits for the first health checks. No more health checks follow, so
/// all later connections to the servers come from clients. Returns the number of
/// connections so far.
async fn without_probes() -> (Site, u64) {
    let site =
        Site::start_with(|config| replace(&config, "interval = \"10s\"", "interval = \"1h\""))
            .await;
    let accepted = probes(&site).await;
    (site, accepted)
}

async fn probes(site: &Site) -> u64 {
    let probed = eventually(DEADLINE, || async {
        match (site.web1.accepted().await, site.web2.accepted().await) {
            (0, _) | (_, 0) => Err("the first health checks have not run".to_owned()),
            (one, two) => Ok(one + two),
        }
    });
    probed.await.unwrap()
}

#[tokio::test]
async fn refused_clients_reach_no_server() {
    let (site, before) = without_probes().await;

    let mut refused = Vec::new();
    for (client, reason) in [
        (Some("alt/client1"), "untrusted_certificate"),
        (None, "no_certificate"),
        (Some("stranger"), "unknown_client"),
        (Some("expired"), "expired_certificate"),
    ] {
        let mut curl = curl::get(&site.certs, site.address(), client);
        let output = run(curl.arg("https://lb.com/")).await;
        assert_ne!(output.code, 0, "{client:?} was served: {output:?}");
        // The exit code is neither 22 (HTTP error) nor 28 (timeout).
        assert!(![22, 28].contains(&output.code), "{client:?}: {output:?}");
        refused.push(reason);
        let records = site.balancer.wait_records(refused.len()).await;
        let outcomes: Vec<_> = records.iter().map(|record| &record["outcome"]).collect();
        assert_eq!(outcomes, refused, "{client:?}");
        let last = records.last().unwrap();
        assert!(
            last.get("server").is_none() && last.get("attempts").is_none(),
            "{last}"
        );
    }
    let metrics = site.balancer.metrics().await;
    for reason in refused {
        let series =
            format!("leastconn_connections_total{{listener=\"main\",outcome=\"{reason}\"}}");
        assert_eq!(metrics.get(&series), Some(&1.0), "{series} in {metrics:#?}");
    }

    let after = site.web1.accepted().await + site.web2.accepted().await;
    assert_eq!(after, before, "refused connections reached nginx");
    assert!(site.web1.requests().is_empty() && site.web2.requests().is_empty());
    site.finish().await;
}

#[tokio::test]
async fn revoked_client_reaches_no_server() {
    let (mut site, _) = without_probes().await;
    site.page("client2").await.ok();

    site.certs.revoke("client2").await;
    let served = site.web1.accepted().await + site.web2.accepted().await;
    site.restart().await;
    // The new balancer sends one health check to each server.
    let probed = eventually(DEADLINE, || async {
        match site.web1.accepted().await + site.web2.accepted().await - served {
            2 => Ok(()),
            n => Err(format!("{n} health checks have run")),
        }
    });
    probed.await.unwrap();

    let output = site.page("client2").await;
    assert!(
        output.stderr.contains("alert certificate revoked"),
        "{output:?}"
    );
    assert_eq!(site.refusal().await["outcome"], "revoked_certificate");
    let after = site.web1.accepted().await + site.web2.accepted().await;
    assert_eq!(after, served + 2, "refused connections reached nginx");
    site.page("client1").await.ok();
    site.finish().await;
}
