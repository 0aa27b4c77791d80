//! Finds programs, and runs them to completion.

use std::{ffi::OsStr, path::PathBuf, process::Stdio, time::Duration};

use leastconn_testkit::within;
pub(crate) use leastconn_testkit::{Port, find_program as find};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// Path of the balancer.
pub(crate) const LB: &str = env!("CARGO_BIN_EXE_leastconn-lb");

/// Time limit of a program. Only a failing test waits this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The path of program `name`.
///
/// # Panics
/// If it is not installed.
pub(crate) fn path(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| {
        panic!("`{name}` is not installed, and this test needs it: run scripts/setup.sh --test")
    })
}

/// A command with the C locale that is killed when dropped.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).env("LC_ALL", "C");
    command
}

/// A command for program `name`; see [`path`].
pub(crate) fn tool(name: &str) -> Command {
    command(path(name))
}

/// A command for the balancer.
pub(crate) fn lb<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = command(LB);
    command.args(args);
    command
}

#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code; -1 if a signal killed the program.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Standard output and standard error.
    pub(crate) fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Panics unless the exit code is 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

/// Runs `command` with empty standard input.
pub(crate) async fn run(command: &mut Command) -> Output {
    run_with(command, Input::Text(b"")).await
}

/// Standard input of a program.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    /// The text, then end of file.
    Text(&'a [u8]),
    /// The text; standard input stays open until the program exits.
    Open(&'a [u8]),
}

/// Runs `command` to completion.
///
/// # Panics
/// After [`LIMIT`].
pub(crate) async fn run_with(command: &mut Command, input: Input<'_>) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let execution = async {
        let write = async {
            let (Input::Text(text) | Input::Open(text)) = input;
            // Writing fails if the program exits before it has read everything.
            let _ = stdin.as_mut().unwrap().write_all(text).await;
            if matches!(input, Input::Text(_)) {
                stdin = None;
            }
        };
        let (_, out, err) = tokio::join!(
            write,
            out.read_to_end(&mut stdout),
            err.read_to_end(&mut stderr)
        );
        out.and(err).unwrap();
        child.wait().await.unwrap()
    };
    let status = within(LIMIT, &format!("{command:?}"), execution).await;
    drop(stdin);
    Output {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Replaces the only occurrence of `from`. Panics if there is not exactly one, so that a
/// changed example is noticed.
#[track_caller]
pub(crate) fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(
        text.matches(from).count(),
        1,
        "{from:?} must occur once in:\n{text}"
    );
    text.replace(from, to)
}
