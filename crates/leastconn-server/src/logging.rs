//! Messages to standard error.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{
    Layer, Registry,
    filter::LevelFilter,
    fmt,
    layer::{Layered, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

use crate::config::{Format, Level, Log};

type Filter = reload::Layer<LevelFilter, Registry>;
type Filtered = Layered<Filter, Registry>;
type Form = Box<dyn Layer<Filtered> + Send + Sync>;

/// What can be changed later.
struct Handles {
    level: reload::Handle<LevelFilter, Registry>,
    form: reload::Handle<Form, Filtered>,
}

static HANDLES: OnceLock<Handles> = OnceLock::new();

/// Sends the messages of the whole process to standard error from here on,
/// those of panics among them. Called again, it changes nothing.
pub fn start(log: &Log) {
    let (filter, level) = reload::Layer::new(filter(log.level));
    let (layer, form) = reload::Layer::new(form(log.format));
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a fault in the balancer: please report it");
    }));
    let registry = tracing_subscriber::registry().with(filter).with(layer);
    // Fails only if it was done before, by a test or an embedding program.
    if registry.try_init().is_ok() {
        let _ = HANDLES.set(Handles { level, form });
    }
}

/// Writes messages as `log` says from here on, if [`start`] was what set them up.
pub fn change(log: &Log) {
    let Some(handles) = HANDLES.get() else {
        return;
    };
    // Both fail only without the subscriber, which is the process's.
    let _ = handles.level.reload(filter(log.level));
    let _ = handles.form.reload(form(log.format));
}

const fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

fn form(format: Format) -> Form {
    match format {
        Format::Json => fmt::layer().json().with_writer(io::stderr).boxed(),
        Format::Text => {
            let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            fmt::layer()
                .with_target(false)
                .with_ansi(coloured)
                .with_writer(io::stderr)
                .boxed()
        }
    }
}
