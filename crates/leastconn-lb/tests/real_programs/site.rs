//! What `certs/generate_certs.sh` and `examples/leastconn.toml` make: certificates,
//! two web servers, and the balancer in front of them.

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
    program::{Ended, LB, command, replace, run},
};

/// A value of `[process] tls_records`.
pub(crate) type Records = &'static str;

/// Runs a test for each record layer: what clients see must be the same.
macro_rules! both_record_layers {
    ($(#[$attribute:meta] $test:ident,)+) => {
        mod with_direct_records {
            $(#[$attribute] async fn $test() { super::$test("direct").await })+
        }
        mod with_rustls_records {
            $(#[$attribute] async fn $test() { super::$test("rustls").await })+
        }
    };
}
pub(crate) use both_record_layers;

/// The repository.
pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A directory with a copy of `certs/` in it, and the certificates made there.
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
            // The scripts alone: a developer's certificates stay out.
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

    /// Where everything is: the parent of `certs`.
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

    /// Has `revoke.sh` put a client's certificate on the list.
    pub(crate) async fn revoke(&self, client: &str) {
        let (cert, _) = self.pair(client);
        let revoked = self.script("revoke.sh", &[cert.to_str().unwrap()]).await;
        assert!(revoked.ok().stdout.starts_with("revoked serial"));
    }

    /// Runs one of the scripts.
    pub(crate) async fn script(&self, name: &str, args: &[&str]) -> Ended {
        let mut script = command(self.path(name));
        // Their temporary files too are ours to clean up.
        script.args(args).env("TMPDIR", self.dir());
        run(&mut script).await
    }
}

/// The balancer in front of two nginx.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) balancer: Balancer,
    pub(crate) web1: Nginx,
    pub(crate) web2: Nginx,
    pub(crate) certs: Certs,
    files: usize,
}

impl Site {
    /// The example as it is, but for addresses and the log's format.
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    /// The example with this record layer.
    pub(crate) async fn with_records(records: Records) -> Self {
        Self::start_with(|config| choose(records, &config)).await
    }

    /// The example, further changed by `adjust`.
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

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.balancer.address("main")
    }

    /// Stops the balancer and starts a new one, with the files as they are now.
    pub(crate) async fn restart(&mut self) {
        self.quiet().await;
        stop(&self.balancer).await;
        let path = self.certs.dir().join("conf/leastconn.toml");
        let config = fs::read_to_string(path).unwrap();
        self.balancer = start(&config, &self.certs).await;
        self.files = self.balancer.open_fds();
    }

    /// Asks for the page, as `client`.
    pub(crate) async fn page(&self, client: &str) -> Ended {
        run(curl::get(&self.certs, self.address(), Some(client)).arg("https://lb.com/")).await
    }

    /// Waits for the one record that is there beside those with outcome `ok`.
    pub(crate) async fn refusal(&self) -> Value {
        let refused = |record: &Value| record["outcome"] != "ok";
        let record = self.balancer.wait_record(refused, DEADLINE).await;
        let all = self.balancer.records();
        assert_eq!(all.iter().filter(|r| refused(r)).count(), 1, "{all:#?}");
        record
    }

    async fn quiet(&self) {
        self.balancer.assert_idle(self.files).await;
    }

    /// Nothing is in flight and no file left open; the balancer ends by itself.
    pub(crate) async fn finish(self) {
        self.quiet().await;
        stop(&self.balancer).await;
    }
}

/// The example configuration with these servers, on any port, logging JSON.
pub(crate) fn example(web1: SocketAddr, web2: SocketAddr) -> String {
    let text = fs::read_to_string(repository().join("examples/leastconn.toml")).unwrap();
    let text = replace(&text, "\"webapp1:80\"", &format!("\"{web1}\""));
    let text = replace(&text, "\"webapp2:80\"", &format!("\"{web2}\""));
    let text = replace(&text, "bind = \"0.0.0.0:9443\"", "bind = \"127.0.0.1:0\"");
    let text = replace(&text, "bind = \"127.0.0.1:9901\"", "bind = \"127.0.0.1:0\"");
    replace(&text, "format = \"text\"", "format = \"json\"")
}

/// `config` with this record layer.
pub(crate) fn choose(records: Records, config: &str) -> String {
    let table = format!("[process]\ntls_records = \"{records}\"");
    replace(config, "[process]", &table)
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

/// Ends the balancer by TERM; it had nobody connected.
pub(crate) async fn stop(balancer: &Balancer) {
    balancer.signal(Signal::TERM);
    let status = balancer.wait_exit(DEADLINE).await;
    assert_eq!(status.code(), Some(0), "{}", balancer.stderr());
}
