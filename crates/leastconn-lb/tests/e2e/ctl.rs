//! `ctl`: its output agrees with the state of the balancer, and its commands affect
//! clients.

use std::process::Stdio;

use leastconn_testkit::client::{read_line, read_to_close, roundtrip};
use leastconn_testkit::{DEADLINE, Upstream, eventually, within};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{BIN, Running, Site, tcp};

pub(crate) const SOCKET: &str = "socket = \"lb.sock\"";

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, &*self.stderr), (0, ""), "{}", self.stdout);
        self.stdout
    }
}

pub(crate) async fn program(dir: &std::path::Path, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(BIN);
    command.args(args).current_dir(dir).stdin(Stdio::null());
    let output = within(DEADLINE, "the command", command.output())
        .await
        .unwrap();
    Output {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs `ctl` in the directory of the balancer's configuration file.
pub(crate) async fn ctl(lb: &Running, args: &[&str]) -> Output {
    let args = [&["ctl"], args].concat();
    program(lb.dir(), &args).await
}

pub(crate) async fn ctl_json(lb: &Running, args: &[&str]) -> Value {
    let args = [args, &["--json"]].concat();
    serde_json::from_str(&ctl(lb, &args).await.ok()).unwrap()
}

/// Connects, and returns the stream and the name that the server sent.
pub(crate) async fn connect(lb: &Running) -> (TcpStream, String) {
    let mut stream = tcp(lb.main()).await;
    let name = within(DEADLINE, "the greeting", read_line(&mut stream)).await;
    (stream, name.unwrap())
}

pub(crate) async fn two_servers() -> [Upstream; 2] {
    [Upstream::named("web1").await, Upstream::named("web2").await]
}

async fn wait_closed(stream: &mut TcpStream) {
    // If the server was sending, the balancer may end the connection with a RST.
    let _ = within(DEADLINE, "the end", read_to_close(stream)).await;
}

pub(crate) async fn state_of(lb: &Running, server: usize) -> Value {
    ctl_json(lb, &["servers"]).await["servers"][server].clone()
}

#[tokio::test]
async fn drained_server_keeps_open_connections() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let (mut a, first) = connect(&lb).await;
    let (mut b, second) = connect(&lb).await;
    assert_ne!(first, second);
    let output = ctl(&lb, &["drain", "web/web1"]).await.ok();
    assert_eq!(output, "web/web1: drain (was ready); 1 connection left\n");
    let mut more = Vec::new();
    for _ in 0..6 {
        let (stream, server) = connect(&lb).await;
        assert_eq!(server, "web2");
        more.push(stream);
    }
    for open in [&mut a, &mut b] {
        assert_eq!(roundtrip(open, b"still").await.unwrap(), b"still");
    }
    assert_eq!(state_of(&lb, 0).await["state"], "drain");
    // The log event contains the user ID of the `ctl` process.
    lb.wait_log(
        |event| {
            let fields = &event["fields"];
            fields["command"] == "set_server_state"
                && fields["server"] == "web1"
                && fields["from"] == "ready"
                && fields["to"] == "drain"
                && fields["uid"] == rustix::process::getuid().as_raw()
        },
        DEADLINE,
    )
    .await;
    assert_eq!(
        ctl(&lb, &["ready", "web/web1"]).await.ok(),
        "web/web1: ready (was drain)\n"
    );
    let (_back, server) = connect(&lb).await;
    assert_eq!(server, "web1", "web1 has the fewest connections");
    drop((a, b, more, _back));
    lb.quiet().await;
}

#[tokio::test]
async fn maint_ends_connections_after_the_grace_period() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let (mut a, first) = connect(&lb).await;
    let (mut b, _) = connect(&lb).await;
    let (on1, on2) = if first == "web1" {
        (&mut a, &mut b)
    } else {
        (&mut b, &mut a)
    };

    // If the server is set to `ready` during the grace period, its connections stay open.
    let set = ctl_json(&lb, &["maint", "web/web1", "--grace", "1h"]).await;
    assert_eq!(
        set,
        json!({ "upstream": "web", "server": "web1", "state": "maint", "was": "ready", "active": 1, "available": 1, "ends_after_seconds": 3600.0 })
    );
    assert_eq!(roundtrip(on1, b"x").await.unwrap(), b"x");
    ctl(&lb, &["ready", "web/web1"]).await.ok();
    assert_eq!(roundtrip(on1, b"x").await.unwrap(), b"x");

    ctl(&lb, &["maint", "web/web1", "--grace", "1h"]).await.ok();
    ctl(&lb, &["maint", "web/web1", "--grace", "0s"]).await.ok();
    wait_closed(on1).await;
    let record = lb.expect_record(0, "killed").await;
    assert_eq!(record["server"], "web1");
    assert_eq!(roundtrip(on2, b"x").await.unwrap(), b"x");
    let (c, server) = connect(&lb).await;
    assert_eq!(server, "web2");
    lb.wait_log(
        |event| {
            let fields = &event["fields"];
            fields["killed"] == 1 && fields["server"] == "web1"
        },
        DEADLINE,
    )
    .await;
    drop((a, b, c));
    lb.quiet().await;
}

