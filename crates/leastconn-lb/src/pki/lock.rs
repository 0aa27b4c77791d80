//! Lock on the directory of a CA: one command at a time.
//!
//! `pki revoke` reads the CRL, adds an entry and writes it. Without the lock, the second of
//! two concurrent commands could discard the entry of the first, and both would report
//! success.
//!
//! The directory itself is locked. There is no lock file to clean up, `pki init` can lock
//! the directory before the CA exists, and the kernel releases the lock of a killed process.

use std::fs::File;
use std::io;
use std::path::Path;

use super::PkiError;

/// Exclusive access to the directory of a CA; released on drop.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Waits for other commands that use `dir`.
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`] if the directory does not exist, [`PkiError::NotDirectory`],
    /// [`PkiError::Lock`].
    pub fn take(dir: &Path) -> Result<Self, PkiError> {
        if dir.exists() && !dir.is_dir() {
            return Err(PkiError::NotDirectory {
                path: dir.to_owned(),
            });
        }
        let locked = File::open(dir).and_then(|directory| {
            directory.lock()?;
            Ok(directory)
        });
        match locked {
            Ok(_directory) => Ok(Self { _directory }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(PkiError::NoAuthority {
                dir: dir.to_owned(),
            }),
            Err(source) => Err(PkiError::Lock {
                path: dir.to_owned(),
                source,
            }),
        }
    }

    /// Like [`Self::take`], but creates the directory if necessary.
    ///
    /// # Errors
    /// [`PkiError::Write`], [`PkiError::Lock`].
    pub fn take_new(dir: &Path) -> Result<Self, PkiError> {
        std::fs::create_dir_all(dir).map_err(|source| PkiError::Write {
            path: dir.to_owned(),
            source,
        })?;
        Self::take(dir)
    }
}
