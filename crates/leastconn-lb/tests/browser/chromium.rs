//! Chromium without a window, and its DevTools protocol: a JSON object and a NUL each
//! way, on descriptors 3 and 4.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use leastconn_testkit::{TempDir, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;

/// A browser on a busy machine takes its time; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running browser. Killed when dropped.
pub(crate) struct Chromium {
    _child: Child,
    // Dropped after the child is told to end; whatever it still writes is lost.
    _profile: TempDir,
    stdin: tokio::sync::Mutex<ChildStdin>,
    last: AtomicU64,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    waiting: HashMap<u64, oneshot::Sender<Value>>,
    events: Vec<Value>,
}

impl Chromium {
    /// Starts one, or says that there is none.
    ///
    /// # Panics
    /// When there is none and `LEASTCONN_BROWSER` is `required`.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = find() else {
            assert!(
                env::var_os("LEASTCONN_BROWSER").is_none_or(|value| value != "required"),
                "there is no Chromium: apt-get install chromium, or set CHROMIUM to its path"
            );
            eprintln!("skipped: there is no Chromium (apt-get install chromium)");
            return None;
        };
        let profile = TempDir::new().unwrap();
        // A shell puts the pipes where Chromium looks for them.
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"#,
                "sh",
            ])
            .arg(program)
            .args([
                "--headless",
                "--remote-debugging-pipe",
                // Its sandbox does not run as root, and /dev/shm is small in containers.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
                // Nothing of its own asks anything of anybody.
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-proxy-server",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let shared = Arc::default();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        tokio::spawn(listen(stdout, Arc::clone(&shared)));
        Some(Self {
            _child: child,
            _profile: profile,
            stdin: stdin.into(),
            last: AtomicU64::new(0),
            shared,
        })
    }

    /// Asks for something, of a page or of the browser, and waits for the answer.
    ///
    /// # Panics
    /// When the answer is an error, or late.
    pub(crate) async fn send(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = oneshot::channel();
        self.shared.lock().unwrap().waiting.insert(id, sender);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let bytes = format!("{message}\0");
        let answer = async {
            let mut stdin = self.stdin.lock().await;
            stdin.write_all(bytes.as_bytes()).await.unwrap();
            drop(stdin);
            receiver.await.expect("Chromium ended")
        };
        let mut answer = within(PATIENCE, method, answer).await;
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].take()
    }

    /// The parameters of all events of this name so far.
    pub(crate) fn events(&self, method: &str) -> Vec<Value> {
        let shared = self.shared.lock().unwrap();
        let of_it = shared
            .events
            .iter()
            .filter(|event| event["method"] == method);
        of_it.map(|event| event["params"].clone()).collect()
    }
}

async fn listen(stdout: ChildStdout, shared: Arc<Mutex<Shared>>) {
    let mut stdout = BufReader::new(stdout);
    let mut message = Vec::new();
    while matches!(stdout.read_until(0, &mut message).await, Ok(n) if n > 0) {
        message.pop();
        let value: Value = serde_json::from_slice(&message).unwrap();
        message.clear();
        let mut shared = shared.lock().unwrap();
        match value["id"].as_u64() {
            None => shared.events.push(value),
            Some(id) => {
                if let Some(waiting) = shared.waiting.remove(&id) {
                    // Whoever asked may have given up.
                    let _ = waiting.send(value);
                }
            }
        }
    }
    // Nobody is answered any more.
    shared.lock().unwrap().waiting.clear();
}

fn find() -> Option<PathBuf> {
    if let Some(path) = env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let path = env::var_os("PATH")?;
    let mut places = env::split_paths(&path).flat_map(|directory| {
        ["chromium", "chromium-browser", "google-chrome"].map(|name| directory.join(name))
    });
    places.find(|place| place.is_file())
}
