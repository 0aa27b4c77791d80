//! The sandbox confines the process to the files that its configuration names, and routine
//! changes of these files still work.
//!
//! `sandbox/tests.rs` tests what each restriction blocks.

use std::fs;
use std::os::unix::{fs::symlink, net::UnixStream};
use std::path::Path;
use std::process::Command;

use landlock::{AccessFs, Ruleset, RulesetAttr, RulesetStatus};
use leastconn_testkit::{Balancer, DEADLINE, Signal, Upstream, eventually, within};
use serde_json::Value;

use crate::support::{BIN, CLIENT1, NO_PROBES, Running, Site, TLS, cn, refused, talk};

async fn status(lb: &Balancer) -> Value {
    let (code, body) = lb.http_get("/api/v1/status").await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// Returns whether the process is confined. If the kernel lacks support, prints the reason.
async fn is_confined(lb: &Balancer) -> bool {
    let sandbox = status(lb).await["sandbox"].clone();
    if sandbox["state"] == "unavailable" {
        eprintln!("SKIPPED: {}", sandbox["detail"]);
        return false;
    }
    assert!(
        sandbox["state"] == "on" || sandbox["state"] == "partial",
        "{sandbox}"
    );
    true
}

async fn wait_message(lb: &Running, level: &str, parts: &[&str]) {
    lb.wait_log(
        |event| {
            let message = event["fields"]["message"].as_str().unwrap_or_default();
            event["level"] == level && parts.iter().all(|part| message.contains(part))
        },
        DEADLINE,
    )
    .await;
}

async fn assert_serves(lb: &Running) {
    let stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
    talk(stream).await.unwrap();
}

/// The values of a field of `/proc/PID/status`, one for each thread.
fn thread_values(pid: u32, name: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let values = threads.map(|thread| {
        let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    });
    values.collect()
}

#[tokio::test]
async fn all_threads_are_confined_without_core_dumps() {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start().await;
    if !is_confined(&lb).await {
        return;
    }
    wait_message(&lb, "INFO", &["confined by Landlock"]).await;
    assert_serves(&lb).await;
    let threads = thread_values(lb.pid(), "NoNewPrivs:");
    // The threads are the main thread, two workers, the admin thread and the log writer.
    assert!(threads.len() >= 5, "{threads:?}");
    assert!(threads.iter().all(|value| value == "1"), "{threads:?}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", lb.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    assert_eq!(
        core.unwrap().split_whitespace().nth(4),
        Some("0"),
        "{limits}"
    );
    lb.quiet().await;
}

#[tokio::test]
async fn reload_with_files_outside_needs_a_restart() {
    let web = Upstream::named("web1").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let site = Site::usual(&[&web]);
    fs::copy(
        site.dir.path().join("ca.crt"),
        elsewhere.path().join("ca.crt"),
    )
    .unwrap();
    let lb = site.start().await;
    if !is_confined(&lb).await {
        return;
    }
    let there = elsewhere
        .path()
        .canonicalize()
        .unwrap()
        .display()
        .to_string();
    let moved_ca = lb
        .config()
        .replace("\"ca.crt\"", &format!("\"{there}/ca.crt\""));
    let moved_log = lb.config().replace(
        "[log]\n",
        &format!("[log]\naccess = \"{there}/access.log\"\n"),
    );
    let text = |what| ["sandbox does not allow", &there, "Restart", what];
    for (config, what) in [(&moved_ca, "ca.crt"), (&moved_log, "access.log")] {
        assert_ne!(*config, lb.config());
        assert_eq!(lb.reload(config).await, "rejected");
        wait_message(&lb, "ERROR", &text(what)).await;
        assert_serves(&lb).await;
    }
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 1);
    // A reload accepts other files in a readable directory.
    fs::copy(lb.dir().join("ca.crt"), lb.dir().join("new.crt")).unwrap();
    let renamed = lb.config().replace("\"ca.crt\"", "\"new.crt\"");
    assert_eq!(lb.reload(&renamed).await, "applied");
    assert_serves(&lb).await;
    lb.quiet().await;
    // A new process with this configuration may read the file.
    let other = Balancer::start(BIN, &moved_ca, lb.dir()).await.unwrap();
    assert!(is_confined(&other).await);
    let client = lb.client(CLIENT1);
    talk(client.connect(other.address("main")).await.unwrap())
        .await
        .unwrap();
}

/// A reload adds an admin socket that was not configured when the sandbox was set up.
#[tokio::test]
async fn reload_adds_an_admin_socket_in_the_runtime_directory() {
    let web = Upstream::named("web1").await;
    let (runtime, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let lb = Site::usual(&[&web])
        .start_with(|command| {
            command.env("RUNTIME_DIRECTORY", runtime.path());
        })
        .await;
    if !is_confined(&lb).await {
        return;
    }
    let with_socket_in = |dir: &Path| {
        let socket = format!("[admin]\nsocket = \"{}/lb.sock\"", dir.display());
        lb.config().replace("[admin]", &socket)
    };
    assert_ne!(with_socket_in(runtime.path()), lb.config());
    for _ in 0..2 {
        assert_eq!(lb.reload(&with_socket_in(runtime.path())).await, "applied");
        UnixStream::connect(runtime.path().join("lb.sock")).unwrap();
        // A reload without the socket removes its file, so that the next reload can create
        // it again.
        assert_eq!(lb.reload(&lb.config()).await, "applied");
        assert_eq!(fs::read_dir(runtime.path()).unwrap().count(), 0);
    }
    let there = elsewhere.path().canonicalize().unwrap();
    assert_eq!(lb.reload(&with_socket_in(&there)).await, "rejected");
    let there = there.display().to_string();
    wait_message(
        &lb,
        "ERROR",
        &["sandbox does not allow making sockets in", &there],
    )
    .await;
    assert_eq!(lb.reload(&lb.config()).await, "applied");
    assert_serves(&lb).await;
    lb.quiet().await;
}

#[tokio::test]
async fn files_may_be_anywhere_without_the_sandbox() {
    let web = Upstream::named("web1").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let lb = Site::usual(&[&web])
        .process("sandbox = \"off\"")
        .start()
        .await;
    assert_eq!(status(&lb).await["sandbox"]["state"], "off");
    fs::copy(lb.dir().join("ca.crt"), elsewhere.path().join("ca.crt")).unwrap();
    let there = elsewhere.path().display();
    let moved = lb
        .config()
        .replace("\"ca.crt\"", &format!("\"{there}/ca.crt\""));
    assert_eq!(lb.reload(&moved).await, "applied");
    assert_serves(&lb).await;
    lb.quiet().await;
}

/// The configuration refers to certificates through a symlink outside of the configuration's
/// directory. Deployment tools switch such a symlink to new certificates.
#[tokio::test]
async fn certificates_are_renewed_inside_the_sandbox() {
    let web = Upstream::named("web1").await;
    let store = tempfile::tempdir().unwrap();
    let link = store.path().join("current");
    let point = |to: &str| {
        let new = store.path().join("new");
        symlink(to, &new).unwrap();
        fs::rename(new, &link).unwrap();
    };
    let dir = |name: &str| store.path().join("releases").join(name);
    let tls = TLS.replace("= \"", &format!("= \"{}/", link.display()));
    let site = Site::new()
        .listener("main", &["upstream = \"web\"", &tls])
        .upstream("web", &[NO_PROBES], &crate::support::entries(&[&web]))
        .client("client1", &cn(CLIENT1), "web", "");
    for name in ["v1", "v2"] {
        fs::create_dir_all(dir(name)).unwrap();
        site.ca.write_set(dir(name), &["localhost"]);
    }
    point("releases/v1");
    let lb = site.start().await;
    if !is_confined(&lb).await {
        return;
    }
    let shown = || async {
        let stream = lb.client(CLIENT1).connect(lb.main()).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        talk(stream).await.unwrap();
        shown
    };
    let first = shown().await;
    assert_eq!(
        lb.reloading(|| {
            point("releases/v2");
            lb.signal(Signal::HUP)
        })
        .await,
        "applied"
    );
    let second = shown().await;
    assert_ne!(second, first);
    // A CRL that revokes a client replaces the previous CRL by a rename, and is loaded.
    let cert = lb.ca().leaf(CLIENT1).build();
    let listed = lb.ca().crl(&[&cert]);
    let replace = |name: &str, text: &str| {
        fs::write(dir("v2").join("new"), text).unwrap();
        fs::rename(dir("v2").join("new"), dir("v2").join(name)).unwrap();
    };
    assert_eq!(lb.reloading(|| replace("ca.crl", &listed)).await, "applied");
    assert!(refused(&lb.client_with(&cert), lb.main()).await.is_some());
    lb.expect_record(2, "revoked_certificate").await;
    assert_eq!(shown().await, second);
    lb.quiet().await;
}

#[tokio::test]
async fn access_log_is_rotated_inside_the_sandbox() {
    let web = Upstream::named("web1").await;
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("access.log");
    let lb = Site::usual(&[&web])
        .log(&format!("access = \"{}\"", log.display()))
        .start()
        .await;
    if !is_confined(&lb).await {
        return;
    }
    let lines = |path: &Path| fs::read_to_string(path).map_or(0, |text| text.lines().count());
    for rotation in 1..=3 {
        assert_serves(&lb).await;
        eventually(DEADLINE, || async {
            let count = lines(&log);
            (count == 1).then_some(()).ok_or(format!("{count} lines"))
        })
        .await
        .unwrap();
        fs::rename(&log, log.with_extension(rotation.to_string())).unwrap();
        lb.signal(Signal::USR1);
        eventually(DEADLINE, || async {
            let count = lb.stderr().matches("reopening log files").count();
            (count == rotation)
                .then_some(())
                .ok_or(format!("{count} times"))
        })
        .await
        .unwrap();
    }
    // A reload can open another log file in the same directory.
    let other = lb.config().replace("access.log", "other.log");
    assert_eq!(lb.reload(&other).await, "applied");
    assert_serves(&lb).await;
    eventually(DEADLINE, || async {
        let count = lines(&logs.path().join("other.log"));
        (count == 1).then_some(()).ok_or(format!("{count} lines"))
    })
    .await
    .unwrap();
    lb.quiet().await;
}

#[tokio::test]
async fn server_names_are_resolved_inside_the_sandbox() {
    let web = Upstream::named("web1").await;
    let by_name = format!(
        "{{ name = \"web1\", address = \"localhost:{}\" }}",
        web.addr().port()
    );
    let site = Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &[by_name])
        .client("client1", &cn(CLIENT1), "web", "");
    let lb = site.start().await;
    if !is_confined(&lb).await {
        return;
    }
    assert_serves(&lb).await;
    lb.quiet().await;
}

/// The kernel allows sixteen Landlock layers per process. The balancer starts with sixteen
/// inherited layers, like the seventeenth process in a chain of upgrades.
#[test]
fn start_with_the_maximum_of_landlock_layers() {
    let thread = std::thread::spawn(|| {
        for _ in 0..16 {
            // The layer only denies an operation that the program never uses.
            let rules = Ruleset::default()
                .handle_access(AccessFs::MakeBlock)
                .unwrap();
            let status = rules.create().unwrap().restrict_self().unwrap();
            if status.ruleset == RulesetStatus::NotEnforced {
                eprintln!("SKIPPED: this kernel has no Landlock");
                return;
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let web = Upstream::named("web1").await;
            // `sandbox = "on"` accepts inherited restrictions.
            let site = Site::usual(&[&web]).process("sandbox = \"on\"");
            let lb = site.start().await;
            assert_eq!(status(&lb).await["sandbox"]["state"], "inherited");
            wait_message(&lb, "WARN", &["no further sandbox layer"]).await;
            assert_serves(&lb).await;
            lb.quiet().await;
        });
    });
    thread.join().unwrap();
}

/// Python program that runs a command with a seccomp filter. The filter makes Landlock fail
/// with ENOSYS, as on a kernel without Landlock.
const WITHOUT_LANDLOCK: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
# The system call number; 444 is landlock_create_ruleset on every architecture.
program = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (0x06, 0, 0, 0x00050000 | 38), (0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]
filter = Program(len(program), ctypes.addressof(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(filter), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn without_landlock(command: &mut Command) {
    let mut wrapped = Command::new("python3");
    wrapped
        .args(["-c", WITHOUT_LANDLOCK])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        wrapped.current_dir(dir);
    }
    *command = wrapped;
}

fn has_python() -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: there is no python3");
    }
    there
}

