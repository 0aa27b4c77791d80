//! Starts balancers with equivalent configurations.

use std::{
    fmt, fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use clap::ValueEnum;
use tokio::time::{Instant, sleep};

use super::{
    case::{self, Transport},
    child::Child,
    program::{Kind, Program, nginx_module},
};
use crate::load::{Target, Tls};

/// Name of the access log in the directory of a balancer.
const ACCESS_LOG: &str = "access.log";

/// Record layer of leastconn: `[process] tls_records`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Records {
    Direct,
    Rustls,
}

impl fmt::Display for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Rustls => "rustls",
        })
    }
}

/// Configuration of a balancer.
#[derive(Clone, Debug)]
pub struct Job {
    /// Directory with `ca.crt`, `server.crt`, `server.key`, `server-full.pem`.
    pub pki: PathBuf,
    /// Directory in which each balancer gets its own subdirectory.
    pub run: PathBuf,
    pub servers: Vec<SocketAddr>,
    /// Number of worker threads or processes.
    pub workers: usize,
    /// Record layer of leastconn; `None`: its default.
    pub records: Option<Records>,
    pub access_log: bool,
    /// Number of client rules up to and including the rule that matches the measured client.
    pub identities: usize,
    /// Number of concurrent connections that the balancer must support.
    pub max_connections: usize,
    pub cpus: Vec<usize>,
    /// CPUs for the load generator and the servers.
    pub own_cpus: Vec<usize>,
}

#[derive(Debug)]
pub struct Balancer {
    child: Child,
    ports: Ports,
    access_log: PathBuf,
}

/// Loopback ports of a balancer's listeners.
#[derive(Clone, Copy, Debug)]
struct Ports {
    tls: u16,
    /// Port of the TLS listener with session resumption.
    resumed: u16,
    plain: u16,
}

impl Ports {
    fn free() -> io::Result<Self> {
        Ok(Self {
            tls: free_port()?,
            resumed: free_port()?,
            plain: free_port()?,
        })
    }
}

/// A balancer could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The balancer exited or did not relay an echo in time. Contains the reason and the last
    /// lines of the balancer's output.
    #[error("not ready: {0}\n{1}")]
    NotReady(String, String),
}

impl Balancer {
    /// Starts a balancer, and waits until it relays echoes with and without TLS.
    ///
    /// # Errors
    /// If the balancer is not ready in time.
    pub async fn start(program: &Program, job: &Job, tls: &Tls) -> Result<Self, StartError> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{}-", program.kind))
            .tempdir_in(&job.run)?
            .keep();
        let ports = Ports::free()?;
        let mut command = prepare(program, job, &directory, ports)?;
        let log = directory.join("output.log");
        let child = Child::spawn(&mut command, &job.cpus, &job.own_cpus, &log)?;
        let access_log = match program.kind {
            // HAProxy cannot open log files.
            Kind::Haproxy => log,
            _ => directory.join(ACCESS_LOG),
        };
        let mut balancer = Self {
            child,
            ports,
            access_log,
        };
        // A debug build takes long to load 100,000 rules.
        let seconds = match program.kind {
            Kind::Leastconn => 180,
            _ => 20,
        };
        balancer.ready(tls, Duration::from_secs(seconds)).await?;
        Ok(balancer)
    }

    async fn ready(&mut self, tls: &Tls, limit: Duration) -> Result<(), StartError> {
        let end = Instant::now() + limit;
        let targets = [
            self.target(Transport::Mtls, Some(tls)),
            self.target(Transport::MtlsResumed, Some(tls)),
            self.target(Transport::Plain, None),
        ];
        for target in targets {
            loop {
                let failure = match target.connect_and_echo(b"ready?").await {
                    Ok(_) => break,
                    Err(failure) => failure,
                };
                let ended = self.child.exit_status();
                if ended.is_some() || Instant::now() >= end {
                    let what = match ended {
                        Some(status) => format!("ended with {status}"),
                        None => failure.to_string(),
                    };
                    return Err(StartError::NotReady(what, self.child.log_tail()));
                }
                sleep(Duration::from_millis(25)).await;
            }
        }
        Ok(())
    }

    /// Returns the address to which clients with this transport connect.
    pub fn target(&self, transport: Transport, tls: Option<&Tls>) -> Target {
        let port = match transport {
            Transport::Mtls => self.ports.tls,
            Transport::MtlsResumed => self.ports.resumed,
            Transport::Plain => self.ports.plain,
        };
        Target {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            tls: tls.cloned(),
            announce: true,
            from: None,
        }
    }

    /// Stops the balancer and returns the number of lines in its access log.
    ///
    /// # Errors
    /// If the access log cannot be read.
    pub async fn count_log_lines(self) -> io::Result<u64> {
        // nginx writes its buffer after a second, but not when it ends.
        sleep(Duration::from_millis(1200)).await;
        let Self {
            child, access_log, ..
        } = self;
        drop(child);
        let bytes = fs::read(access_log)?;
        Ok(bytes.iter().filter(|&&byte| byte == b'\n').count() as u64)
    }

    /// ID of the main process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

