//! `[process]` and `[log]`.

use std::{
    fs::FileType, num::NonZeroUsize, ops::Range, os::unix::fs::FileTypeExt, path::Path, thread,
};

use leastconn::ZoneId;

use super::{Resolver, Zero};
use crate::{
    defaults, files,
    keyword::{Format, Level},
    model::{Access, Log, MemoryLimit, Process},
    raw::{
        RawLog, RawProcess,
        value::{At, Workers},
    },
    size,
};

/// Minimum memory limit in bytes. With a lower limit, no connection would be accepted.
const LEAST_MEMORY: u64 = 32 << 20;

/// The standard stream of this process that a path such as `/dev/stdout` refers to.
fn standard_stream(file: &str) -> Option<Access> {
    let own = format!("/proc/{}/fd/", std::process::id());
    let number = match file {
        "/dev/stdout" => "1",
        "/dev/stderr" => "2",
        file => ["/dev/fd/", "/proc/self/fd/", &own]
            .iter()
            .find_map(|directory| file.strip_prefix(directory))?,
    };
    match number {
        "1" => Some(Access::Stdout),
        "2" => Some(Access::Stderr),
        _ => None,
    }
}

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
            memory_limit: self.memory_limit(raw.memory_limit.as_ref()),
            zone: raw.zone.as_ref().and_then(|zone| self.zone(zone)),
            watch: raw
                .watch
                .as_ref()
                .map_or_else(Default::default, |at| at.value),
            tls_records: raw
                .tls_records
                .as_ref()
                .map_or_else(Default::default, |at| at.value.into()),
            sandbox: raw.sandbox.as_ref().map(|at| at.value),
        }
    }

    /// Resolves the name of a zone. An empty name, for example from an unset environment variable,
    /// means no zone.
    pub(super) fn zone(&mut self, raw: &At<String>) -> Option<ZoneId> {
        let is_valid = !raw.value.is_empty() && self.check_name("zone", &raw.value, &raw.span);
        is_valid.then(|| ZoneId::from(&*raw.value))
    }

    fn memory_limit(&mut self, raw: Option<&At<String>>) -> MemoryLimit {
        let Some(At { value, span }) = raw else {
            return MemoryLimit::Auto;
        };
        let trouble = match &**value {
            "auto" => return MemoryLimit::Auto,
            "off" => return MemoryLimit::Off,
            size => match size::parse(size) {
                Ok(bytes) if bytes >= LEAST_MEMORY => return MemoryLimit::Bytes(bytes),
                Ok(_) => "the minimum is 32MiB: the process itself needs about 20 MiB".to_owned(),
                Err(error) => error.to_string(),
            },
        };
        self.problems
            .error(format!("`memory_limit`: {trouble}"))
            .at(span.clone())
            .help("write \"auto\", \"off\" or a size like \"512MiB\"");
        MemoryLimit::Auto
    }

    pub(super) fn log(&mut self, raw: &RawLog) -> Log {
        Log {
            level: raw.level.as_ref().map_or(Level::Info, |at| at.value),
            format: raw.format.as_ref().map_or(Format::Text, |at| at.value),
            access: match &raw.access {
                None => Access::Stdout,
                Some(At { value, span }) => match &**value {
                    "stdout" => Access::Stdout,
                    "stderr" => Access::Stderr,
                    "off" => Access::Off,
                    "" => {
                        self.problems
                            .error("`access` is empty")
                            .at(span.clone())
                            .help("write \"stdout\", \"stderr\", \"off\" or a file name");
                        Access::Off
                    }
                    file => self.access_file(file, span),
                },
            },
            access_filter: raw
                .access_filter
                .as_ref()
                .map_or_else(Default::default, |at| at.value),
        }
    }

    fn access_file(&mut self, file: &str, span: &Range<usize>) -> Access {
        // Use the standard stream without opening its path: opening fails if the stream is a
        // socket or belongs to another user.
        if let Some(stream) = standard_stream(file) {
            return stream;
        }
        let path = self.path(file);
        let kind = files::record(&path, || std::fs::metadata(&path));
        let kind = kind.map(|data| data.file_type());
        // An empty parent is the working directory, which always exists.
        let parent = path.parent().filter(|parent| *parent != Path::new(""));
        let missing_parent = parent.filter(|parent| !files::record(parent, || parent.is_dir()));
        let is_stream =
            path.starts_with("/proc") && path.components().any(|part| part.as_os_str() == "fd");
        let trouble = if is_stream {
            Some(
                "it is a stream of another process; for standard output write \"stdout\""
                    .to_owned(),
            )
        } else if kind.as_ref().is_ok_and(FileType::is_dir) {
            Some("it is a directory".to_owned())
        } else if kind.is_ok_and(|kind| kind.is_socket()) {
            Some("it is a socket; for standard output write \"stdout\"".to_owned())
        } else {
            missing_parent.map(|parent| format!("there is no directory {}", parent.display()))
        };
        if let Some(trouble) = trouble {
            self.problems
                .error(format!("{file:?} cannot be the access log: {trouble}"))
                .at(span.clone());
        }
        Access::File(path)
    }
}
