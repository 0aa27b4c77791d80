use crate::{
    openssl::s_client,
    program::{Input, run_with},
    site::{RecordLayer, Site, both_record_layers},
};

both_record_layers! {
    #[tokio::test]
    refusals_send_specific_alerts,
}

async fn refusals_send_specific_alerts(layer: RecordLayer) {
    let mut site = Site::with_record_layer(layer).await;
    site.certs.revoke("client2").await;
    site.restart().await;

    let mut records = 0;
    for version in ["-tls1_2", "-tls1_3"] {
        for (client, alert, reason) in [
            (None, "alert certificate required", "no_certificate"),
            (
                Some("alt/client1"),
                "alert unknown ca",
                "untrusted_certificate",
            ),
            (
                Some("expired"),
                "alert certificate expired",
                "expired_certificate",
            ),
            (
                Some("client2"),
                "alert certificate revoked",
                "revoked_certificate",
            ),
        ] {
            let mut openssl = s_client(&site.certs, site.address(), client);
            let output = run_with(openssl.arg(version), Input::Open(b"")).await;
            assert_ne!(output.code, 0, "{version} {client:?}: {output:#?}");
            assert!(
                output.all().contains(alert),
                "{version} {client:?}: {output:#?}"
            );
            records += 1;
            let all = site.balancer.wait_records(records).await;
            assert_eq!(
                all.last().unwrap()["outcome"],
                reason,
                "{version} {client:?}"
            );
        }
        // Authorization fails after the handshake, so the connection is closed cleanly, without an
        // alert.
        let mut openssl = s_client(&site.certs, site.address(), Some("stranger"));
        let output = run_with(openssl.arg(version), Input::Open(b"")).await.ok();
        assert!(!output.all().contains("alert"), "{version}: {output:#?}");
        records += 1;
        let all = site.balancer.wait_records(records).await;
        assert_eq!(
            all.last().unwrap()["outcome"],
            "unknown_client",
            "{version}"
        );
    }
    site.finish().await;
}