#[tokio::test]
async fn overrides_survive_a_reload_and_are_shown() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let config = lb.config();
    ctl(&lb, &["maint", "web/web1"]).await.ok();
    ctl(&lb, &["log-level", "debug"]).await.ok();
    let deviations = async || {
        let status = ctl_json(&lb, &["status"]).await;
        let mut all = status["configuration"]["deviations"].clone();
        for deviation in all.as_array_mut().unwrap() {
            let since = deviation.as_object_mut().unwrap().remove("since").unwrap();
            assert!(since.as_str().unwrap().ends_with('Z'), "{since}");
        }
        all
    };
    let maint = json!({ "what": "web/web1", "is": "maint", "configured": "ready" });
    let debug = json!({ "what": "log.level", "is": "debug", "configured": "info" });
    assert_eq!(deviations().await, json!([maint, debug]));
    let text = ctl(&lb, &["status"]).await.ok();
    assert!(
        text.contains("overrides      web/web1 maint (configured: ready), since 20"),
        "{text}"
    );

    // An override belongs to the server's name. It remains if the address or the other servers
    // change.
    let third = Upstream::named("web3").await;
    let moved = config.replace(&web1.addr().to_string(), &third.addr().to_string());
    assert_ne!(moved, config);
    lb.write_config(&moved);
    assert_eq!(ctl(&lb, &["reload"]).await.ok(), "applied\n");
    assert_eq!(state_of(&lb, 0).await["address"], third.addr().to_string());
    assert_eq!(state_of(&lb, 0).await["state"], "maint");
    assert_eq!(deviations().await, json!([maint, debug]));
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (stream, server) = connect(&lb).await;
        assert_eq!(server, "web2");
        streams.push(stream);
    }
    // `ready` applies to the server at its new address.
    ctl(&lb, &["ready", "web/web1"]).await.ok();
    let (stream, server) = connect(&lb).await;
    assert_eq!(server, "web3");
    streams.push(stream);
    assert_eq!(deviations().await, json!([debug]));

    // If the configured level changes in the file, it replaces the override.
    let warn = moved.replace("format = \"json\"", "format = \"json\"\nlevel = \"warn\"");
    lb.write_config(&warn);
    ctl(&lb, &["reload"]).await.ok();
    assert_eq!(deviations().await, json!([]));
    assert_eq!(ctl(&lb, &["log-level"]).await.ok(), "warn\n");

    // Removing a server removes its override.
    ctl(&lb, &["drain", "web/web2"]).await.ok();
    let gone = moved.replace(
        &format!(", {{ name = \"web2\", address = \"{}\" }}", web2.addr()),
        "",
    );
    assert_ne!(gone, moved);
    for config in [&gone, &moved] {
        lb.write_config(config);
        ctl(&lb, &["reload"]).await.ok();
        assert_eq!(deviations().await, json!([]));
    }
    assert_eq!(state_of(&lb, 1).await["state"], "ready");
    drop(streams);
    lb.quiet().await;
}

