//! Agents on the servers set state, weight and connection limit.

use std::sync::Arc;

use leastconn_testkit::{DEADLINE, Upstream, eventually};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::ctl::{SOCKET, connect, ctl, ctl_json, state_of};
use crate::support::{NO_PROBES, Running, Site, entries};

/// An agent that answers `state?` with the line that was set last. Without a line it closes the
/// connection.
struct Agent {
    port: u16,
    line: Arc<Mutex<&'static str>>,
}

impl Agent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let line = Arc::new(Mutex::new("up\n"));
        let answer = Arc::clone(&line);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut question = [0; 7];
                let _ = stream.read_exact(&mut question).await;
                assert_eq!(&question, b"state?\n");
                let line = *answer.lock();
                let _ = stream.write_all(line.as_bytes()).await;
            }
        });
        Self { port, line }
    }

    /// The agent check of an upstream with this agent.
    fn check(&self) -> String {
        format!(
            "agent_check = {{ port = {}, interval = \"100ms\", send = \"state?\\n\" }}",
            self.port
        )
    }

    fn report(&self, line: &'static str) {
        *self.line.lock() = line;
    }
}

async fn wait_server(lb: &Running, is_reached: impl Fn(&Value) -> bool) {
    let reached = eventually(DEADLINE, || async {
        let server = state_of(lb, 0).await;
        if is_reached(&server) {
            Ok(())
        } else {
            Err(server.to_string())
        }
    });
    reached.await.unwrap_or_else(|server| panic!("{server}"));
}

#[tokio::test]
async fn agent_sets_state_weight_and_limit() {
    let web = Upstream::named("web1").await;
    let agent = Agent::start().await;
    let check = agent.check();
    let lb = Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES, &check], &entries(&[&web]))
        .client("local", "source = \"127.0.0.1\"", "web", "")
        .start()
        .await;

    agent.report("50% maxconn:9\n");
    wait_server(&lb, |server| {
        server["effective_weight"] == 0.5 && server["max_conns"] == 9
    })
    .await;
    agent.report("drain\r\n");
    wait_server(&lb, |server| server["agent"]["state"] == "drain").await;
    assert!(ctl(&lb, &["servers"]).await.ok().contains("drain (agent)"));
    let available = async || ctl_json(&lb, &["status"]).await["upstreams"][0]["available"].clone();
    assert_eq!(available().await, 0);

    // If the agent does not answer, its last report applies.
    agent.report("");
    lb.wait_log(
        |event| event["fields"]["message"] == "agent check failed, last report kept",
        DEADLINE,
    )
    .await;
    assert_eq!(available().await, 0);

    agent.report("ready 100% maxconn:0, down #disk full\n");
    wait_server(&lb, |server| {
        server["outage"]["reason"] == "the agent reports down: disk full"
    })
    .await;
    agent.report("up\n");
    wait_server(&lb, |server| server["health"] == "up").await;
    let (stream, name) = connect(&lb).await;
    assert_eq!(name, "web1");

    // A reload without agent checks resets the agent's reports.
    agent.report("maint\n");
    wait_server(&lb, |server| server["agent"]["state"] == "maint").await;
    lb.write_config(&lb.config().replace(&check, ""));
    ctl(&lb, &["reload"]).await.ok();
    wait_server(&lb, |server| server["agent"].is_null()).await;
    assert_eq!(available().await, 1);
    drop(stream);
    lb.quiet().await;
}

#[tokio::test]
async fn agent_report_is_logged_before_its_effects() {
    let web = Upstream::named("web1").await;
    let agent = Agent::start().await;
    let check = agent.check();
    let lb = Site::new()
        .listener("main", &["upstream = \"web\""])
        .upstream("web", &[NO_PROBES, &check], &entries(&[&web]))
        .client("local", "source = \"127.0.0.1\"", "web", "")
        .start()
        .await;
    let logged = async |message: &'static str| {
        let is = |event: &Value| event["fields"]["message"] == message;
        lb.wait_log(is, DEADLINE).await
    };
    agent.report("down #disk full\n");
    let panic = "all servers unavailable: connecting to any of them";
    logged(panic).await;
    let down = logged("server down").await;
    assert_eq!(down["fields"]["cause"], "agent check", "{down}");
    assert_eq!(
        down["fields"]["reason"],
        "the agent reports down: disk full"
    );
    agent.report("up\n");
    logged("server available again").await;
    let log = lb.stderr();
    let mut rest = &*log;
    for message in [
        "agent report changed",
        "server down",
        panic,
        "agent report changed",
        "server up",
        "server available again",
    ] {
        let at = rest.find(message);
        let at = at.unwrap_or_else(|| panic!("{message} is missing or too early: {log}"));
        rest = &rest[at + message.len()..];
    }
    lb.quiet().await;
}
