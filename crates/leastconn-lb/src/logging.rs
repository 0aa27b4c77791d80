//! Messages to standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::{filter::LevelFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Format, Level, Log};

/// Sends the messages of the whole process to standard error from here on,
/// those of panics among them. Called again, it changes nothing.
pub fn start(log: &Log) {
    let level = match log.level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let registry = tracing_subscriber::registry().with(level);
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a fault in the balancer: please report it");
    }));
    // Fails only if it was done before, by a test or an embedding program.
    let _ = match log.format {
        Format::Json => registry
            .with(fmt::layer().json().with_writer(io::stderr))
            .try_init(),
        Format::Text => {
            let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = fmt::layer()
                .with_target(false)
                .with_ansi(coloured)
                .with_writer(io::stderr);
            registry.with(layer).try_init()
        }
    };
}
