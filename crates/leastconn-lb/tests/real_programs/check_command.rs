use std::{fs, os::unix::fs::symlink};

use leastconn_testkit::{TempDir, TestCa};

use crate::program::{lb, run};

const BROKEN: &str = r#"
[log]
levl = "info"

[[listener]]
name = "main"
bind = "127.0.0.1"
upstream = "web"
tls = { cert = "missing.crt", key = "server.key", client_ca = "ca.crt" }

[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "wbe"
tls = { cert = "server.crt", key = "other.key", client_ca = "ca.crt" }

[[listener]]
name = "unreadable"
bind = "127.0.0.1:0"
upstream = "web"
tls = { cert = "server.crt", key = "unreadable.key", client_ca = "ca.crt" }

[[listener]]
name = "expired"
bind = "127.0.0.1:0"
upstream = "web"
tls = { cert = "expired.crt", key = "expired.key", client_ca = "ca.crt" }

[[upstream]]
name = "web"
servers = ["127.0.0.1:80", "127.0.0.1:port", { name = "a", address = "127.0.0.1:81" }, { name = "a", address = "127.0.0.1:82" }]

[[client]]
name = "one"
match = { cn = "one" }
allow = ["nothing"]

[[client]]
name = "one"
match = { cn = "two" }
allow = ["web/none"]
"#;

/// Line number, marked text, and texts that the report must contain.
const PROBLEMS: [(usize, &str, &[&str]); 12] = [
    (3, "levl", &["error", "unknown key", "did you mean `level`"]),
    (7, "\"127.0.0.1\"", &["error"]),
    (9, "\"missing.crt\"", &["error", "No such file"]),
    (12, "\"main\"", &["error", "two listeners named `main`"]),
    (14, "\"wbe\"", &["error", "did you mean `web`"]),
    (15, "\"other.key\"", &["error", "does not match"]),
    (21, "\"unreadable.key\"", &["error"]),
    (27, "\"expired.crt\"", &["warning", "expired"]),
    (31, "\"127.0.0.1:port\"", &["error"]),
    (31, "\"a\"", &["error", "two servers"]),
    (36, "\"nothing\"", &["error", "no upstream named `nothing`"]),
    (39, "\"one\"", &["error", "two clients named `one`"]),
];

#[tokio::test]
async fn check_reports_every_problem_with_position() {
    let dir = TempDir::new().unwrap();
    let ca = TestCa::new("CA");
    ca.write_set(&dir, &[]);
    ca.leaf("other").build().write(&dir, "other");
    ca.leaf("expired")
        .validity(-7200, -3600)
        .build()
        .write(&dir, "expired");
    // A symlink to itself cannot be read, not even by root.
    symlink("unreadable.key", dir.path().join("unreadable.key")).unwrap();
    fs::write(dir.path().join("broken.toml"), BROKEN).unwrap();

    let mut check = lb(["check", "--config", "broken.toml"]);
    let output = run(check.current_dir(dir.path())).await;

    assert_eq!(output.code, 2, "{output:#?}");
    let reports: Vec<&str> = output.stderr.trim_end().split("\n\n").collect();
    for (number, what, words) in PROBLEMS {
        let line = BROKEN.lines().nth(number - 1).unwrap();
        // The report marks the second server `a`, so search from the end of the line.
        let column = line.rfind(what).unwrap() + 1;
        let place = format!("--> broken.toml:{number}:{column}\n");
        let found = reports.iter().find(|report| {
            report.contains(&place) && words.iter().all(|word| report.contains(word))
        });
        let report = found.unwrap_or_else(|| panic!("{place}{words:?} in\n{}", output.stderr));
        // The report contains the whole line, and a marker below the text.
        assert!(report.contains(&format!("{number} | {line}\n")), "{report}");
        assert!(report.contains(&"^".repeat(what.len())), "{report}");
    }
    assert!(
        output.stdout.starts_with("broken.toml: "),
        "{}",
        output.stdout
    );
    assert!(
        output.stdout.contains(": 11 errors, "),
        "{}\n{}",
        output.stdout,
        output.stderr
    );

    // `run` does not start with this file either.
    let started = run(lb(["run", "--config", "broken.toml"]).current_dir(dir.path())).await;
    assert_eq!(started.code, 2, "{started:#?}");
    assert!(
        started
            .stderr
            .ends_with("\nleastconn-lb: broken.toml: not started\n"),
        "{started:#?}"
    );
}

#[tokio::test]
async fn check_reports_unknown_servers_and_unresolved_names() {
    let dir = TempDir::new().unwrap();
    let config = r#"
[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"

[[upstream]]
name = "web"
servers = [{ name = "webapp1", address = "no-such-host.invalid:80" }]

[[client]]
name = "one"
match = { source = ["127.0.0.0/8"] }
allow = ["web/webap1"]
"#;
    let path = dir.path().join("leastconn.toml");
    fs::write(&path, config).unwrap();
    let output = run(lb(["check"]).current_dir(dir.path())).await;
    assert_eq!(output.code, 2, "{output:#?}");
    assert!(
        output.stderr.contains("--> leastconn.toml:14:10\n"),
        "{}",
        output.stderr
    );
    assert!(output.stderr.contains("did you mean"), "{}", output.stderr);
    // This is only a warning: the name may resolve on the host where the balancer will run.
    assert!(
        output
            .stderr
            .contains("warning: `no-such-host.invalid` cannot be resolved")
    );
    assert!(
        output.stderr.contains("--> leastconn.toml:9:"),
        "{}",
        output.stderr
    );

    fs::write(&path, config.replace("webap1", "webapp1")).unwrap();
    let output = run(lb(["check"]).current_dir(dir.path())).await.ok();
    assert!(
        output.stdout.contains("ok") && output.stdout.contains("1 warning"),
        "{output:#?}"
    );
}

#[tokio::test]
async fn missing_configuration_is_one_error() {
    let dir = TempDir::new().unwrap();
    for command in ["check", "run"] {
        let mut command = lb([command, "--config", "none.toml"]);
        let output = run(command.current_dir(dir.path())).await;
        assert_eq!(output.code, 2, "{output:#?}");
        assert!(output.stderr.contains("--> none.toml\n"), "{output:#?}");
    }
    // With a configuration in /etc, the command would start a balancer.
    if !std::path::Path::new("/etc/leastconn/leastconn.toml").exists() {
        let mut command = lb(["run"]);
        let without_file = run(command.current_dir(dir.path())).await;
        assert_eq!(without_file.code, 2, "{without_file:#?}");
        assert!(
            without_file.stderr.contains("--config"),
            "{without_file:#?}"
        );
    }
}
