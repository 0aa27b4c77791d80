//! `examples/postgres-mtls.toml` with a PostgreSQL server and its clients.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use leastconn_testkit::{DEADLINE, TempDir, eventually};
use tokio::process::Command as AsyncCommand;

use crate::{
    program::{self, Port, command, replace, run, tool},
    service::python_with,
    site::{self, Certs, repository},
};

/// The server runs as this user if the test runs as root, because PostgreSQL refuses to run
/// as root.
const NOBODY: u32 = 65_534;

/// A server with a database, a user `app` and a password. Killed when dropped.
struct Postgres {
    _dir: TempDir,
    port: Port,
    process: Child,
}

/// Directory with the programs of the newest installed PostgreSQL version.
fn programs() -> PathBuf {
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path().join("bin"))
        .filter(|bin| bin.join("initdb").is_file())
        .collect();
    versions.sort();
    versions.pop().unwrap_or_else(|| {
        // Distributions other than Debian install the programs in the PATH.
        program::path("initdb").parent().unwrap().to_owned()
    })
}

/// A command that runs as an unprivileged user.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new(program::path("setpriv"));
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(program);
    command
}

impl Postgres {
    async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        fs::create_dir(&data).unwrap();
        let password = dir.path().join("password");
        fs::write(&password, "secret\n").unwrap();
        if rustix::process::geteuid().is_root() {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
            for path in [&data, &password] {
                chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            }
        }
        let programs = programs();
        let initdb = unprivileged(&programs.join("initdb"))
            .args([
                "--username=app",
                "--auth=scram-sha-256",
                "--no-sync",
                "--pwfile",
            ])
            .arg(&password)
            .arg("--pgdata")
            .arg(&data)
            .output()
            .unwrap();
        assert!(initdb.status.success(), "{initdb:?}");
        let port = Port::reserve();
        let process = unprivileged(&programs.join("postgres"))
            .arg("-D")
            .arg(&data)
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c"])
            .arg(format!("port={}", port.address.port()))
            .args(["-c", "unix_socket_directories="])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let this = Self {
            _dir: dir,
            port,
            process,
        };
        let up = eventually(DEADLINE, || async {
            let mut psql = tool("psql");
            psql.env("PGPASSWORD", "secret").args(["-Atc", "select 1"]);
            psql.arg(format!(
                "host=127.0.0.1 port={} user=app dbname=postgres sslmode=disable",
                this.port.address.port()
            ));
            let output = run(&mut psql).await;
            (output.code == 0).then_some(()).ok_or(output.stderr)
        });
        up.await.unwrap();
        this
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGINT requests a fast shutdown, which also ends the child processes.
        let pid = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.process.wait();
    }
}

/// The example configuration with this server and port 0.
fn configuration(postgres: &Postgres) -> String {
    let text = fs::read_to_string(repository().join("examples/postgres-mtls.toml")).unwrap();
    let text = replace(&text, "0.0.0.0:5433", "127.0.0.1:0");
    let text = replace(&text, "127.0.0.1:5441", &postgres.port.address.to_string());
    let text = replace(&text, "127.0.0.1:5442", &postgres.port.address.to_string());
    format!("{text}\n[admin]\nbind = \"127.0.0.1:0\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_clients_work() {
    let certs = Certs::generate().await;
    let postgres = Postgres::start().await;
    let balancer = site::start(&configuration(&postgres), &certs).await;
    let address = balancer.address("postgres");
    let (cert, key) = certs.pair("client1");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let ca = certs.path("ca/ca.crt");
    let conninfo = |more: &str| {
        format!(
            "host=lb.com hostaddr={} port={} user=app dbname=postgres connect_timeout=20 \
             sslrootcert={} sslcert={} sslkey={} {more}",
            address.ip(),
            address.port(),
            ca.display(),
            cert.display(),
            key.display()
        )
    };
    let psql = |more: &str, sql: &str| -> AsyncCommand {
        let mut psql = tool("psql");
        psql.env("PGPASSWORD", "secret").args(["-Atc", sql]);
        psql.arg(conninfo(more));
        psql
    };

    // Password authentication uses no channel binding, because the balancer terminates TLS.
    for mode in ["require", "verify-full"] {
        let output = run(&mut psql(&format!("sslmode={mode}"), "select 6 * 7")).await;
        assert_eq!(output.ok().stdout, "42\n");
    }
    // The data of this query exceeds one buffer in both directions.
    let sql = "select length(repeat('x', 3000000)), md5(repeat('y', 100000))";
    let output = run(&mut psql("sslmode=verify-full", sql)).await.ok();
    assert!(output.stdout.starts_with("3000000|"), "{output:?}");

    // psql prints the reason for the refusal.
    let output = run(&mut psql("sslmode=disable", "select 1")).await;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(
        output.stderr.contains("only accepts TLS connections"),
        "{output:?}"
    );
    let output = run(&mut psql("sslmode=verify-full host=other.com", "select 1")).await;
    assert!(output.stderr.contains("does not match"), "{output:?}");
    let not_tls = balancer.wait_record(|record| record["outcome"] == "not_tls", DEADLINE);
    assert!(
        not_tls.await["detail"]
            .as_str()
            .unwrap()
            .contains("sslmode")
    );

    newest_client(&conninfo("sslmode=verify-full password=secret")).await;
    site::stop(&balancer).await;
}

/// Tests psycopg with a libpq that supports direct TLS negotiation and cancels queries over
/// TLS.
async fn newest_client(conninfo: &str) {
    const SCRIPT: &str = r#"
import sys, threading
try:
    import psycopg
    if psycopg.pq.version() < 170000: raise ImportError("libpq is older than 17")
except ImportError as error:
    print("skipped:", error); sys.exit(0)
for how in ("postgres", "direct"):
    with psycopg.connect(sys.argv[1] + " sslnegotiation=" + how) as connection:
        assert connection.execute("select 6 * 7").fetchone() == (42,)
        if how == "postgres":
            timer = threading.Timer(0.5, connection.cancel_safe)
            timer.start()
            try: connection.execute("select pg_sleep(20)")
            except psycopg.errors.QueryCanceled: print("cancelled")
            timer.join()
            connection.rollback()
print("done")
"#;
    let Some(python) = python_with("psycopg") else {
        return;
    };
    let output = run(command(python).args(["-c", SCRIPT, conninfo]))
        .await
        .ok();
    if output.stdout.starts_with("skipped") {
        eprintln!("psycopg with libpq 17: {}", output.stdout.trim());
    } else {
        assert_eq!(output.stdout, "cancelled\ndone\n", "{output:?}");
    }
}
