//! `load`: generates connections, echoes and streams through any TCP balancer, using one
//! thread. `compare` uses the same modules.

pub mod client;
pub mod progress;
pub mod schedule;
pub mod session;
pub mod shared;
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
pub use session::Session;
pub use shared::Spec;
pub use tally::{Latency, Tally};

use crate::machine;

/// What the connections do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Repeatedly connect, echo once and close.
    Connect,
    /// Like `connect`, but with Nagle's algorithm on. Latency is measured from the end of the
    /// handshake to the echo.
    FirstEcho,
    /// Echo on open connections.
    Echo,
    /// Download streams from the servers.
    Download,
    /// Like `download`, but with the client and the servers at the lowest scheduling priority.
    Background,
    /// Upload streams to the servers.
    Upload,
    /// Open connections without traffic.
    Idle,
    /// Repeat handshakes that the balancer must refuse.
    Refused,
    /// Handshakes from 250 addresses of 127.9.0.0/16 that stall after the ClientHello.
    Stall,
}

impl Mode {
    /// Whether bytes are counted instead of operations.
    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Download | Self::Background | Self::Upload)
    }
}

/// Arguments of `load`.
#[derive(Args, Debug)]
pub struct LoadArgs {
    /// Address of the balancer; its servers must be `leastconn-bench servers`.
    #[arg(long, value_name = "IP:PORT")]
    address: SocketAddr,
    /// What the connections do.
    #[arg(long, value_enum, default_value_t = Mode::Connect)]
    mode: Mode,
    /// Number of concurrent connections.
    #[arg(long, value_name = "N", default_value_t = 16)]
    connections: usize,
    /// Start this many operations (connections, echoes) per second regardless of how long they
    /// take, and measure latency from the time at which each was due. Default: start the next
    /// operation when the previous one is done.
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// Bytes per echo.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    size: usize,
    /// Duration of the measurement in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    duration: f64,
    /// Duration of the load before the measurement, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warm_up: f64,
    /// Stop after this many operations, or at the end of the duration.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// The servers are plain echo servers, not `leastconn-bench servers`. Only for modes
    /// connect, echo and idle.
    #[arg(long)]
    plain_echo: bool,
    /// Source address of the connections.
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// Run at the lowest scheduling priority.
    #[arg(long)]
    give_way: bool,
    /// Pin the thread to this CPU.
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
    /// CA certificates for verifying the balancer's certificate, PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Client certificate and chain, PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Key of the client certificate, PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Directory with client certificates (NAME.crt and NAME.key), which are used in turn.
    #[arg(long, value_name = "DIR", conflicts_with = "cert")]
    certs: Option<PathBuf>,
    /// Name that the balancer's certificate must contain.
    #[arg(long, value_name = "NAME", default_value = "localhost")]
    server_name: String,
    /// Use TLS 1.2 instead of 1.3.
    #[arg(long)]
    tls12: bool,
    /// Use the post-quantum key exchange X25519MLKEM768 instead of X25519.
    #[arg(long, conflicts_with = "tls12")]
    post_quantum: bool,
    /// Resume TLS sessions if the balancer supports it.
    #[arg(long)]
    resume: bool,
    /// Do not verify the balancer's certificate, to save CPU time in the load generator.
    #[arg(long)]
    trusting: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A certificate or key cannot be read.
    #[error("{path}: {source}")]
    Pem {
        path: PathBuf,
        source: rustls::pki_types::pem::Error,
    },
    /// rustls rejects certificates or settings.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// rustls rejects the CA certificates.
    #[error("TLS: {0}")]
    Authorities(#[from] rustls::client::VerifierBuilderError),
    /// No connection could be opened.
    #[error("{0} of {1} connections could not be opened: {2}")]
    Open(usize, usize, String),
    #[error("every operation failed")]
    Nothing,
    /// Invalid or contradictory arguments.
    #[error("{0}")]
    Usage(&'static str),
}

/// Runs the load and prints the result.
///
/// # Errors
/// If the load cannot start, or if every operation failed. Errors of individual connections are
/// part of the result.
pub fn run(args: &LoadArgs) -> Result<(), LoadError> {
    machine::raise_open_files();
    if let Some(cpu) = args.cpu {
        machine::pin(&[cpu])?;
    }
    if args.plain_echo && args.mode.is_stream() {
        return Err(LoadError::Usage(
            "--plain-echo cannot be combined with streams",
        ));
    }
    if args.connections == 0 || args.size == 0 {
        return Err(LoadError::Usage(
            "--connections and --size must be at least 1",
        ));
    }
    if args
        .rate
        .is_some_and(|rate| !rate.is_finite() || rate <= 0.0)
    {
        return Err(LoadError::Usage("--rate must be a number above 0"));
    }
    if args.mode == Mode::Background || args.give_way {
        machine::lower_priority()?;
    }
    let seconds = |n: f64| {
        Duration::try_from_secs_f64(n).map_err(|_| {
            LoadError::Usage("--duration and --warm-up must be non-negative numbers of seconds")
        })
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
            () = machine::shutdown_signal() => Err(LoadError::Usage("interrupted")),
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
    session.start_counting();
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
        progress.show(&session.progress(end));
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

/// Reads all certificates of a PEM file.
///
/// # Errors
/// If the file cannot be read or parsed.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| LoadError::Pem {
            path: path.to_owned(),
            source,
        })
}

impl Identity {
    /// Reads a certificate chain and its key.
    ///
    /// # Errors
    /// If a file cannot be read or parsed.
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
            return Err(LoadError::Usage(
                "--certs contains no pair NAME.crt and NAME.key",
            ));
        }
        certs
            .iter()
            .map(|cert| Self::read(cert, &cert.with_extension("key")))
            .collect()
    }
}
