//! nginx, with a page that says its name.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use leastconn_testkit::{DEADLINE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::program::{self, Port};

/// A web server in a directory of its own. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    dir: PathBuf,
    port: Port,
    status: Port,
    process: Option<Child>,
    asked: AtomicU64,
}

impl Nginx {
    /// Starts one, in `parent/name`. `/` is the page `name`, `/healthz` answers 200,
    /// or 503 once told so.
    pub(crate) async fn start(name: &str, parent: &Path) -> Self {
        Self::start_with(name, parent, ["", ""]).await
    }

    /// The same by mutual TLS of that version, with `server.crt`, `server.key` and `ca.crt` of `parent`.
    /// The page says whom it takes the client for.
    pub(crate) async fn start_tls(name: &str, parent: &Path, version: &str) -> Self {
        let files = parent.display();
        let tls = format!(
            "ssl_certificate {files}/server.crt; ssl_certificate_key {files}/server.key;
    ssl_client_certificate {files}/ca.crt; ssl_verify_client on;
    ssl_protocols {version};"
        );
        Self::start_with(name, parent, ["ssl", &tls]).await
    }

    /// The same by HTTP/2 without TLS (prior knowledge).
    pub(crate) async fn start_http2(name: &str, parent: &Path) -> Self {
        Self::start_with(name, parent, ["http2", ""]).await
    }

    async fn start_with(name: &str, parent: &Path, [option, tls]: [&str; 2]) -> Self {
        let dir = parent.join(name);
        fs::create_dir(&dir).unwrap();
        let (port, status) = (Port::reserve(), Port::reserve());
        let listen = format!("listen {} {option};\n    {tls}", port.address);
        let page = match option {
            "" | "http2" => name.to_owned(),
            _ => format!("{name} $ssl_protocol $ssl_server_name $ssl_client_s_dn"),
        };
        let config = configuration(&page, &dir, &listen, status.address);
        fs::write(dir.join("nginx.conf"), config).unwrap();
        let mut this = Self {
            dir,
            port,
            status,
            process: None,
            asked: AtomicU64::new(0),
        };
        this.run().await;
        this
    }

    async fn run(&mut self) {
        let process = Command::new(program::path("nginx"))
            .arg("-c")
            .arg(self.dir.join("nginx.conf"))
            .arg("-p")
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.join("stderr")).unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
        let up = eventually(DEADLINE, || self.ask(self.status.address));
        if let Err(why) = up.await {
            let said = fs::read_to_string(self.dir.join("stderr")).unwrap();
            panic!("nginx does not start: {why}\n{said}");
        }
        // What it was asked before it may have been restarted is forgotten by it too.
        self.asked.store(1, Ordering::Relaxed);
    }

    /// Where its pages are.
    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Ends it as an operator would, and waits for that.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Not reaped yet, so the ID is its own.
            kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, at the same address.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.process.is_none());
        self.run().await;
    }

    /// What `/healthz` answers from now on.
    pub(crate) fn be_well(&self, well: bool) {
        let sign = self.dir.join("ill");
        if well {
            fs::remove_file(sign).unwrap();
        } else {
            fs::write(sign, "").unwrap();
        }
    }

    /// Connections that it accepted from others than this test's own questions.
    pub(crate) async fn accepted(&self) -> u64 {
        let text = self.ask(self.status.address).await.unwrap();
        let asked = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        // Active connections: 1 \nserver accepts handled requests\n 5 5 5 \n…
        let counts = text.lines().find(|line| line.starts_with(' ')).unwrap();
        let accepts: u64 = counts.split_whitespace().next().unwrap().parse().unwrap();
        accepts - asked
    }

    /// Its access log: for every request the connection's number, the request's
    /// number on it, and the path.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    async fn ask(&self, address: SocketAddr) -> Result<String, String> {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        answer
            .map_err(|elapsed| elapsed.to_string())?
            .map_err(|error| error.to_string())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

// One process, so that killing it leaves nobody behind. The queue is long enough
// for a test's connections; the log is not buffered.
fn configuration(page: &str, dir: &Path, listen: &str, status: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        r#"daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log {dir}/error.log info;
events {{ worker_connections 1024; }}
http {{
  log_format tests '$connection $connection_requests $uri';
  client_body_temp_path {dir}/t1;
  proxy_temp_path {dir}/t2;
  fastcgi_temp_path {dir}/t3;
  uwsgi_temp_path {dir}/t4;
  scgi_temp_path {dir}/t5;
  access_log off;
  server {{
    {listen}
    access_log {dir}/access.log tests;
    default_type text/plain;
    location / {{ return 200 "{page}\n"; }}
    location = /healthz {{
      access_log off;
      if (-f {dir}/ill) {{ return 503; }}
      return 200 "well\n";
    }}
  }}
  server {{
    listen {status};
    location / {{ stub_status; }}
  }}
}}
"#
    )
}
