//! nginx as an upstream server. Its page contains its name.

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

/// An nginx process with its own directory. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Nginx {
    dir: PathBuf,
    port: Port,
    status: Port,
    process: Option<Child>,
    own_requests: AtomicU64,
}

impl Nginx {
    /// Starts nginx in `parent/name`. `/` returns the page `name`, `/healthz` returns 200 or
    /// 503; see [`Self::set_healthy`].
    pub(crate) async fn start(name: &str, parent: &Path) -> Self {
        Self::start_with(name, parent, ["", ""]).await
    }

    /// Like [`Self::start`], with mutual TLS of this version, and with `server.crt`,
    /// `server.key` and `ca.crt` in `parent`. The page contains the TLS version, the SNI
    /// and the subject of the client.
    pub(crate) async fn start_tls(name: &str, parent: &Path, version: &str) -> Self {
        let files = parent.display();
        let tls = format!(
            "ssl_certificate {files}/server.crt; ssl_certificate_key {files}/server.key;
    ssl_client_certificate {files}/ca.crt; ssl_verify_client on;
    ssl_protocols {version};"
        );
        Self::start_with(name, parent, ["ssl", &tls]).await
    }

    /// Like [`Self::start`], with HTTP/2 without TLS (prior knowledge).
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
            own_requests: AtomicU64::new(0),
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
        let up = eventually(DEADLINE, || self.get(self.status.address));
        if let Err(error) = up.await {
            let log = fs::read_to_string(self.dir.join("stderr")).unwrap();
            panic!("nginx does not start: {error}\n{log}");
        }
        // nginx resets its counters when it restarts.
        self.own_requests.store(1, Ordering::Relaxed);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address
    }

    /// Stops nginx with SIGTERM, and waits until it has exited.
    pub(crate) fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // The child has not been reaped yet, so its process ID cannot have been reused.
            kill_process(Pid::from_child(&process), Signal::TERM).unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts nginx again at the same address.
    pub(crate) async fn restart(&mut self) {
        assert!(self.process.is_none());
        self.run().await;
    }

    /// Stops the process with SIGSTOP: the kernel accepts connections, but nginx does not answer.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Continues after [`Self::pause`].
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill_process(Pid::from_child(process), signal).unwrap();
    }

    /// Makes `/healthz` return 200 or 503.
    pub(crate) fn set_healthy(&self, healthy: bool) {
        let flag = self.dir.join("unhealthy");
        if healthy {
            fs::remove_file(flag).unwrap();
        } else {
            fs::write(flag, "").unwrap();
        }
    }

    /// Returns the number of accepted connections, except for the connections that read this
    /// number.
    pub(crate) async fn accepted(&self) -> u64 {
        let text = self.get(self.status.address).await.unwrap();
        let own_requests = self.own_requests.fetch_add(1, Ordering::Relaxed) + 1;
        // Format: Active connections: 1 \nserver accepts handled requests\n 5 5 5 \n…
        let counts = text.lines().find(|line| line.starts_with(' ')).unwrap();
        let accepts: u64 = counts.split_whitespace().next().unwrap().parse().unwrap();
        accepts - own_requests
    }

    /// Returns the lines of the access log: connection number, request number on the
    /// connection, and path.
    pub(crate) fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.dir.join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    async fn get(&self, address: SocketAddr) -> Result<String, String> {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
            let mut response = String::new();
            stream.read_to_string(&mut response).await?;
            std::io::Result::Ok(response)
        };
        let response = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        response
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

// nginx runs as a single process, so that killing it leaves no child processes.
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
      if (-f {dir}/unhealthy) {{ return 503; }}
      return 200 "healthy\n";
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
