//! How far this process is confined (the sandbox of `leastconn-lb` does it), and what to say of an
//! error that comes from that: the system says only that it is not permitted.

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

/// The ID of the process that started this one in its place, in the environment of a
/// process that was started by an upgrade.
pub const UPGRADE: &str = "LEASTCONN_UPGRADE";

/// What confines this process.
static CONFINEMENT: OnceLock<Confinement> = OnceLock::new();

/// How far a process is confined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confinement {
    /// Not at all: the configuration says so, or nobody has asked for it.
    Off,
    /// Not at all, for this reason.
    Unavailable(String),
    /// As far as the kernel can.
    Confined {
        /// The version of the kernel's interface.
        abi: i32,
        /// What it cannot keep the process from.
        missing: Vec<&'static str>,
    },
    /// By the walls of the processes that it was upgraded from, of which there cannot
    /// be any more.
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
                    write!(f, ", which does not keep it from {missing} yet")?;
                }
                Ok(())
            }
            Self::Inherited => f.write_str(
                "confined as the processes before it were: after so many upgrades in a row there is room for no more; a restart makes it",
            ),
        }
    }
}

/// How far this process is confined.
pub fn current() -> &'static Confinement {
    CONFINEMENT.get().unwrap_or(&Confinement::Off)
}

/// Only the first call counts.
pub fn set(how: Confinement) {
    let _ = CONFINEMENT.set(how);
}

/// Says how far this process is confined, if it was to be.
pub fn announce() {
    match current() {
        Confinement::Off => {}
        how @ Confinement::Confined { missing, .. } if missing.is_empty() => {
            tracing::info!("{how}");
        }
        how => tracing::warn!("{how}"),
    }
}

/// What to say of an `error` at reading the file at `path`: whether it comes from here, or
/// from the file's owner and mode.
pub(crate) fn hint_for_reading(path: &Path, error: &io::Error) -> Option<String> {
    hint(path, error, "reading in", Access::READ_OK).or_else(|| {
        let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
        is_denied.then(|| owner_and_mode(path))
    })
}

/// Who may read a file, and what to do if this process may not.
fn owner_and_mode(path: &Path) -> String {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let process = format!("this process runs as user {user}, group {group}");
    match path.metadata() {
        Ok(meta) => {
            let mode = meta.mode() & 0o7777;
            let (owner, of_group) = (meta.uid(), meta.gid());
            let path = path.display();
            format!(
                "{process}; the file belongs to user {owner}, group {of_group}, and has mode {mode:04o}: `chgrp {group} {path} && chmod g+r {path}` lets it be read"
            )
        }
        // The file itself is not reached.
        Err(_) => format!(
            "{process}, which may not enter a directory on the way: `namei -l {}` shows which",
            path.display()
        ),
    }
}

/// What to say of an `error` at opening the file at `path` to append to it, if it comes
/// from here.
pub fn hint_for_appending(path: &Path, error: &io::Error) -> Option<String> {
    hint(path, error, "writing in", Access::WRITE_OK)
}

/// What to say of an `error` at making a socket at `path`, or at removing one there, if it
/// comes from here.
pub fn hint_for_socket(path: &Path, error: &io::Error) -> Option<String> {
    hint(path, error, "making sockets in", Access::WRITE_OK)
}

/// What to say of an `error` at starting the program at `path`, if it comes from here.
pub fn hint_for_executing(path: &Path, error: &io::Error) -> Option<String> {
    let hint = |path: &Path| hint(path, error, "executing anything in", Access::EXEC_OK);
    let Some(interpreter) = interpreter(path) else {
        return hint(path);
    };
    // Where the script is may well be allowed: there the program was before.
    let why = hint(&interpreter)?;
    let interpreter = interpreter.display();
    Some(format!("it is a script for {interpreter}, and {why}"))
}

/// What the script at `path` is for, if it is one.
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
    // Before it has walls of its own, it may have inherited some.
    if !confined && std::env::var_os(UPGRADE).is_none() {
        return None;
    }
    // Asked so, the system answers by owner and mode alone: Landlock is not looked at.
    let there = if path.exists() { path } else { parent(path) };
    access(there, needed).ok()?;
    Some(format!(
        "the sandbox does not allow {doing} {}: it allows the directories that the configuration \
         named at the start, as they were then. Restart to allow what it names now (an \
         upgrade does not), or set `sandbox = \"off\"` in `[process]` and restart",
        directory(path).display()
    ))
}

/// Where a path leads, as far as that can be said.
fn directory(path: &Path) -> PathBuf {
    let resolved = path.canonicalize().ok();
    let directory = resolved.as_deref().and_then(Path::parent);
    match directory {
        Some(directory) => directory.to_owned(),
        None => std::path::absolute(parent(path)).unwrap_or_else(|_| parent(path).to_owned()),
    }
}

/// The directory that a name is in; of a bare name, the working directory.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}
