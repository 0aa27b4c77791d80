//! The state of the sandbox that `leastconn-lb` applies, and hints for errors that the sandbox
//! causes. The kernel's error does not say that the sandbox denied access.

use std::{
    fmt,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{
    fs::{Access, access},
    process::{getegid, geteuid},
};

use crate::files;

/// Environment variable that an upgrade sets for the successor. It contains the process ID
/// of the predecessor.
pub const UPGRADE: &str = "LEASTCONN_UPGRADE";

static CONFINEMENT: OnceLock<Confinement> = OnceLock::new();

/// Confinement of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// There is no sandbox, because it is disabled or has not been applied yet.
    Off,
    /// There is no sandbox, for the reason in the field.
    Unavailable(String),
    /// Confined by Landlock.
    Confined {
        /// The kernel's Landlock ABI version.
        abi: i32,
        /// Restrictions that the kernel does not support.
        missing: Vec<&'static str>,
    },
    /// Confined only by the inherited sandboxes of its predecessors, because the kernel
    /// allows no further layer.
    Inherited,
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Unavailable(why) => write!(f, "not confined: {why}"),
            Self::Confined { abi, missing } => {
                write!(f, "confined by Landlock (version {abi})")?;
                if !missing.is_empty() {
                    let missing = missing.join(", or ");
                    write!(f, ", without a restriction on {missing}")?;
                }
                Ok(())
            }
            Self::Inherited => f.write_str(
                "confined by the sandboxes of its predecessors: after 16 upgrades in a row the kernel allows no further sandbox layer until a restart",
            ),
        }
    }
}

pub fn current() -> &'static Confinement {
    CONFINEMENT.get().unwrap_or(&Confinement::Off)
}

/// Sets the confinement of this process. Only the first call has an effect.
pub fn set(how: Confinement) {
    let _ = CONFINEMENT.set(how);
}

/// Logs the confinement, unless it is off.
pub fn announce() {
    match current() {
        Confinement::Off => {}
        how @ Confinement::Confined { missing, .. } if missing.is_empty() => {
            tracing::info!("{how}");
        }
        how => tracing::warn!("{how}"),
    }
}

/// Hint for an `error` while reading the file at `path`, if the sandbox, or the file's owner and
/// mode, caused it.
pub(crate) fn hint_for_reading(path: &Path, error: &io::Error) -> Option<String> {
    hint(path, error, "reading in", Access::READ_OK).or_else(|| {
        let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
        is_denied.then(|| owner_and_mode(path))
    })
}

/// Describes the owner and mode of a file that cannot be read, and how to make the file readable.
fn owner_and_mode(path: &Path) -> String {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let process = format!("this process runs as user {user}, group {group}");
    match files::record(path, || path.metadata()) {
        Ok(meta) => {
            let mode = meta.mode() & 0o7777;
            let (owner, of_group) = (meta.uid(), meta.gid());
            let path = path.display();
            format!(
                "{process}; the file belongs to user {owner}, group {of_group}, and has mode {mode:04o}: `chgrp {group} {path} && chmod g+r {path}` makes it readable"
            )
        }
        // Without metadata, the cause is a parent directory that is not accessible.
        Err(_) => format!(
            "{process}, which has no access to a parent directory: `namei -l {}` shows the directory",
            path.display()
        ),
    }
}

/// Returns a hint if the sandbox, or the owner and mode of the file or its directory, caused the
/// `error` when the log at `path` was opened.
pub fn hint_for_appending(path: &Path, error: &io::Error) -> Option<String> {
    hint(path, error, "writing in", Access::WRITE_OK).or_else(|| {
        let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        is_denied.then(|| {
            format!(
                "this process runs as user {user}, group {group}, which may not write there: `ls -ld \
                 {} {}` shows the owners",
                parent(path).display(),
                path.display()
            )
        })
    })
}

/// Returns a hint if the sandbox caused the `error` when the socket at `path` was created or
/// removed.
pub fn hint_for_socket(path: &Path, error: &io::Error) -> Option<String> {
    hint(path, error, "making sockets in", Access::WRITE_OK)
}

/// Returns a hint if the sandbox caused the `error` when the program at `path` was executed.
pub fn hint_for_executing(path: &Path, error: &io::Error) -> Option<String> {
    let hint = |path: &Path| hint(path, error, "executing anything in", Access::EXEC_OK);
    let Some(interpreter) = interpreter(path) else {
        return hint(path);
    };
    // The sandbox may allow the script but not its interpreter.
    let why = hint(&interpreter)?;
    let interpreter = interpreter.display();
    Some(format!("it is a script for {interpreter}, and {why}"))
}

/// Interpreter of the script at `path`. `None` if the file is not a script.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut start = [0; 128];
    let read = files::open_regular(path).and_then(|(mut file, _)| file.read(&mut start));
    let line = start[..read.ok()?].strip_prefix(b"#!")?;
    let line = std::str::from_utf8(line).ok()?;
    line.split_whitespace().next().map(PathBuf::from)
}

fn hint(path: &Path, error: &io::Error, doing: &str, needed: Access) -> Option<String> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    let confined = matches!(
        current(),
        Confinement::Confined { .. } | Confinement::Inherited
    );
    // A successor is confined by its predecessor's sandbox even before it applies its own.
    if !confined && std::env::var_os(UPGRADE).is_none() {
        return None;
    }
    // `access` checks only owner and mode, not Landlock. If it succeeds, the sandbox is the
    // cause.
    files::record(path, || {
        let there = if path.exists() { path } else { parent(path) };
        access(there, needed)
    })
    .ok()?;
    Some(format!(
        "the sandbox does not allow {doing} {}: it allows only the directories that the \
         configuration named when the process started. Restart to allow the directories that it \
         names now (an upgrade is not enough), or set `sandbox = \"off\"` in `[process]` and \
         restart",
        directory(path).display()
    ))
}

/// Directory of a path, with symbolic links resolved if possible.
fn directory(path: &Path) -> PathBuf {
    let resolved = files::record(path, || path.canonicalize()).ok();
    let directory = resolved.as_deref().and_then(Path::parent);
    match directory {
        Some(directory) => directory.to_owned(),
        None => std::path::absolute(parent(path)).unwrap_or_else(|_| parent(path).to_owned()),
    }
}

/// Parent directory of a path; `.` for a file name without a directory.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}
