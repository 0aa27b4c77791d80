//! Finds the binary for an upgrade.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use leastconn_config::files;
use rustix::fs::{Access, access};

/// The path with which this process was started. The file may have been replaced since then: by a
/// package manager, or by a symbolic link to a new version.
///
/// # Errors
/// If there is no such program.
pub(super) fn path() -> io::Result<PathBuf> {
    let name = env::args_os().next().unwrap_or_default();
    let named = by_name(&name, env::var_os("PATH").as_deref());
    // Fallback for an arbitrary name (`exec -a`): the path of the running file.
    let known = named.map_or_else(|| env::current_exe().map(undeleted), Ok)?;
    match is_program(&known) {
        Ok(()) => Ok(known),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("{}: {error}", known.display()),
        )),
    }
}

fn by_name(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        // If a file of this name exists but is not a program, report that instead of falling back.
        return Some(PathBuf::from(name)).filter(|file| file.exists());
    }
    let mut all = env::split_paths(path?).map(|directory| directory.join(name));
    all.find(|file| !name.is_empty() && is_program(file).is_ok())
}

fn is_program(file: &Path) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    access(file, Access::EXEC_OK)?;
    let mut start = Vec::new();
    // A file that is executable but not readable is accepted.
    let Ok((mut open, _)) = files::open_regular(file) else {
        return Ok(());
    };
    open.by_ref().take(4).read_to_end(&mut start)?;
    if start.starts_with(b"\x7fELF") || start.starts_with(b"#!") {
        return Ok(());
    }
    // Reject the file here, because exec would fall back to running it with a shell.
    Err(io::Error::other("neither a program nor a script"))
}

/// Linux appends ` (deleted)` to the path of a running file that was replaced.
fn undeleted(file: PathBuf) -> PathBuf {
    let mut bytes = OsString::from(file).into_vec();
    if bytes.ends_with(b" (deleted)") {
        bytes.truncate(bytes.len() - b" (deleted)".len());
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn name_is_looked_up_in_path() {
        let path = Some(OsStr::new("/nonexistent:/bin"));
        let sh = |name: &str| by_name(OsStr::new(name), path);
        assert_eq!(sh("/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(sh("sh"), Some("/bin/sh".into()));
        assert_eq!(sh("no-such-program"), None);
        assert_eq!(sh("/nonexistent/sh"), None);
        assert_eq!(sh(""), None);
        assert_eq!(by_name(OsStr::new("sh"), None), None);
    }

    #[test]
    fn file_that_is_not_a_program_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let wrong = |file: &Path| is_program(file).unwrap_err().to_string();
        assert_eq!(wrong(dir.path()), "not a file");
        let file = dir.path().join("lb");
        std::fs::write(&file, "echo oops").unwrap();
        let by_name = by_name(file.as_os_str(), None);
        assert_eq!(by_name.as_deref(), Some(&*file));
        assert!(wrong(&file).starts_with("Permission denied"));
        std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(wrong(&file), "neither a program nor a script");
        std::fs::write(&file, "#!/bin/sh\n").unwrap();
        is_program(&file).unwrap();
        is_program(Path::new("/bin/sh")).unwrap();
    }

    #[test]
    fn deleted_suffix_is_removed() {
        let name = |text: &str| undeleted(PathBuf::from(text));
        assert_eq!(name("/opt/lb (deleted)"), Path::new("/opt/lb"));
        assert_eq!(name("/opt/lb"), Path::new("/opt/lb"));
    }

    #[test]
    fn own_program_is_found() {
        assert!(path().unwrap().is_file());
    }
}
