//! Files with one secret: the admin token, and the secrets and passwords of a fleet.

use std::{ops::Range, os::unix::fs::PermissionsExt, path::Path};

use super::Resolver;
use crate::files;

const MAX_SIZE: u64 = 4096;

/// Minimum length of a token or secret in bytes. A random text of this length cannot be
/// guessed.
const MIN_WORD: usize = 16;

/// The contents of a secret file, with white space removed at both ends.
pub(super) struct SecretFile {
    bytes: Vec<u8>,
    /// A warning if other users can read the file.
    warning: Option<String>,
}

impl Resolver<'_> {
    /// Reads the secret in the file at `path` with `read`. Returns `None`, after reporting the
    /// problem with this `help`, if it is invalid. `what` is its kind, for messages.
    pub(super) fn read_secret(
        &mut self,
        what: &str,
        path: &Path,
        span: &Range<usize>,
        read: fn(&Path) -> Result<SecretFile, String>,
        help: String,
    ) -> Option<Vec<u8>> {
        match read(path) {
            Ok(SecretFile { bytes, warning }) => {
                if let Some(warning) = warning {
                    self.problems.warning(warning).at(span.clone());
                }
                Some(bytes)
            }
            Err(trouble) => {
                self.problems
                    .error(format!("no {what} in {}: {trouble}", path.display()))
                    .at(span.clone())
                    .help(help);
                None
            }
        }
    }
}

/// Reads a random word of at least 16 characters of printable ASCII.
///
/// # Errors
/// If the file cannot be read or contains something else.
pub(super) fn read_word(path: &Path) -> Result<SecretFile, String> {
    let file = read(path)?;
    if !file.bytes.iter().all(u8::is_ascii_graphic) {
        return Err("it must contain one word of printable ASCII".to_owned());
    }
    if file.bytes.len() < MIN_WORD {
        return Err(format!(
            "it is shorter than {MIN_WORD} characters and could be guessed"
        ));
    }
    Ok(file)
}

/// Reads a password: one line of text, of any length.
///
/// # Errors
/// If the file cannot be read or contains something else.
pub(super) fn read_password(path: &Path) -> Result<SecretFile, String> {
    let file = read(path)?;
    let is_line = str::from_utf8(&file.bytes).is_ok_and(|text| !text.contains(char::is_control));
    if !is_line {
        return Err("it must contain one line of text".to_owned());
    }
    Ok(file)
}

fn read(path: &Path) -> Result<SecretFile, String> {
    let contents = files::read(path, MAX_SIZE).map_err(|error| error.to_string())?;
    let files::Contents { bytes, metadata } = contents;
    let secret = bytes.trim_ascii();
    if secret.is_empty() {
        return Err("the file is empty".to_owned());
    }
    // A world-readable secret is not an error, because Kubernetes mounts files with this mode in
    // containers that have no other users.
    let open = metadata.permissions().mode() & 0o004 != 0;
    let warning = open.then(|| {
        format!(
            "{} can be read by every user of this machine; `chmod 600` it",
            path.display()
        )
    });
    Ok(SecretFile {
        bytes: secret.to_vec(),
        warning,
    })
}
