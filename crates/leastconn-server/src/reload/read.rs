//! Reading the configuration file.

use leastconn_config::{Config, Loaded, Problems};

use super::outcome::Rejected;
use crate::telemetry::access_log::{self, AccessLog};

/// A configuration that was read and checked.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) config: Config,
    /// The access log, if its destination has changed.
    pub(super) next_log: Option<access_log::Prepared>,
}

impl From<Config> for Read {
    /// A configuration that differs from the running one only in the contents of its files.
    fn from(config: Config) -> Self {
        Self {
            config,
            next_log: None,
        }
    }
}

/// Reads the configuration, and opens the access log if its destination has changed.
pub(super) fn read(running: &Config, log: &AccessLog) -> Result<Read, Rejected> {
    let Loaded {
        config, warnings, ..
    } = leastconn_config::load_again(running).map_err(Rejected::Problems)?;
    log_warnings(&warnings);
    let moved = config.log.access != running.log.access;
    let next_log = moved.then(|| log.prepare(&config.log.access)).transpose()?;
    Ok(Read { config, next_log })
}

pub(super) fn log_warnings(warnings: &Problems) {
    for warning in warnings.bare_lines() {
        tracing::warn!("{warning}");
    }
}
