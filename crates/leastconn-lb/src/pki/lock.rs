//! One command at a time in a CA's directory.
//!
//! Revoking reads the list, adds to it and writes it: of two at once, the later would
//! write a list without what the earlier added, and both would say that all is well.
//!
//! The lock is on the directory itself. So there is no lock file to be left behind,
//! `init` can take it before there is a CA, and the system takes it back from a process
//! that was killed.

use std::fs::File;
use std::io;
use std::path::Path;

use super::{CA_CERT, PkiError};

/// The only one at work in a CA's directory, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Waits until no other command is at work in `dir`.
    ///
    /// # Errors
    /// [`PkiError::NoAuthority`] if there is no such directory, [`PkiError::Lock`].
    pub fn take(dir: &Path) -> Result<Self, PkiError> {
        let locked = File::open(dir).and_then(|directory| {
            directory.lock()?;
            Ok(directory)
        });
        match locked {
            Ok(_directory) => Ok(Self { _directory }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(PkiError::NoAuthority {
                dir: dir.to_owned(),
                missing: CA_CERT,
            }),
            Err(source) => Err(PkiError::Lock {
                path: dir.to_owned(),
                source,
            }),
        }
    }

    /// The same, and makes the directory if need be.
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
