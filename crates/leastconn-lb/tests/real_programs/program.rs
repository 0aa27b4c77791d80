//! Finding programs, and running them to their end.

use std::{ffi::OsStr, path::PathBuf, process::Stdio, time::Duration};

pub(crate) use leastconn_testkit::Port;
use leastconn_testkit::within;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

/// The balancer's binary.
pub(crate) const LB: &str = env!("CARGO_BIN_EXE_leastconn-lb");

/// How long a program may take; a failing test waits that long, no other.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Where `name` is.
///
/// # Panics
/// With what to do about it, if it is nowhere.
pub(crate) fn path(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| {
        panic!("`{name}` is not installed, and this test needs it: run scripts/setup.sh --test")
    })
}

/// Where `name` is, for what a test can do without.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let listed = std::env::var_os("PATH").unwrap_or_default();
    // Debian has nginx where a user's PATH does not look.
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    std::env::split_paths(&listed)
        .chain(more)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A command with nothing of the environment that would lead it elsewhere.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).env("LC_ALL", "C");
    command
}

/// `name`, to be run.
pub(crate) fn tool(name: &str) -> Command {
    command(path(name))
}

/// The balancer's binary, to be run.
pub(crate) fn lb<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = command(LB);
    command.args(args);
    command
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; -1 if a signal ended it.
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Both outputs, for what a program says on either.
    pub(crate) fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// Fails the test unless the program succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }
}

/// Runs `command` with nothing to read.
pub(crate) async fn run(command: &mut Command) -> Ended {
    run_with(command, Input::Text(b"")).await
}

/// What a program reads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input<'a> {
    /// This, and then the end.
    Text(&'a [u8]),
    /// This, and then nothing more for as long as it runs.
    Open(&'a [u8]),
}

/// Runs `command` to its end.
///
/// # Panics
/// If that takes longer than [`LIMIT`].
pub(crate) async fn run_with(command: &mut Command, input: Input<'_>) -> Ended {
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
    let whole = async {
        let write = async {
            let (Input::Text(text) | Input::Open(text)) = input;
            // A program that ends early does not read all of it.
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
    let status = within(LIMIT, &format!("{command:?}"), whole).await;
    drop(stdin);
    Ended {
        code: status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// The only occurrence of `from` becomes `to`: an example that has changed is
/// noticed, not silently left as it is.
#[track_caller]
pub(crate) fn replace(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from:?} once in:\n{text}");
    text.replace(from, to)
}