/// Returns a port that is currently free. If another program takes the port first, the balancer
/// fails to start.
fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Writes the configuration, and returns the command.
fn prepare(program: &Program, job: &Job, directory: &Path, ports: Ports) -> io::Result<Command> {
    let module = nginx_module().filter(|_| program.path.starts_with("/usr"));
    let module = module.map_or_else(String::new, |path| {
        format!("load_module {};", path.display())
    });
    // Omit the key by default, because older versions of leastconn do not know it.
    let records = job.records.map_or_else(String::new, |records| {
        format!("tls_records = \"{records}\"")
    });
    let access_log = match job.access_log {
        true => directory.join(ACCESS_LOG).display().to_string(),
        false => "off".to_owned(),
    };
    let mut values = vec![
        ("@PKI@", job.pki.display().to_string()),
        ("@RUN@", directory.display().to_string()),
        ("@TLS_PORT@", ports.tls.to_string()),
        ("@RESUMED_PORT@", ports.resumed.to_string()),
        ("@PLAIN_PORT@", ports.plain.to_string()),
        ("@WORKERS@", job.workers.to_string()),
        ("@RECORDS@", records),
        ("@MAX_CONNECTIONS@", job.max_connections.to_string()),
        (
            "@MAX_WITH_PIPES@",
            case::with_pipes(job.max_connections).to_string(),
        ),
        ("@OPEN_FILES@", (2 * job.max_connections + 200).to_string()),
        ("@LOAD_MODULE@", module),
        ("@ACCESS_LOG@", access_log),
    ];
    if job.access_log {
        values.push((LOGGED, String::new()));
    }
    let write = |name: &str, template: &str| -> io::Result<PathBuf> {
        let path = directory.join(name);
        let text = render(template, &values, &job.servers, job.identities);
        fs::write(&path, text)?;
        Ok(path)
    };
    let mut command = Command::new(&program.path);
    match program.kind {
        Kind::Leastconn => {
            let path = write("leastconn.toml", include_str!("../../peers/leastconn.toml"))?;
            command.arg("run").arg("--config").arg(path);
        }
        Kind::Haproxy => {
            let path = write("haproxy.cfg", include_str!("../../peers/haproxy.cfg"))?;
            command.arg("-db").arg("-f").arg(path);
        }
        Kind::Nginx => {
            let path = write("nginx.conf", include_str!("../../peers/nginx.conf"))?;
            command.arg("-p").arg(directory).arg("-c").arg(path);
            command.arg("-e").arg(directory.join("error.log"));
        }
        Kind::Envoy => {
            let path = write("envoy.yaml", include_str!("../../peers/envoy.yaml"))?;
            command.arg("-c").arg(path);
            command.args(["--concurrency", &job.workers.to_string()]);
            command.args(["--disable-hot-restart", "--log-level", "error"]);
        }
        Kind::Traefik => {
            let dynamic = include_str!("../../peers/traefik-dynamic.yaml");
            write("traefik-dynamic.yaml", dynamic)?;
            let path = write("traefik.yaml", include_str!("../../peers/traefik.yaml"))?;
            command.arg(format!("--configFile={}", path.display()));
            command.env("GOMAXPROCS", job.workers.to_string());
        }
    }
    Ok(command)
}

