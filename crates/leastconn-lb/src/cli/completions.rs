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

/// What the program's manual page has besides what the arguments say.
const MORE: &str = r#".SH "EXIT STATUS"
.TP
\fB0\fR
done, or drained with nobody cut off
.TP
\fB1\fR
failed while running, or somebody was cut off; for a question, the answer is no
.TP
\fB2\fR
wrong usage, or an invalid configuration
.SH SIGNALS
Of \fBleastconn\-lb run\fR:
.TP
\fBTERM\fR, \fBINT\fR
drain, then end; a second one ends at once
.TP
\fBHUP\fR
read the configuration anew and apply what changed, or nothing if anything is wrong
.TP
\fBUSR1\fR
open the log file again, after it was renamed
.TP
\fBUSR2\fR
start the program anew and leave the listening sockets to it
.SH FILES
.TP
\fIleastconn.toml\fR, \fI/etc/leastconn/leastconn.toml\fR
the configuration: the first that is there, unless \fB\-\-config\fR names one
.TP
\fI/usr/share/doc/leastconn\-lb/\fR
documentation and examples of the Debian package
.SH EXAMPLES
.TP
\fBleastconn\-lb demo\fR
see it work, with nothing prepared
.TP
\fBleastconn\-lb check && leastconn\-lb ctl reload\fR
after a change
.TP
\fBleastconn\-lb explain \-\-cert client.crt\fR
why a client is not let in
"#;

/// The program's manual page.
pub(super) fn manual(command: Command) -> String {
    let man = clap_mangen::Man::new(without_help(command));
    let mut page = Vec::new();
    // Writing into memory does not fail.
    let _ = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(|()| man.render_subcommands_section(&mut page));
    page.extend_from_slice(MORE.as_bytes());
    let _ = man.render_version_section(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

/// `help` has no page of its own.
fn without_help(command: Command) -> Command {
    command
        .disable_help_subcommand(true)
        .mut_subcommands(without_help)
}

/// Writes a page for the program and for each command into `dir`.
pub(super) fn manuals(command: Command, dir: &Path) -> ExitCode {
    let first = dir.join("leastconn-lb.1");
    let written = fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(without_help(command.clone()), dir))
        .and_then(|()| fs::write(first, manual(command)));
    match written {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => fail(
            &format!("cannot write manual pages to {}: {error}", dir.display()),
            FAILED,
        ),
    }
}
