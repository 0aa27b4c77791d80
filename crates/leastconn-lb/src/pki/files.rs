//! Writing certificates and keys so that a reader never sees half a file, and a
//! key is never readable by others, not even for a moment.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{PkiError, random_serial};

/// What to do about a file that is there already.
#[derive(Debug, Clone, Copy)]
pub enum Overwrite {
    /// Replace it in one step.
    Allow,
    /// Fail with [`PkiError::Exists`] and this advice.
    Refuse {
        /// What to do instead.
        hint: &'static str,
    },
}

/// Writes a private key, mode 0600.
///
/// # Errors
/// [`PkiError::Write`], [`PkiError::Exists`].
pub fn write_private(path: &Path, text: &str, overwrite: Overwrite) -> Result<(), PkiError> {
    write(path, text, 0o600, overwrite)
}

/// Writes what anyone may read.
///
/// # Errors
/// [`PkiError::Write`], [`PkiError::Exists`].
pub fn write_public(path: &Path, text: &str, overwrite: Overwrite) -> Result<(), PkiError> {
    write(path, text, 0o644, overwrite)
}

/// Fails if there is anything at `path`.
///
/// # Errors
/// [`PkiError::Exists`] with this advice; [`PkiError::Read`] when it cannot be told.
pub fn refuse_existing(path: &Path, hint: &'static str) -> Result<(), PkiError> {
    // Not `exists()`: a dangling symbolic link is there too.
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
        // A rename replaces; a link does not, whoever else is writing.
        Overwrite::Refuse { .. } => match std::fs::hard_link(&temporary, path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                // Some file systems have no hard links: the check above must do.
                std::fs::rename(&temporary, path)
            }
            other => other,
        },
    });
    // After a rename there is nothing left to remove.
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
    // Else a power cut after the rename can leave an empty file under the real name.
    file.sync_all()
}

/// Beside, not in /tmp: a rename works within one file system only.
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