#[tokio::test]
async fn kill_ends_connections_that_match_its_filter() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"web\""])
        .listener("other", &["bind = \"127.0.0.2:0\"", "upstream = \"web\""])
        .upstream(
            "web",
            &[crate::support::NO_PROBES],
            &crate::support::entries(&[web1, web2]),
        )
        .client("one", "source = \"127.0.0.1\"", "web/web1", "")
        .client("two", "source = \"127.0.0.2\"", "web", "")
        .start()
        .await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(connect(&lb).await.0);
    }
    let shown = ctl_json(&lb, &["connections"]).await;
    assert_eq!(shown["total"], 3);
    let id = shown["connections"][0]["connection"].as_u64().unwrap();
    assert_eq!(
        ctl(&lb, &["kill", "--connection", &id.to_string()])
            .await
            .ok(),
        "1 connection closed\n"
    );
    let mut last = open.pop().unwrap();
    wait_closed(&mut last).await;
    lb.expect_record(0, "killed").await;
    let gone = ctl(&lb, &["kill", "--connection", &id.to_string()]).await;
    assert_eq!(gone.code, 1);
    assert!(
        gone.stderr.contains(&format!("no open connection {id}")),
        "{gone:?}"
    );

    // All criteria of a filter must match.
    let none = ctl(&lb, &["kill", "--client", "one", "--server", "web/web2"])
        .await
        .ok();
    assert_eq!(none, "0 connections closed\n");
    let none = ctl(&lb, &["kill", "--client", "two"]).await.ok();
    assert_eq!(none, "0 connections closed\n");
    for stream in &mut open {
        assert_eq!(roundtrip(stream, b"x").await.unwrap(), b"x");
    }
    assert_eq!(
        ctl_json(&lb, &["kill", "--client", "one"]).await,
        json!({ "killed": 2 })
    );
    for stream in &mut open {
        wait_closed(stream).await;
    }
    let (mut a, _) = connect(&lb).await;
    let killed = ctl_json(&lb, &["kill", "--server", "web/web1"]).await;
    assert_eq!(killed, json!({ "killed": 1 }));
    wait_closed(&mut a).await;
    let (mut a, _) = connect(&lb).await;
    let killed = ctl_json(&lb, &["kill", "--identity", "source:127.0.0.1"]).await;
    assert_eq!(killed, json!({ "killed": 1 }));
    wait_closed(&mut a).await;
    lb.wait_metric(
        "leastconn_connections_total{listener=\"main\",outcome=\"killed\"}",
        5.0,
        DEADLINE,
    )
    .await;
    lb.quiet().await;
}

#[tokio::test]
async fn reload_reports_its_outcome() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let config = lb.config();
    assert_eq!(ctl(&lb, &["reload"]).await.ok(), "applied\n");
    lb.write_config(&config.replace("upstream = \"web\"", "upstream = \"wbe\""));
    let rejected = ctl(&lb, &["reload"]).await;
    assert_eq!((rejected.code, &*rejected.stdout), (1, ""));
    assert!(
        rejected
            .stderr
            .contains("rejected; the running configuration is unchanged:"),
        "{rejected:?}"
    );
    assert!(rejected.stderr.contains("leastconn.toml:"), "{rejected:?}");
    assert!(rejected.stderr.contains("`wbe`"), "{rejected:?}");
    let json = ctl(&lb, &["reload", "--json"]).await;
    assert_eq!(json.code, 1);
    let answer: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(answer["outcome"], "rejected");
    let text = ctl(&lb, &["status"]).await.ok();
    assert!(
        text.contains("REJECTED") && text.contains("`wbe`"),
        "{text}"
    );

    // A listener that `ctl reload` adds accepts connections.
    let more = config.clone()
        + "[[listener]]\nname = \"late\"\nbind = \"127.0.0.1:0\"\nupstream = \"web\"\n";
    lb.write_config(&more);
    ctl(&lb, &["reload"]).await.ok();
    let mut stream = tcp(lb.wait_address("late").await).await;
    within(DEADLINE, "the greeting", read_line(&mut stream))
        .await
        .unwrap();
    drop(stream);
    lb.write_config(&config);
    ctl(&lb, &["reload"]).await.ok();
    lb.quiet().await;
}

