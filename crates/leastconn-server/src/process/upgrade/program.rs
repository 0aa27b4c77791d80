//! ConnectionFilter file the new program is.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};

use crate::files;

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
        // If it is no program, somebody has made a mistake, which is to be said.
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
    // One that may be executed but not read is taken for what it says it is.
    let Ok((mut open, _)) = files::open_regular(file) else {
        return Ok(());
    };
    open.by_ref().take(4).read_to_end(&mut start)?;
    if start.starts_with(b"\x7fELF") || start.starts_with(b"#!") {
        return Ok(());
    }
    // A shell would be asked to run it.
    Err(io::Error::other("neither a program nor a script"))
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
    use std::{fs::Permissions, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn a_name_is_looked_up_as_a_shell_does() {
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
    fn what_is_there_and_is_no_program_is_not_passed_over() {
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
