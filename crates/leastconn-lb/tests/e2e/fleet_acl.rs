//! `fleet-acl` prints the ACL rule of the fleet's user, and `check` validates `[fleet]`.

use std::fs;

use crate::ctl::program;

const CONFIG: &str = r#"
[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"

[[upstream]]
name = "web"
health_check = { type = "none" }
servers = ["127.0.0.1:1"]

[[client]]
name = "local"
match = { source = "127.0.0.1" }
allow = ["web"]
"#;

const FLEET: &str = r#"
[fleet]
name = "edge"
member = "lb1"
store = "unix:///run/valkey/valkey.sock"
secret = "fleet.secret"
"#;

#[tokio::test]
async fn rule_of_the_fleet_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("fleet.secret", "0123456789abcdef\n");
    write("leastconn.toml", &format!("{CONFIG}{FLEET}"));
    let rule = program(dir.path(), &["fleet-acl"]).await.ok();
    let expected = "user leastconn on resetkeys ~lc1:{edge}:* resetchannels -@all +";
    assert!(rule.starts_with(expected), "{rule}");
    let checked = program(dir.path(), &["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    let member = ", member lb1 of fleet edge";
    assert!(checked.stdout.contains(member), "{checked:?}");

    write("fleet.password", "secret");
    let user = "user = \"lb\"\npassword = \"fleet.password\"\n";
    write("leastconn.toml", &format!("{CONFIG}{FLEET}{user}"));
    let rule = program(dir.path(), &["fleet-acl"]).await.ok();
    assert!(rule.starts_with("user lb on "), "{rule}");

    write("leastconn.toml", CONFIG);
    let without = program(dir.path(), &["fleet-acl"]).await;
    assert_eq!(without.code, 2, "{without:?}");
    assert!(without.stderr.contains("has no `[fleet]`"), "{without:?}");
    write(
        "leastconn.toml",
        &format!("{CONFIG}{}", FLEET.replace("unix:", "http:")),
    );
    let invalid = program(dir.path(), &["fleet-acl"]).await;
    assert_eq!(invalid.code, 2, "{invalid:?}");
    assert!(invalid.stderr.contains("unknown scheme"), "{invalid:?}");
}
