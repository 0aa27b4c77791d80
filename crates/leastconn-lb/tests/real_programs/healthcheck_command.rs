use std::fs;

use leastconn_testkit::{
    Balancer, Behaviour, DEADLINE, Signal, TempDir, Upstream, client::roundtrip, eventually,
};
use tokio::net::TcpStream;

use crate::{
    plain,
    program::{LB, Port, lb, run},
};

fn configuration(upstream: &Upstream, admin: &str) -> String {
    let servers = format!("servers = [\"{}\"]", upstream.addr());
    plain::configuration(admin, &servers)
}

#[tokio::test]
async fn healthcheck_exit_code_follows_readiness() {
    let dir = TempDir::new().unwrap();
    let upstream = Upstream::start(Behaviour::Echo).await;
    let port = Port::reserve();
    let address = port.address.to_string();
    let config = configuration(&upstream, &format!("[admin]\nbind = \"{address}\""));
    let path = dir.path().join("leastconn.toml");
    fs::write(&path, &config).unwrap();
    let by_file = async || run(lb(["healthcheck", "--config"]).arg(&path)).await;
    let by_address = async || run(&mut lb(["healthcheck", "--address", &address])).await;

    for output in [by_file().await, by_address().await] {
        assert_eq!(output.code, 1, "{output:?}");
        assert!(output.stderr.contains(&address), "{output:?}");
    }

    let balancer = Balancer::start(LB, &config, dir.path()).await.unwrap();
    by_file().await.ok();
    by_address().await.ok();
    // The default is the configuration file in the working directory.
    run(lb(["healthcheck"]).current_dir(dir.path())).await.ok();
    // Errors in the file do not affect the health of the running process.
    fs::write(
        &path,
        config.replace("upstream = \"web\"", "upstream = \"gone\""),
    )
    .unwrap();
    by_file().await.ok();

    // A draining balancer is not ready. The open connection keeps it in this state.
    let mut open = TcpStream::connect(balancer.address("main")).await.unwrap();
    assert_eq!(roundtrip(&mut open, b"here").await.unwrap(), b"here");
    balancer.signal(Signal::TERM);
    let draining = eventually(DEADLINE, || async {
        match by_address().await {
            output if output.code == 1 && output.stderr.contains("draining") => Ok(()),
            output => Err(format!("{output:?}")),
        }
    });
    draining.await.unwrap();
    drop(open);
    let status = balancer.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn healthcheck_without_address_is_a_usage_error() {
    let dir = TempDir::new().unwrap();
    let nothing = run(lb(["healthcheck", "--config", "none.toml"]).current_dir(dir.path())).await;
    assert_eq!(nothing.code, 2, "{nothing:?}");
    assert!(nothing.stderr.contains("none.toml"), "{nothing:?}");

    let upstream = Upstream::start(Behaviour::Echo).await;
    let config = configuration(&upstream, "");
    fs::write(dir.path().join("leastconn.toml"), config).unwrap();
    let no_admin = run(lb(["healthcheck"]).current_dir(dir.path())).await;
    assert_eq!(no_admin.code, 2, "{no_admin:?}");
    assert!(no_admin.stderr.contains("[admin]"), "{no_admin:?}");
}
