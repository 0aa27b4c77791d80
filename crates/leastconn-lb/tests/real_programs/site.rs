//! A site with the certificates of `certs/generate_certs.sh` and the configuration
//! `examples/leastconn.toml`: two web servers, and the balancer in front of them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use leastconn_testkit::{Balancer, DEADLINE, Signal, TempDir};
use serde_json::Value;

use crate::{
    curl,
    nginx::Nginx,
    program::{LB, Output, command, replace, run},
};

/// A value of `[process] tls_records`.
pub(crate) type RecordLayer = &'static str;

pub(crate) use leastconn_testkit::both_record_layers;

/// Root directory of the repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A temporary directory with a copy of `certs/` and generated certificates.
#[derive(Debug)]
pub(crate) struct Certs {
    dir: TempDir,
}

impl Certs {
    pub(crate) async fn generate() -> Self {
        let this = Self {
            dir: TempDir::new().unwrap(),
        };
        fs::create_dir(this.dir().join("certs")).unwrap();
        for entry in fs::read_dir(repository().join("certs")).unwrap() {
            let path = entry.unwrap().path();
            // Copy only the scripts, not the certificates of a developer.
            if path.extension().is_some_and(|end| end == "sh") {
                fs::copy(
                    &path,
                    this.path(path.file_name().unwrap().to_str().unwrap()),
                )
                .unwrap();
            }
        }
        this.script("generate_certs.sh", &[]).await.ok();
        this.script("generate_alt_certs.sh", &[]).await.ok();
        this
    }

    /// The parent directory of `certs`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path below `certs`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join("certs").join(name)
    }

    /// A client's certificate and key: `client1`, `alt/client1`.
    pub(crate) fn pair(&self, client: &str) -> (PathBuf, PathBuf) {
        let stem = match client.split_once('/') {
            Some(_) => client.to_owned(),
            None => format!("{client}/{client}"),
        };
        (
            self.path(&format!("{stem}.crt")),
            self.path(&format!("{stem}.key.pem")),
        )
    }

    /// Revokes a client's certificate with `revoke.sh`.
    pub(crate) async fn revoke(&self, client: &str) {
        let (cert, _) = self.pair(client);
        let revoked = self.script("revoke.sh", &[cert.to_str().unwrap()]).await;
        assert!(revoked.ok().stdout.starts_with("revoked serial"));
    }

    /// Runs a script in `certs`.
    pub(crate) async fn script(&self, name: &str, args: &[&str]) -> Output {
        let mut script = command(self.path(name));
        // The temporary directory of the test also holds the scripts' temporary files.
        script.args(args).env("TMPDIR", self.dir());
        run(&mut script).await
    }
}

/// The balancer in front of two nginx servers.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) balancer: Balancer,
    pub(crate) web1: Nginx,
    pub(crate) web2: Nginx,
    pub(crate) certs: Certs,
    files: usize,
}

impl Site {
    /// Starts the example configuration; see [`example`].
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    /// Like [`Self::start`], with this record layer.
    pub(crate) async fn with_record_layer(layer: RecordLayer) -> Self {
        Self::start_with(|config| set_record_layer(layer, &config)).await
    }

    /// Like [`Self::start`], with a configuration changed by `adjust`.
    pub(crate) async fn start_with(adjust: impl FnOnce(String) -> String) -> Self {
        let certs = Certs::generate().await;
        let web1 = Nginx::start("webapp1", certs.dir()).await;
        let web2 = Nginx::start("webapp2", certs.dir()).await;
        let config = adjust(example(web1.address(), web2.address()));
        let balancer = start(&config, &certs).await;
        let files = balancer.open_fds();
        Self {
            balancer,
            web1,
            web2,
            certs,
            files,
        }
    }

    /// The address of the listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.balancer.address("main")
    }

    /// Stops the balancer and starts a new one with the current files.
    pub(crate) async fn restart(&mut self) {
        self.assert_idle().await;
        stop(&self.balancer).await;
        let path = self.certs.dir().join("conf/leastconn.toml");
        let config = fs::read_to_string(path).unwrap();
        self.balancer = start(&config, &self.certs).await;
        self.files = self.balancer.open_fds();
    }

    /// Requests the page as `client`.
    pub(crate) async fn page(&self, client: &str) -> Output {
        run(curl::get(&self.certs, self.address(), Some(client)).arg("https://lb.com/")).await
    }

    /// Waits for the only record whose outcome is not `ok`.
    pub(crate) async fn refusal(&self) -> Value {
        let refused = |record: &Value| record["outcome"] != "ok";
        let record = self.balancer.wait_record(refused, DEADLINE).await;
        let all = self.balancer.records();
        assert_eq!(all.iter().filter(|r| refused(r)).count(), 1, "{all:#?}");
        record
    }

    async fn assert_idle(&self) {
        self.balancer.assert_idle(self.files).await;
    }

    /// Checks that the balancer is idle, and stops it.
    pub(crate) async fn finish(self) {
        self.assert_idle().await;
        stop(&self.balancer).await;
    }
}

/// The example configuration with these servers, port 0 and JSON logs.
pub(crate) fn example(web1: SocketAddr, web2: SocketAddr) -> String {
    let text = fs::read_to_string(repository().join("examples/leastconn.toml")).unwrap();
    let text = replace(&text, "\"webapp1:80\"", &format!("\"{web1}\""));
    let text = replace(&text, "\"webapp2:80\"", &format!("\"{web2}\""));
    let text = replace(&text, "bind = \"0.0.0.0:9443\"", "bind = \"127.0.0.1:0\"");
    let text = replace(&text, "bind = \"127.0.0.1:9901\"", "bind = \"127.0.0.1:0\"");
    replace(&text, "format = \"text\"", "format = \"json\"")
}

/// Sets the record layer in `config`.
pub(crate) fn set_record_layer(layer: RecordLayer, config: &str) -> String {
    let table = format!("[process]\ntls_records = \"{layer}\"");
    replace(config, "[process]", &table)
}

/// Raises the rate limit of the clients, so that the requests of a test do not reach it.
pub(crate) fn raise_rate_limit(config: &str) -> String {
    replace(
        config,
        "rate = 20, burst = 20",
        "rate = 1000, burst = 10000",
    )
}

/// Starts the balancer with `config` in the directory `conf` beside `certs`.
pub(crate) async fn start(config: &str, certs: &Certs) -> Balancer {
    start_in("conf", config, certs).await
}

/// Starts the balancer with `config` in a directory beside `certs`.
pub(crate) async fn start_in(name: &str, config: &str, certs: &Certs) -> Balancer {
    let dir = certs.dir().join(name);
    fs::create_dir_all(&dir).unwrap();
    Balancer::start(LB, config, dir).await.unwrap()
}

/// Stops the balancer, which has no connections, with SIGTERM.
pub(crate) async fn stop(balancer: &Balancer) {
    balancer.signal(Signal::TERM);
    let status = balancer.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}", balancer.stderr());
}