#[tokio::test]
async fn log_level_can_be_changed() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let config = lb.config();
    lb.write_config(&config.replace("format = \"json\"", "format = \"json\"\nlevel = \"error\""));
    ctl(&lb, &["reload"]).await.ok();
    let lines = || lb.stderr().matches("\"command\":\"kill\"").count();
    ctl(&lb, &["kill", "--client", "local"]).await.ok();
    assert_eq!(lines(), 0);
    let output = ctl(&lb, &["log-level", "info"]).await.ok();
    assert_eq!(output, "info (configured: error)\n");
    ctl(&lb, &["kill", "--client", "local"]).await.ok();
    eventually(DEADLINE, || async {
        (lines() == 1).then_some(()).ok_or_else(|| lb.stderr())
    })
    .await
    .unwrap();
    // If the configured level does not change in the file, a reload keeps the override.
    ctl(&lb, &["reload"]).await.ok();
    assert_eq!(ctl(&lb, &["log-level"]).await.ok(), "info\n");
    assert_eq!(
        ctl(&lb, &["log-level", "reset"]).await.ok(),
        "error (as configured)\n"
    );
    ctl(&lb, &["kill", "--client", "local"]).await.ok();
    assert_eq!(lines(), 1);
    lb.quiet().await;
}

#[tokio::test]
async fn tables_list_servers_clients_and_connections() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let (mut a, server) = connect(&lb).await;
    let listed = ctl(&lb, &["servers"]).await.ok();
    let row = |table: &str, begins: &str| {
        let found = table
            .lines()
            .find(|line| line.trim_start().starts_with(begins));
        let row = found.unwrap_or_else(|| panic!("no row starts with {begins}:\n{table}"));
        row.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let cells = row(&listed, &format!("web/{server}"));
    assert_eq!(cells[1..5], ["ready", "unchecked", "1", "-"], "{listed}");
    assert!(listed.is_ascii() && !listed.contains('\x1b'), "{listed}");
    let clients = ctl(&lb, &["clients", "--open"]).await.ok();
    let open = ["1", "1", "0", "0", "0"];
    assert_eq!(row(&clients, "local")[1..6], open, "{clients}");
    let nobody = ctl(&lb, &["clients", "--search", "nobody"]).await.ok();
    assert_eq!(nobody.lines().count(), 1, "{nobody}");
    let mut b = connect(&lb).await.0;
    let connections = ctl(&lb, &["connections", "--client", "local", "--limit", "1"])
        .await
        .ok();
    assert!(connections.contains("source:127.0.0.1"), "{connections}");
    assert!(
        connections.ends_with("1 more: use --limit or --search\n"),
        "{connections}"
    );
    let status = ctl(&lb, &["status"]).await.ok();
    for part in [
        "state          ready",
        "last reload    none",
        "2 open (limit",
        "LISTENER",
        "web             2          2     2",
    ] {
        assert!(status.contains(part), "{part} is not in\n{status}");
    }
    // With `--socket`, `ctl` works in any directory, without a configuration file.
    let socket = lb.dir().join("lb.sock");
    let by_socket = program(
        std::path::Path::new("/"),
        &[
            "ctl",
            "--socket",
            socket.to_str().unwrap(),
            "servers",
            "--json",
        ],
    )
    .await
    .ok();
    assert_eq!(
        serde_json::from_str::<Value>(&by_socket).unwrap(),
        ctl_json(&lb, &["servers"]).await
    );
    for stream in [&mut a, &mut b] {
        assert_eq!(roundtrip(stream, b"x").await.unwrap(), b"x");
    }
    drop((a, b));
    lb.quiet().await;
}

