//! Writes certificates and keys atomically; keys are never readable by other users.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{PkiError, random_serial};

/// What to do if the file exists.
#[derive(Debug, Clone, Copy)]
pub enum Overwrite {
    /// Replace it atomically.
    Allow,
    /// Fail with [`PkiError::Exists`] and this hint.
    Refuse { hint: &'static str },
}

/// Writes a file with mode 0600.
///
/// # Errors
/// [`PkiError::Write`], [`PkiError::Exists`].
pub fn write_private(path: &Path, text: &str, overwrite: Overwrite) -> Result<(), PkiError> {
    write(path, text, 0o600, overwrite)
}

/// Writes a file with mode 0644.
///
/// # Errors
/// [`PkiError::Write`], [`PkiError::Exists`].
pub fn write_public(path: &Path, text: &str, overwrite: Overwrite) -> Result<(), PkiError> {
    write(path, text, 0o644, overwrite)
}

/// Fails if `path` exists.
///
/// # Errors
/// [`PkiError::Exists`] with this hint; [`PkiError::Read`] if `path` cannot be examined.
pub fn refuse_existing(path: &Path, hint: &'static str) -> Result<(), PkiError> {
    // `exists()` would return false for a dangling symbolic link.
    match path.symlink_metadata() {
        Ok(_) => Err(PkiError::Exists {
            path: path.to_owned(),
            hint,
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(PkiError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn write(path: &Path, text: &str, mode: u32, overwrite: Overwrite) -> Result<(), PkiError> {
    if let Overwrite::Refuse { hint } = overwrite {
        refuse_existing(path, hint)?;
    }
    let temporary = temporary_beside(path)?;
    let result = write_new(&temporary, text, mode).and_then(|()| match overwrite {
        Overwrite::Allow => std::fs::rename(&temporary, path),
        // Unlike a rename, a hard link never replaces a file that another process wrote.
        Overwrite::Refuse { .. } => match std::fs::hard_link(&temporary, path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                // On a file system without hard links, only the check above protects existing
                // files.
                std::fs::rename(&temporary, path)
            }
            other => other,
        },
    });
    // After a rename, there is no temporary file, and removing it fails.
    let _ = std::fs::remove_file(&temporary);
    result.map_err(|source| match overwrite {
        Overwrite::Refuse { hint } if source.kind() == io::ErrorKind::AlreadyExists => {
            PkiError::Exists {
                path: path.to_owned(),
                hint,
            }
        }
        _ => PkiError::Write {
            path: path.to_owned(),
            source,
        },
    })
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    // Without this `sync_all`, a power failure after the rename can leave an empty file.
    file.sync_all()
}

/// Returns a temporary path in the same directory, because a rename works only within one
/// file system.
fn temporary_beside(path: &Path) -> Result<PathBuf, PkiError> {
    let random = random_serial()?;
    let tag: String = random
        .as_ref()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    Ok(path.with_file_name(format!(".leastconn-{tag}.tmp")))
}
