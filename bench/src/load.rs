//! `load`: connections, echoes and streams through any TCP balancer, from one
//! thread. The side-by-side run uses the same parts.

pub mod client;
pub mod pace;
pub mod progress;
pub mod session;
pub mod tally;
pub mod work;

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde::Serialize;
use tokio::time::{Instant, sleep};

pub use client::{Identity, Target, Tls, TlsOptions};
pub use progress::Progress;
pub use session::{Session, Spec};
pub use tally::{Latency, Tally};

use crate::machine;

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Connect, echo once, close; again and again.
    Connect,
    /// The same by clients that leave Nagle's algorithm on; latency is that of the first
    /// echo, from the end of the handshake.
    FirstEcho,
    /// Echo on connections that stay open.
    Echo,
    /// Streams from the servers.
    Download,
    /// The same, with client and servers giving way to everybody else on their CPUs.
    Background,
    /// Streams to the servers.
    Upload,
    /// Connections that are opened and then do nothing.
    Idle,
    /// Handshakes that the balancer is to refuse, again and again.
    Refused,
    /// ClientHellos from 250 addresses of 127.9.0.0/16, and nothing after them.
    Stall,
}

impl Mode {
    /// Whether bytes are what is counted.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Download | Self::Background | Self::Upload)
    }
}

/// What load on whom.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// The balancer's address. Behind it: `leastconn-bench servers`.
    #[arg(long, value_name = "IP:PORT")]
    address: SocketAddr,
    /// What the connections do.
    #[arg(long, value_enum, default_value_t = Mode::Connect)]
    mode: Mode,
    /// Connections at the same time.
    #[arg(long, value_name = "N", default_value_t = 16)]
    connections: usize,
    /// Start so many operations (connections, echoes) a second, however long they
    /// take, and count latency from when each was due. Without: each as soon as
    /// the one before is done.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Bytes of an echo.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
    /// Seconds to measure.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    duration: f64,
    /// Seconds of load before that.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warm_up: f64,
    /// End after so many operations, if the time is not over before.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The servers behind it echo from the first byte on, and are not those of
    /// this program: modes connect, echo and idle only.
    #[arg(long)]
    plain_echo: bool,
    /// Connect from this address: for a balancer, another client.
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// Let everybody else go first on this CPU.
    #[arg(long)]
    give_way: bool,
    /// Stay on this CPU.
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tls: TlsArgs,
}

#[derive(Args, Debug)]
struct TlsArgs {
    /// Connect with TLS (X25519 only, so that all balancers do the same work).
    #[arg(long, requires = "ca")]
    tls: bool,
    /// Authorities that the balancer's certificate may come from, PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The client's certificate and chain, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Many client certificates, used in turn: NAME.crt and NAME.key each.
    #[arg(long, value_name = "DIR", conflicts_with = "cert")]
    certs: Option<PathBuf>,
    /// Whom the balancer's certificate must name.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    server_name: String,
    /// TLS 1.2 instead of 1.3.
    #[arg(long)]
    tls12: bool,
    /// The post-quantum key exchange X25519MLKEM768 instead of X25519.
    #[arg(long, conflicts_with = "tls12")]
    post_quantum: bool,
    /// Resume sessions where the balancer lets us.
    #[arg(long)]
    resume: bool,
    /// Do not verify the balancer's certificate, so that load costs less than what it
    /// loads.
    #[arg(long)]
    trusting: bool,
}

