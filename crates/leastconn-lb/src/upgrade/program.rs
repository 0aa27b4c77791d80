//! Which file the new program is.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

/// The file that this process was started from by its name, which may be another one
/// by now: the name is what a package manager, or a symbolic link that is pointed to
/// the next version, gives a new meaning to.
///
/// # Errors
/// If there is none.
pub(super) fn path() -> io::Result<PathBuf> {
    let name = env::args_os().next().unwrap_or_default();
    let named = by_name(&name, env::var_os("PATH").as_deref());
    // A name of its own (`exec -a`) says nothing: then where the file was that runs.
    let known = named.map_or_else(|| env::current_exe().map(undeleted), Ok)?;
    is_program(&known)?;
    Ok(known)
}

fn by_name(name: &OsStr, path: Option<&OsStr>) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(|file| is_program(file).is_ok());
    }
    let mut all = env::split_paths(path?).map(|directory| directory.join(name));
    all.find(|file| !name.is_empty() && is_program(file).is_ok())
}

fn is_program(file: &Path) -> io::Result<()> {
    if !file.metadata()?.is_file() {
        let text = format!("{} is not a file", file.display());
        return Err(io::Error::other(text));
    }
    Ok(access(file, Access::EXEC_OK)?)
}

/// Linux says so of a running file that was replaced.
fn undeleted(file: PathBuf) -> PathBuf {
    let mut bytes = OsString::from(file).into_vec();
    if bytes.ends_with(b" (deleted)") {
        bytes.truncate(bytes.len() - b" (deleted)".len());
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_as_a_shell_does() {
        let path = Some(OsStr::new("/nonexistent:/bin"));
        let sh = |name: &str| by_name(OsStr::new(name), path);
        assert_eq!(sh("/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(sh("sh"), Some("/bin/sh".into()));
        assert_eq!(sh("no-such-program"), None);
        assert_eq!(sh("/etc/passwd"), None, "not a program");
        assert_eq!(sh("/bin"), None, "a directory");
        assert_eq!(sh(""), None);
        assert_eq!(by_name(OsStr::new("sh"), None), None);
    }

    #[test]
    fn what_was_replaced_has_its_name_still() {
        let name = |text: &str| undeleted(PathBuf::from(text));
        assert_eq!(name("/opt/lb (deleted)"), Path::new("/opt/lb"));
        assert_eq!(name("/opt/lb"), Path::new("/opt/lb"));
    }

    #[test]
    fn this_test_was_started_from_a_file() {
        assert!(path().unwrap().is_file());
    }
}
