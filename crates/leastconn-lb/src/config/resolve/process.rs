//! `[process]`, `[log]` and `[admin]`.

use std::{num::NonZeroUsize, ops::Range, path::Path, thread};

use super::{Resolver, Zero};
use crate::config::{
    defaults,
    model::{Access, Format, Level, Log, Process},
    raw::{
        RawLog, RawProcess,
        value::{At, Workers},
    },
};

impl Resolver<'_> {
    pub(super) fn process(&mut self, raw: &RawProcess) -> Process {
        let count = |value: &Option<At<u32>>| {
            value
                .as_ref()
                .and_then(|at| usize::try_from(at.value).ok())
                .and_then(NonZeroUsize::new)
        };
        let workers = match raw.workers.as_ref().map(|at| &at.value) {
            Some(Workers::Count(workers)) => {
                usize::try_from(*workers).ok().and_then(NonZeroUsize::new)
            }
            Some(Workers::Auto) | None => thread::available_parallelism().ok(),
        };
        Process {
            workers: workers.unwrap_or(NonZeroUsize::MIN),
            auto_workers: !matches!(
                raw.workers.as_ref().map(|at| &at.value),
                Some(Workers::Count(_))
            ),
            max_connections: count(&raw.max_connections),
            max_handshakes: count(&raw.max_handshakes)
                .or_else(|| NonZeroUsize::new(defaults::MAX_HANDSHAKES as usize))
                .unwrap_or(NonZeroUsize::MIN),
            drain_timeout: self.duration(
                "drain_timeout",
                raw.drain_timeout.as_ref(),
                defaults::DRAIN_TIMEOUT,
                Zero::Allowed,
            ),
            watch: raw
                .watch
                .as_ref()
                .map_or_else(Default::default, |at| at.value),
            tls_records: raw
                .tls_records
                .as_ref()
                .map_or_else(Default::default, |at| at.value),
        }
    }

    pub(super) fn log(&mut self, raw: &RawLog) -> Log {
        Log {
            level: raw.level.as_ref().map_or(Level::Info, |at| at.value),
            format: raw.format.as_ref().map_or(Format::Text, |at| at.value),
            access: match &raw.access {
                None => Access::Stdout,
                Some(At { value, span }) => match &**value {
                    "stdout" => Access::Stdout,
                    "off" => Access::Off,
                    "" => {
                        self.problems
                            .error("`access` is empty")
                            .at(span.clone())
                            .help("write \"stdout\", \"off\" or the name of a file");
                        Access::Off
                    }
                    file => self.access_file(file, span),
                },
            },
        }
    }

    fn access_file(&mut self, file: &str, span: &Range<usize>) -> Access {
        let path = self.path(file);
        // An empty parent is the working directory, and there is one.
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let trouble = if path.is_dir() {
            Some("it is a directory".to_owned())
        } else {
            parent
                .filter(|parent| !parent.is_dir())
                .map(|parent| format!("there is no directory {}", parent.display()))
        };
        if let Some(trouble) = trouble {
            self.problems
                .error(format!("{file:?} cannot be the access log: {trouble}"))
                .at(span.clone());
        }
        Access::File(path)
    }
}