/// Anything that keeps load from starting.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Of the system.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A certificate or key cannot be read.
    #[error("{path}: {source}")]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// rustls does not take them.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Nor the authorities.
    #[error("TLS: {0}")]
    Authorities(#[from] rustls::client::VerifierBuilderError),
    /// No connection could be opened.
    #[error("{0} of {1} connections could not be opened: {2}")]
    Open(usize, usize, String),
    /// All that was tried failed.
    #[error("nothing succeeded")]
    Nothing,
    /// The arguments contradict each other.
    #[error("{0}")]
    Usage(&'static str),
}

/// Runs the load and prints what came of it.
///
/// # Errors
/// If it cannot start, or nothing succeeded. Errors of single connections are part
/// of the result.
pub fn run(args: &LoadArgs) -> Result<(), LoadError> {
    machine::raise_open_files();
    if let Some(cpu) = args.cpu {
        machine::pin(&[cpu])?;
    }
    if args.plain_echo && args.mode.is_stream() {
        return Err(LoadError::Usage("--plain-echo does not go with streams"));
    }
    if args.connections == 0 || args.size == 0 {
        return Err(LoadError::Usage(
            "--connections and --size must be at least 1",
        ));
    }
    if args.mode == Mode::Background || args.give_way {
        machine::give_way()?;
    }
    let seconds = |n: f64| {
        Duration::try_from_secs_f64(n)
            .map_err(|_| LoadError::Usage("a time must be a number of seconds"))
    };
    let (duration, warm_up) = (seconds(args.duration)?, seconds(args.warm_up)?);
    let target = Target {
        address: args.address,
        tls: args.tls.target()?,
        announce: !args.plain_echo,
        from: args.from,
    };
    let spec = Spec {
        mode: args.mode,
        connections: args.connections,
        busy: args.connections,
        size: args.size,
        rate: args.rate,
        pause: None,
        count: args.count,
    };
    machine::block_on(async {
        tokio::select! {
            result = drive(target, spec, warm_up, duration, args.json) => result,
            () = machine::told_to_stop() => Err(LoadError::Usage("interrupted")),
        }
    })
}

async fn drive(
    target: Target,
    spec: Spec,
    warm_up: Duration,
    duration: Duration,
    json: bool,
) -> Result<(), LoadError> {
    let mut progress = Progress::default();
    let mode = spec.mode;
    progress.show("opening connections");
    let session = Session::start(target, spec).await?;
    progress.show("warming up");
    sleep(warm_up).await;
    session.begin();
    let end = Instant::now() + duration;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || session.is_done() {
            break;
        }
        tokio::select! {
            () = sleep(left.min(Duration::from_millis(200))) => {}
            () = session.done() => {}
        }
        progress.show(&session.peek(end));
    }
    let tally = session.finish().await;
    progress.clear();
    if json {
        let text = serde_json::to_string_pretty(&tally.summary(mode)).map_err(io::Error::from)?;
        println!("{text}");
    } else {
        print!("{}", tally.summary(mode));
    }
    if !tally.errors.is_empty() && tally.operations == 0 && tally.bytes == 0 {
        return Err(LoadError::Nothing);
    }
    Ok(())
}

impl TlsArgs {
    fn target(&self) -> Result<Option<Tls>, LoadError> {
        let Some(ca) = self.ca.as_ref().filter(|_| self.tls) else {
            return Ok(None);
        };
        let identities = match (&self.cert, &self.key, &self.certs) {
            (Some(cert), Some(key), _) => vec![Identity::read(cert, key)?],
            (_, _, Some(directory)) => Identity::read_all(directory)?,
            _ => Vec::new(),
        };
        let options = TlsOptions {
            authorities: certificates(ca)?,
            identities,
            server_name: self.server_name.clone(),
            tls12: self.tls12,
            post_quantum: self.post_quantum,
            resume: self.resume,
            trusting: self.trusting,
            clients: 1,
        };
        options.build().map(Some)
    }
}

/// Reads all certificates of a file.
///
/// # Errors
/// If it cannot be read.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| LoadError::Pem {
            path: path.to_owned(),
            source,
        })
}

impl Identity {
    /// Reads one.
    ///
    /// # Errors
    /// If there is nothing of the kind in the files.
    pub fn read(cert: &Path, key: &Path) -> Result<Self, LoadError> {
        Ok(Self {
            chain: certificates(cert)?,
            key: PrivateKeyDer::from_pem_file(key).map_err(|source| LoadError::Pem {
                path: key.to_owned(),
                source,
            })?,
        })
    }

    fn read_all(directory: &Path) -> Result<Vec<Self>, LoadError> {
        let mut certs: Vec<PathBuf> = fs::read_dir(directory)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        certs.retain(|path| {
            path.extension().is_some_and(|ext| ext == "crt") && path.with_extension("key").exists()
        });
        certs.sort();
        if certs.is_empty() {
            return Err(LoadError::Usage("no NAME.crt with its NAME.key in --certs"));
        }
        certs
            .iter()
            .map(|cert| Self::read(cert, &cert.with_extension("key")))
            .collect()
    }
}
