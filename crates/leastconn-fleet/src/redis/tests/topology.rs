use std::{sync::Arc, time::Duration};

use leastconn_testkit::{DEADLINE, Sentinel, StoreKind, StoreOptions, StoreServer, TestCa};
use rustls::{ClientConfig, RootCertStore};

use super::{failures::report_of, *};
use crate::{Password, StoreTls};

fn member(endpoint: Endpoint) -> Redis {
    Redis::new(&settings(), RedisSettings::new(endpoint))
}

async fn exchange(member: &mut Redis) -> Result<View, String> {
    let report = report_of(0);
    match tokio::time::timeout(Duration::from_secs(2), member.exchange(&report)).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("timeout".to_owned()),
    }
}

/// Repeats the exchange until it succeeds.
async fn recover(member: &mut Redis) -> View {
    let start = tokio::time::Instant::now();
    loop {
        match exchange(member).await {
            Ok(view) => return view,
            Err(error) if start.elapsed() > DEADLINE => panic!("{error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until the first exchange is on the replica.
async fn wait_replicated(replica: &StoreServer) {
    replica
        .wait_for(&["EXISTS", "lc1:{test}:m"], "Integer(1)")
        .await;
}

fn tls_settings(server: &StoreServer, ca: &TestCa, client: Option<&str>) -> RedisSettings {
    let mut roots = RootCertStore::empty();
    roots.add(ca.cert().der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some(name) => {
            let cert = ca.leaf(name).build();
            let chain = cert.chain_der.clone();
            config
                .with_client_auth_cert(chain, cert.key_der.clone_key())
                .unwrap()
        }
        None => config.with_no_client_auth(),
    };
    let mut settings = RedisSettings::new(Endpoint::Server(server.tls_address().into()));
    settings.tls = Some(StoreTls {
        config: Arc::new(config),
        server_name: None,
    });
    settings
}

#[tokio::test]
async fn unix_socket_user_and_name() {
    for kind in StoreKind::installed() {
        let rule = crate::acl_rule("test", "leastconn");
        let rule = rule.strip_prefix("leastconn ").unwrap();
        let options = StoreOptions::new(kind).user("leastconn", &format!("{rule} >secret"));
        let server = StoreServer::start_with(options).await;
        let path = server.socket().display().to_string();
        let mut settings =
            RedisSettings::new(Endpoint::Server(format!("unix:{path}").parse().unwrap()));
        settings.user = Some("leastconn".to_owned());
        settings.password = Some(Password::new("secret"));
        settings.client_name = "leastconn lb1".to_owned();
        let mut member = Redis::new(&cases::settings(), settings);
        member.exchange(&report_of(0)).await.unwrap();
        let clients = server.command(&["CLIENT", "LIST"]).await.text();
        assert!(clients.contains("name=leastconn_lb1"), "{clients}");
        assert!(clients.contains("user=leastconn"), "{clients}");
        let name = kind.to_string().to_lowercase();
        let shown = member.server().unwrap();
        assert!(
            shown.starts_with(&format!("unix:{path} ({name}")),
            "{shown}"
        );
    }
}

// The packaged Valkey has no TLS.
#[tokio::test]
async fn mutual_tls() {
    let ca = TestCa::new("store");
    let options = StoreOptions::new(StoreKind::Redis).mutual_tls(&ca);
    let server = StoreServer::start_with(options).await;
    let mut with = Redis::new(&settings(), tls_settings(&server, &ca, Some("lb1")));
    exchange(&mut with).await.unwrap();
    let mut without = Redis::new(&settings(), tls_settings(&server, &ca, None));
    let error = exchange(&mut without).await.unwrap_err();
    assert!(
        error.starts_with(&server.tls_address().to_string()),
        "{error}"
    );

    let other = TestCa::new("other");
    let mut foreign = Redis::new(&settings(), tls_settings(&server, &other, None));
    let error = exchange(&mut foreign).await.unwrap_err();
    assert!(
        error.contains("TLS handshake failed: invalid peer certificate"),
        "{error}"
    );
    assert!(error.contains("check `ca`"), "{error}");

    let mut named = tls_settings(&server, &ca, Some("lb1"));
    if let Some(tls) = &mut named.tls {
        tls.server_name = Some("valkey.internal".try_into().unwrap());
    }
    let error = exchange(&mut Redis::new(&settings(), named))
        .await
        .unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn sentinels_are_followed() {
    for kind in StoreKind::installed() {
        let options = || {
            StoreOptions::new(kind)
                .password("secret")
                .config("masterauth secret")
        };
        let primary = StoreServer::start_with(options()).await;
        let replica = StoreServer::start_with(options().replica_of(primary.address())).await;
        let sentinel = Sentinel::start_with(kind, &primary, 1, Some("other")).await;
        let unreachable = leastconn_testkit::Port::reserve();
        let mut settings = RedisSettings::new(Endpoint::Sentinel {
            sentinels: vec![unreachable.address.into(), sentinel.address().into()],
            primary: "mymaster".to_owned(),
            user: None,
            password: Some(Password::new("other")),
        });
        settings.password = Some(Password::new("secret"));
        let mut fleet = cases::settings();
        // The failover takes several seconds.
        fleet.gone_after = Duration::from_secs(60);
        let mut member = Redis::new(&fleet, settings.clone());
        recover(&mut member).await;
        let before = member.server().unwrap().to_owned();
        assert!(
            before.starts_with(&primary.address().to_string()),
            "{before}"
        );

        wait_replicated(&replica).await;
        primary.pause();
        sentinel.wait_primary_other_than(primary.address()).await;
        let view = recover(&mut member).await;
        let after = member.server().unwrap();
        assert!(after.starts_with(&replica.address().to_string()), "{after}");
        // The replica had everything.
        assert!(!view.forgotten);
        primary.resume();

        if let Endpoint::Sentinel { primary, .. } = &mut settings.endpoint {
            *primary = "other".to_owned();
        }
        let mut unknown = Redis::new(&cases::settings(), settings.clone());
        assert!(exchange(&mut unknown).await.is_err());
        let error = exchange(&mut unknown).await.unwrap_err();
        assert!(
            error.contains("does not know the primary `other`"),
            "{error}"
        );
        if let Endpoint::Sentinel { password, .. } = &mut settings.endpoint {
            *password = None;
        }
        unknown.reconfigure(settings);
        assert!(exchange(&mut unknown).await.is_err());
        let error = exchange(&mut unknown).await.unwrap_err();
        assert!(
            error.contains("the sentinel requires a password"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn demoted_primary_is_left() {
    for kind in StoreKind::installed() {
        let primary = StoreServer::start(kind).await;
        let other = StoreServer::start(kind).await;
        let mut member = member(Endpoint::Server(primary.address().into()));
        exchange(&mut member).await.unwrap();
        primary.replicate(&other).await;
        // The first exchange may find that the server closed the connection.
        let mut errors = Vec::new();
        for _ in 0..2 {
            errors.push(exchange(&mut member).await.unwrap_err());
        }
        assert!(errors[1].contains("a read-only replica"), "{errors:?}");
        primary.promote().await;
        exchange(&mut member).await.unwrap();
    }
}

#[tokio::test]
async fn lost_writes_are_noticed() {
    for kind in StoreKind::installed() {
        let primary = StoreServer::start(kind).await;
        let replica = StoreServer::start(kind).await;
        replica.replicate(&primary).await;
        let mut member = member(Endpoint::Server(primary.address().into()));
        exchange(&mut member).await.unwrap();
        wait_replicated(&replica).await;
        replica.promote().await;
        // These are not replicated.
        exchange(&mut member).await.unwrap();
        let endpoint = Endpoint::Server(replica.address().into());
        member.reconfigure(RedisSettings::new(endpoint));
        assert!(exchange(&mut member).await.unwrap().forgotten);
        assert!(!exchange(&mut member).await.unwrap().forgotten);
    }
}

#[tokio::test]
async fn cluster_redirections_are_followed() {
    for kind in StoreKind::installed() {
        let node = StoreServer::start_with(StoreOptions::new(kind).cluster()).await;
        let empty = StoreServer::start_empty_node(kind).await;
        empty.join_cluster(&node).await;
        // Only the nodes of a configured cluster receive the password.
        let mut single = member(Endpoint::Server(empty.address().into()));
        let error = exchange(&mut single).await.unwrap_err();
        assert!(error.contains("configured as `cluster`"), "{error}");
        let mut member = member(Endpoint::Cluster(vec![empty.address().into()]));
        exchange(&mut member).await.unwrap();
        let shown = member.server().unwrap();
        assert!(shown.starts_with(&node.address().to_string()), "{shown}");
        // The known node is used without another redirection.
        member.disconnect();
        exchange(&mut member).await.unwrap();
        assert!(!exchange(&mut member).await.unwrap().forgotten);

        // All keys are in one slot, which moves to the other node.
        let slot = node.command(&["CLUSTER", "KEYSLOT", "lc1:{test}:m"]).await;
        let slot = slot.integer().to_string();
        let from = node.command(&["CLUSTER", "MYID"]).await.text();
        let to = empty.command(&["CLUSTER", "MYID"]).await.text();
        empty
            .command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from])
            .await;
        node.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to])
            .await;
        let port = empty.address().port().to_string();
        for key in node.keys().await {
            node.command(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"])
                .await;
        }
        let error = exchange(&mut member).await.unwrap_err();
        assert!(error.contains("moving the keys"), "{error}");
        for server in [&empty, &node] {
            server
                .command(&["CLUSTER", "SETSLOT", &slot, "NODE", &to])
                .await;
        }
        let view = recover(&mut member).await;
        assert!(!view.forgotten);
        let shown = member.server().unwrap();
        assert!(shown.starts_with(&empty.address().to_string()), "{shown}");
    }
}