#[tokio::test]
async fn missing_landlock_is_a_warning() {
    if !has_python() {
        return;
    }
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).start_with(without_landlock).await;
    let sandbox = status(&lb).await["sandbox"].clone();
    assert_eq!(sandbox["state"], "unavailable", "{sandbox}");
    assert!(
        sandbox["detail"].as_str().unwrap().contains("no Landlock"),
        "{sandbox}"
    );
    wait_message(&lb, "WARN", &["not confined", "no Landlock"]).await;
    assert_serves(&lb).await;
    lb.quiet().await;
}

#[tokio::test]
async fn required_sandbox_fails_without_landlock() {
    if !has_python() {
        return;
    }
    let web = Upstream::named("web1").await;
    let site = Site::usual(&[&web]).process("sandbox = \"on\"");
    let config = site.config();
    let error = within(
        DEADLINE,
        "the exit",
        Balancer::start_with(BIN, &config, &site.dir, without_landlock),
    )
    .await
    .unwrap_err();
    assert_eq!(error.status.unwrap().code(), Some(1), "{error}");
    for text in ["`sandbox = \"on\"`", "no Landlock"] {
        assert!(error.stderr.contains(text), "{text} is missing in {error}");
    }
    // `check` does not confine itself, so it works on any kernel.
    let mut check = Command::new(BIN);
    check
        .args(["check", "--config"])
        .arg(site.dir.path().join("leastconn.toml"));
    without_landlock(&mut check);
    assert!(check.status().unwrap().success());
}
