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

/// Line, the text that is pointed at, and words that must be said about it.
const PROBLEMS: [(usize, &str, &[&str]); 12] = [
    (3, "levl", &["error", "unknown key", "did you mean `level`"]),
    (7, "\"127.0.0.1\"", &["error"]),
    (9, "\"missing.crt\"", &["error", "No such file"]),
    (12, "\"main\"", &["error", "two listeners named `main`"]),
    (14, "\"wbe\"", &["error", "did you mean `web`"]),
    (15, "\"other.key\"", &["error", "does not belong"]),
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
    // What nobody can read, root included.
    symlink("unreadable.key", dir.path().join("unreadable.key")).unwrap();
    fs::write(dir.path().join("broken.toml"), BROKEN).unwrap();

    let mut check = lb(["check", "--config", "broken.toml"]);
    let ended = run(check.current_dir(dir.path())).await;

    assert_eq!(ended.code, 2, "{ended:#?}");
    let reports: Vec<&str> = ended.stderr.trim_end().split("\n\n").collect();
    for (number, what, words) in PROBLEMS {
        let line = BROKEN.lines().nth(number - 1).unwrap();
        // The second server `a` is the one in question.
        let column = line.rfind(what).unwrap() + 1;
        let place = format!("--> broken.toml:{number}:{column}\n");
        let found = reports.iter().find(|report| {
            report.contains(&place) && words.iter().all(|word| report.contains(word))
        });
        let report = found.unwrap_or_else(|| panic!("{place}{words:?} in\n{}", ended.stderr));
        // The line itself, whole, and what in it is meant.
        assert!(report.contains(&format!("{number} | {line}\n")), "{report}");
        assert!(report.contains(&"^".repeat(what.len())), "{report}");
    }
    assert!(
        ended.stdout.starts_with("broken.toml: "),
        "{}",
        ended.stdout
    );
    assert!(
        ended.stdout.contains(": 11 errors, "),
        "{}\n{}",
        ended.stdout,
        ended.stderr
    );

    // What `check` refuses, `run` does not start.
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
    let ended = run(lb(["check"]).current_dir(dir.path())).await;
    assert_eq!(ended.code, 2, "{ended:#?}");
    assert!(
        ended.stderr.contains("--> leastconn.toml:14:10\n"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("did you mean"), "{}", ended.stderr);
    // A name may resolve where the balancer will run: no error.
    assert!(
        ended
            .stderr
            .contains("warning: `no-such-host.invalid` cannot be resolved")
    );
    assert!(
        ended.stderr.contains("--> leastconn.toml:9:"),
        "{}",
        ended.stderr
    );

    fs::write(&path, config.replace("webap1", "webapp1")).unwrap();
    let ended = run(lb(["check"]).current_dir(dir.path())).await.ok();
    assert!(
        ended.stdout.contains("ok") && ended.stdout.contains("1 warning"),
        "{ended:#?}"
    );
}

#[tokio::test]
async fn missing_configuration_is_one_error() {
    let dir = TempDir::new().unwrap();
    for command in ["check", "run"] {
        let mut command = lb([command, "--config", "none.toml"]);
        let ended = run(command.current_dir(dir.path())).await;
        assert_eq!(ended.code, 2, "{ended:#?}");
        assert!(ended.stderr.contains("--> none.toml\n"), "{ended:#?}");
        let mut command = lb(["run"]);
        let nowhere = run(command.current_dir(dir.path())).await;
        // A machine may have one in /etc: then this says nothing.
        if !std::path::Path::new("/etc/leastconn/leastconn.toml").exists() {
            assert_eq!(nowhere.code, 2, "{nowhere:#?}");
            assert!(nowhere.stderr.contains("--config"), "{nowhere:#?}");
        }
    }
}