/// In a template, marks a line that is used only if an access log is written.
const LOGGED: &str = "@LOGGED@";

/// Fills in a template. A line with [`LOGGED`] is left out unless `values` has it. A line with `@SERVER@`, `@HOST@` or `@PORT@` is repeated for each server.
/// A line with `@IDENTITY@` is repeated for each client rule except the last.
fn render(
    template: &str,
    values: &[(&str, String)],
    servers: &[SocketAddr],
    identities: usize,
) -> String {
    let mut text = String::with_capacity(template.len());
    for line in template.lines() {
        let mut line = line.to_owned();
        for (name, value) in values {
            line = line.replace(name, value);
        }
        if line.contains(LOGGED) {
            continue;
        }
        if line.contains("@SERVER@") || line.contains("@PORT@") {
            for (number, server) in servers.iter().enumerate() {
                let filled = line
                    .replace("@SERVER@", &server.to_string())
                    .replace("@HOST@", &server.ip().to_string())
                    .replace("@PORT@", &server.port().to_string())
                    .replace("@NUMBER@", &number.to_string());
                text.push_str(&filled);
                text.push('\n');
            }
        } else if line.contains("@IDENTITY@") {
            for number in 1..identities {
                text.push_str(&line.replace("@IDENTITY@", &format!("other-{number}")));
                text.push('\n');
            }
        } else {
            text.push_str(&line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::program::PEERS;

    #[test]
    fn template_lines_repeat_per_server_and_identity() {
        let servers = ["127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap()];
        let template = "bind @TLS_PORT@\n@LOGGED@log\n - s@NUMBER@ @SERVER@\n - @HOST@ @PORT@\nc @IDENTITY@\nend\n";
        let values = [("@TLS_PORT@", "443".to_owned())];
        assert_eq!(
            render(template, &values, &servers, 3),
            "bind 443\n - s0 127.0.0.1:1\n - s1 [::1]:2\n - 127.0.0.1 1\n - ::1 2\n\
             c other-1\nc other-2\nend\n"
        );
        assert!(!render(template, &values, &servers, 1).contains("other"));
        let logged = [values[0].clone(), (LOGGED, String::new())];
        assert!(render(template, &logged, &servers, 1).starts_with("bind 443\nlog\n"));
    }

    #[test]
    fn every_template_placeholder_is_filled() {
        let directory = tempfile::tempdir().unwrap();
        let mut job = Job {
            pki: "/pki".into(),
            run: directory.path().to_owned(),
            servers: vec!["127.0.0.1:1".parse().unwrap(); 4],
            workers: 1,
            records: Some(Records::Direct),
            access_log: false,
            identities: 2,
            max_connections: 100,
            cpus: vec![0],
            own_cpus: vec![0],
        };
        let kinds = [Kind::Leastconn].into_iter().chain(PEERS);
        for (kind, access_log) in kinds.flat_map(|kind| [(kind, false), (kind, true)]) {
            job.access_log = access_log;
            let program = Program {
                kind,
                path: "/usr/sbin/any".into(),
                version: String::new(),
            };
            let place = directory.path().join(format!("{kind}-{access_log}"));
            fs::create_dir(&place).unwrap();
            let ports = Ports {
                tls: 1,
                resumed: 2,
                plain: 3,
            };
            prepare(&program, &job, &place, ports).unwrap();
            for entry in fs::read_dir(&place).unwrap() {
                let text = fs::read_to_string(entry.unwrap().path()).unwrap();
                // "@type" is Envoy syntax, not a placeholder.
                let is_placeholder = |name: &&str| {
                    !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                };
                let left: Vec<&str> = text.split('@').skip(1).filter(is_placeholder).collect();
                assert!(left.is_empty(), "{kind}: {left:?}");
            }
        }
    }
}
