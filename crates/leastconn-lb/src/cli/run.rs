//! `run`: the load balancer, until a signal ends it.

use std::{io, path::PathBuf, process::ExitCode};

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{DONE, FAILED, INVALID, fail};
use crate::{
    access_log::AccessLog,
    config::{self, Config, Loaded},
    descriptors, logging,
    server::Server,
};

/// Runs the configuration at `path`, or at one of the usual places.
pub fn run(path: Option<PathBuf>) -> ExitCode {
    let path = match config::find(path) {
        Ok(path) => path,
        Err(error) => return fail(&error, INVALID),
    };
    let mut loaded = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprint!("{}", problems.render(config::stderr_has_colours()));
            return fail(&format!("{}: not started", path.display()), INVALID);
        }
    };
    loaded.warn_of_unresolved_names();
    let Loaded {
        config, warnings, ..
    } = loaded;
    logging::start(&config.log);
    for warning in warnings.lines() {
        tracing::warn!("{warning}");
    }
    // They have the whole text of the file with them.
    drop(warnings);
    descriptors::raise_limit();
    let (log, _flusher) = match AccessLog::open(&config.log.access) {
        Ok(opened) => opened,
        Err(error) => return fail(&error, FAILED),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.process.workers.get())
        .thread_name("worker")
        .enable_all()
        .build();
    let result = runtime.and_then(|runtime| {
        let result = runtime.block_on(serve(config, log));
        // Whatever is still being resolved or relayed does not hold up the end.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error, FAILED),
    }
}

async fn serve(config: Config, log: AccessLog) -> io::Result<u8> {
    // Before anything is bound: no signal may hit its default action.
    let mut signals = Signals::install()?;
    let path = config.path.clone();
    let server = match Server::start(config, log.clone()) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return Ok(FAILED);
        }
    };
    announce(&server, &path);

    let signal = loop {
        match signals.next().await {
            Told::Stop(name) => break name,
            Told::ReopenLogs => reopen(&log),
            Told::Reload => {
                tracing::info!("SIGHUP: reading the configuration anew");
                server.reloader().request();
            }
            Told::Upgrade => tracing::warn!("SIGUSR2: upgrading is not supported yet"),
        }
    };
    let drain_timeout = server.shared().state().config.process.drain_timeout;
    let open = server.shared().registry.open();
    tracing::info!(signal, open, timeout = ?drain_timeout, "draining: no new connections; a second signal ends at once");
    let hurry = async {
        loop {
            match signals.next().await {
                Told::Stop(_) => return,
                Told::ReopenLogs => reopen(&log),
                Told::Reload | Told::Upgrade => tracing::warn!("ignored while draining"),
            }
        }
    };
    let drained = server.drain(drain_timeout, hurry).await;
    if drained.forced > 0 {
        tracing::warn!(forced = drained.forced, "stopped; connections were cut off");
        return Ok(FAILED);
    }
    tracing::info!("stopped; all connections had ended");
    Ok(DONE)
}

fn reopen(log: &AccessLog) {
    log.reopen();
    tracing::info!("SIGUSR1: opening log files anew");
}

/// Says, once and briefly, what is running and where.
fn announce(server: &Server, path: &std::path::Path) {
    let shared = server.shared();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %path.display(), "starting");
    for upstream in &shared.state().config.upstreams {
        let servers: Vec<_> = upstream
            .servers
            .iter()
            .map(|s| s.address.to_string())
            .collect();
        tracing::info!(upstream = %upstream.id, servers = servers.join(" "), "upstream");
    }
    for (name, address) in server.addresses() {
        tracing::info!(listener = &**name, %address, "listening");
    }
    for address in server.admin_places() {
        tracing::info!(listener = "admin", %address, "listening");
    }
    if let Some(address) = server.admin_address()
        && !address.ip().is_loopback()
    {
        tracing::warn!(%address, "the admin address is not a loopback address: whoever reaches it sees metrics");
    }
    tracing::info!("ready");
}

/// What a signal asks for.
enum Told {
    Stop(&'static str),
    Reload,
    ReopenLogs,
    Upgrade,
}

struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.term.recv() => Told::Stop("SIGTERM"),
            _ = self.int.recv() => Told::Stop("SIGINT"),
            _ = self.hup.recv() => Told::Reload,
            _ = self.usr1.recv() => Told::ReopenLogs,
            _ = self.usr2.recv() => Told::Upgrade,
        }
    }
}
