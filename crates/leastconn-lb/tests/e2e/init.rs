//! `leastconn-lb init`: the files that it writes, and its exit codes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

use leastconn_testkit::TempDir;

use crate::support::BIN;

fn init(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(BIN);
    command.arg("init").args(args).current_dir(dir);
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn init_writes_a_valid_configuration() {
    for (upstream, expected) in [
        ("127.0.0.1:8081,web2.example.com:8081", "curl --cacert"),
        ("127.0.0.1:5432", "psql \"host=localhost port=9443"),
        ("127.0.0.1:6379", "redis-cli --tls"),
        ("127.0.0.1:3306", "openssl s_client"),
        ("unix:/run/with \"quotes\" and $.sock", "openssl s_client"),
    ] {
        let dir = TempDir::new().unwrap();
        let output = init(dir.path(), &["--yes", "--upstream", upstream]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let printed = text(&output.stdout);
        for part in ["wrote ./leastconn.toml", "leastconn-lb check", expected] {
            assert!(printed.contains(part), "{part}: {printed}");
        }
        let checked = Command::new(BIN)
            .arg("check")
            .current_dir(dir.path())
            .output();
        let checked = checked.unwrap();
        assert_eq!(checked.status.code(), Some(0), "{checked:?}");
        let explained = Command::new(BIN)
            .args(["explain", "--cert", "pki/client1.crt"])
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(explained.status.code(), Some(0), "{explained:?}");
    }
}

#[test]
fn init_never_overwrites() {
    let dir = TempDir::new().unwrap();
    let args = ["--yes", "--upstream", "127.0.0.1:80"];
    assert_eq!(init(dir.path(), &args).status.code(), Some(0));
    let key = dir.path().join("pki/ca.key");
    let before = fs::read(&key).unwrap();
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );

    let again = init(dir.path(), &args);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(
        text(&again.stderr).contains("leastconn.toml exists"),
        "{again:?}"
    );
    // A CA alone is kept too, and nothing is written beside it.
    fs::remove_file(dir.path().join("leastconn.toml")).unwrap();
    let again = init(dir.path(), &args);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(text(&again.stderr).contains("pki exists"), "{again:?}");
    assert!(!dir.path().join("leastconn.toml").exists());
    assert_eq!(fs::read(&key).unwrap(), before);
}

#[test]
fn missing_and_invalid_answers_exit_2() {
    let dir = TempDir::new().unwrap();
    for (args, reason) in [
        (&[][..], "add --upstream"),
        (&["--upstream", "nowhere"], "is not the address of a server"),
        (
            &["--upstream", "web:80", "--bind", "lb"],
            "the port is missing",
        ),
        (
            &["--upstream", "web:80", "--bind", "not a name:1"],
            "DNS name",
        ),
        (
            &["--upstream", "web:80", "--client", "ca"],
            "replace other files",
        ),
    ] {
        let output = init(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {output:?}");
        assert!(
            text(&output.stderr).contains(reason),
            "{args:?}: {output:?}"
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
