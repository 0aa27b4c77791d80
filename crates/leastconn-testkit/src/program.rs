//! Programs that are installed on this machine.

use std::path::PathBuf;

/// The path of program `name`, if it is installed.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let listed = std::env::var_os("PATH").unwrap_or_default();
    // Debian installs nginx in a directory that is not in a user's PATH.
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&listed)
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}
