//! `completions` and `man`: shell completion scripts and manual pages, for packagers.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Command;

use super::{DONE, FAILED, config_manual, fail};

/// Prints `text`; a closed pipe (`| head`) is not an error.
pub(super) fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&error, FAILED),
        _ => ExitCode::from(DONE),
    }
}

pub(super) fn script(mut command: Command, shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "leastconn-lb", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Sections of the manual page that are not generated from the command-line arguments. The last one
/// is the examples.
const EXTRA_SECTIONS: &str = r#".SH "EXIT STATUS"
.TP
\fB0\fR
success, or drained without cutting off connections
.TP
\fB1\fR
failed at run time, or connections were cut off; for \fBexplain\fR, the client is refused; for \fBhealthcheck\fR, not ready
.TP
\fB2\fR
wrong usage, or an invalid configuration
.SH SIGNALS
Signals handled by \fBleastconn\-lb run\fR:
.TP
\fBTERM\fR, \fBINT\fR
drain and exit; a second one exits at once
.TP
\fBHUP\fR
reload the configuration; if it is invalid, nothing changes
.TP
\fBUSR1\fR
reopen the log file after rotation
.TP
\fBUSR2\fR
start the binary again and hand the listening sockets to it
.SH FILES
.TP
\fIleastconn.toml\fR, \fI/etc/leastconn/leastconn.toml\fR
the configuration, see \fBleastconn.toml\fR(5); the first file that exists is used unless \fB\-\-config\fR names one
.TP
\fI/usr/share/doc/leastconn\-lb/\fR
documentation and examples of the Debian package
.SH EXAMPLES
.TP
\fBleastconn\-lb check && leastconn\-lb ctl reload\fR
validate and apply a changed configuration
.TP
\fBleastconn\-lb explain \-\-cert client.crt\fR
show why a client is refused
"#;

const DEMO_EXAMPLE: &str = r#".TP
\fBleastconn\-lb demo\fR
run the demonstration; needs no setup
"#;

pub(super) fn manual(command: Command) -> String {
    let man = clap_mangen::Man::new(without_help(command));
    let mut page = Vec::new();
    // Writing to a Vec does not fail.
    let _ = man
        .render_title(&mut page)
        .and_then(|()| man.render_name_section(&mut page))
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(|()| man.render_subcommands_section(&mut page));
    page.extend_from_slice(EXTRA_SECTIONS.as_bytes());
    if cfg!(feature = "demo") {
        page.extend_from_slice(DEMO_EXAMPLE.as_bytes());
    }
    let _ = man.render_version_section(&mut page);
    String::from_utf8_lossy(&page).into_owned()
}

/// Removes the `help` subcommands, so that no manual pages are written for them.
fn without_help(command: Command) -> Command {
    command
        .disable_help_subcommand(true)
        .mut_subcommands(without_help)
}

/// Writes a page for the program, one per command and `leastconn.toml.5` to `dir`.
pub(super) fn manuals(command: Command, dir: &Path) -> ExitCode {
    let first = dir.join("leastconn-lb.1");
    let written = fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(without_help(command.clone()), dir))
        .and_then(|()| fs::write(first, manual(command)))
        .and_then(|()| fs::write(dir.join("leastconn.toml.5"), config_manual::manual()));
    match written {
        Ok(()) => ExitCode::from(DONE),
        Err(error) => fail(
            &format!("cannot write manual pages to {}: {error}", dir.display()),
            FAILED,
        ),
    }
}