#[tokio::test]
async fn errors_suggest_what_to_do() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    for (args, code, expected) in [
        (
            &["drain", "web/wbe1"][..],
            1,
            "there is no server `web/wbe1`; did you mean `web/web1`?",
        ),
        (&["drain", "other/thing"], 1, "`ctl servers` lists them"),
        (&["kill", "--client", "locla"], 1, "did you mean `local`?"),
        (
            &["kill", "--server", "web/x"],
            1,
            "there is no server `web/x`",
        ),
        (
            &["connections", "--server", "web/wbe1"],
            1,
            "there is no server or upstream `web/wbe1`; did you mean `web/web1`?",
        ),
        (
            &["connections", "--client", "nobody-at-all", "--json"],
            1,
            "there is no client `nobody-at-all`",
        ),
        (
            &["connections", "--listener", "mian"],
            1,
            "did you mean `main`?",
        ),
        (
            &["kill", "--connection", "99999"],
            1,
            "there is no open connection 99999;",
        ),
        (
            &["--socket", "leastconn.toml", "status"],
            1,
            "is not a socket; use --config for a configuration file",
        ),
        (&["maint", "web/web1", "--grace", "soon"], 2, "`grace`"),
        (&["drain", "web1"], 2, "expected UPSTREAM/SERVER"),
        (&["weight", "web/x", "1"], 1, "there is no server `web/x`"),
        (&["weight", "web/web1", "half"], 2, "expected a weight"),
        (&["kill"], 2, "--client"),
        (&["log-level", "loud"], 2, "possible values"),
        (
            &["--socket", "none.sock", "status"],
            1,
            "there is no socket none.sock",
        ),
        (&["--config", "none.toml", "status"], 2, "none.toml"),
        (
            &["--config", "x", "--socket", "y", "status"],
            2,
            "cannot be used with",
        ),
    ] {
        let ended = ctl(&lb, args).await;
        assert_eq!(
            (ended.code, &*ended.stdout),
            (code, ""),
            "{args:?}: {ended:?}"
        );
        assert!(
            ended.stderr.contains(expected),
            "{args:?}: {}",
            ended.stderr
        );
    }
    assert_eq!(state_of(&lb, 0).await["state"], "ready");
    // A filter may name a server, client or listener that has no connections.
    for args in [
        &["connections", "--server", "web/web1"][..],
        &["connections", "--server", "web"],
        &["connections", "--client", "local", "--listener", "main"],
    ] {
        assert_eq!(ctl(&lb, args).await.ok().lines().count(), 1, "{args:?}");
    }
    // `ctl` needs only the socket path; the rest of the file may be invalid.
    lb.write_config("[admin]\nsocket = \"lb.sock\"\n[[listener]]\ntls = { cert = \"gone.crt\" }\n");
    ctl(&lb, &["servers"]).await.ok();
    lb.write_config("[admin]\nbind = \"127.0.0.1:0\"\n");
    let none = ctl(&lb, &["servers"]).await;
    assert_eq!(none.code, 2);
    assert!(
        none.stderr.contains("has no `socket` in its [admin] table"),
        "{none:?}"
    );
    lb.write_config("[log]\nlevel = \"info\"\n");
    let none = ctl(&lb, &["servers"]).await;
    assert_eq!(none.code, 2);
    let expected = "has no [admin] table: add `[admin]` with `socket";
    assert!(none.stderr.contains(expected), "{none:?}");
    // `ctl` cannot find the socket path in a file that is not valid TOML.
    lb.write_config("[[[\n");
    for command in ["ctl", "healthcheck", "top"] {
        let args: &[&str] = if command == "ctl" { &["reload"] } else { &[] };
        let broken = program(lb.dir(), &[&[command], args].concat()).await;
        assert_eq!(broken.code, 2, "{broken:?}");
        assert!(broken.stderr.contains(":1:3: error: "), "{broken:?}");
    }
    lb.quiet().await;
}

#[tokio::test]
async fn healthcheck_works_over_the_socket_alone() {
    let [web1, web2] = &two_servers().await;
    let lb = Site::plain(&[web1, web2]).admin(SOCKET).start().await;
    let only_socket = lb
        .config()
        .replace("bind = \"127.0.0.1:0\"\nsocket", "socket");
    lb.write_config(&only_socket);
    ctl(&lb, &["reload"]).await.ok();
    program(lb.dir(), &["healthcheck"]).await.ok();
    // The balancer closes the old address shortly after it has answered `ctl reload`.
    eventually(DEADLINE, || async {
        let answer = lb.try_http_get("/readyz").await;
        answer.map_or(Ok(()), |_| {
            Err("the old address still accepts connections".to_owned())
        })
    })
    .await
    .unwrap();
    lb.write_config(&lb.config());
    ctl(&lb, &["reload"]).await.ok();
    eventually(DEADLINE, || async {
        let answer = lb.try_http_get("/readyz").await;
        answer.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    lb.quiet().await;
}
