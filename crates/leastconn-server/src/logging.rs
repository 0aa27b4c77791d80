//! The log of the process, written to standard error.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use leastconn_config::{Format, Level, Log};
use text_fields::TextFields;
use tracing_subscriber::{
    Layer, Registry,
    filter::LevelFilter,
    fmt,
    layer::{Layered, SubscriberExt},
    reload,
    util::SubscriberInitExt,
};

mod text_fields;

type Filter = reload::Layer<LevelFilter, Registry>;
type Filtered = Layered<Filter, Registry>;
type Formatter = Box<dyn Layer<Filtered> + Send + Sync>;

/// Handles to the settings that a reload can change.
struct Handles {
    level: reload::Handle<LevelFilter, Registry>,
    formatter: reload::Handle<Formatter, Filtered>,
}

static HANDLES: OnceLock<Handles> = OnceLock::new();

/// Writes all messages of the process, including panics, to standard error. Later calls have no
/// effect.
pub fn start(log: &Log) {
    let (filter, level) = reload::Layer::new(filter(log.level));
    let (layer, formatter) = reload::Layer::new(formatter(log.format));
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "internal error, please report it");
    }));
    let registry = tracing_subscriber::registry().with(filter).with(layer);
    // This fails only if a test or an embedding program has already installed a subscriber.
    if registry.try_init().is_ok() {
        let _ = HANDLES.set(Handles { level, formatter });
    }
}

/// Applies changed settings, if [`start`] has installed the subscriber.
pub fn change(log: &Log) {
    let Some(handles) = HANDLES.get() else {
        return;
    };
    // Both calls fail only if the subscriber is gone. The subscriber lives as long as the process.
    let _ = handles.level.reload(filter(log.level));
    let _ = handles.formatter.reload(formatter(log.format));
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

fn formatter(format: Format) -> Formatter {
    match format {
        Format::Json => fmt::layer().json().with_writer(io::stderr).boxed(),
        Format::Text => {
            let coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            fmt::layer()
                .fmt_fields(TextFields)
                .with_target(false)
                .with_ansi(coloured)
                .with_writer(io::stderr)
                .boxed()
        }
    }
}
