//! `completions`, `man`: what packagers expect.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Command;

use super::{DONE, FAILED, fail};

/// Prints a text; a reader that closes early (`| head`) is no failure.
pub(super) fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error, FAILED),
        _ => ExitCode::from(DONE),
    }
}

/// The completion script for a shell.
pub(super) fn script(mut command: Command, shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "leastconn-lb", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// The program's manual page.
pub(super) fn manual(command: Command) -> String {
    let mut page = Vec::new();
    // Writing into memory does not fail.
    let _ = clap_mangen::Man::new(command).render(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

/// Writes a page for the program and for each command into `dir`.
pub(super) fn manuals(command: Command, dir: &Path) -> ExitCode {
    let written = fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir));
    match written {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => fail(
            &format!("cannot write manual pages to {}: {error}", dir.display()),
            FAILED,
        ),
    }
}
