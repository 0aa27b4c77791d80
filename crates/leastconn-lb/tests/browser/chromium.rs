//! Headless Chromium, controlled with the DevTools protocol: JSON messages terminated by
//! NUL on file descriptors 3 and 4.

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

/// Time limit of each step. Only a failing test takes this long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// A running browser. Killed when dropped.
pub(crate) struct Chromium {
    _child: Child,
    // Must be dropped after the browser has been killed.
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
    /// Starts Chromium. Returns `None` if it is not installed.
    ///
    /// # Panics
    /// If it is not installed and `LEASTCONN_BROWSER` is `required`.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = find() else {
            assert!(
                env::var_os("LEASTCONN_BROWSER").is_none_or(|value| value != "required"),
                "Chromium is not installed: apt-get install chromium, or set CHROMIUM to its path"
            );
            eprintln!("skipped: Chromium is not installed (apt-get install chromium)");
            return None;
        };
        let profile = TempDir::new().unwrap();
        // The shell moves the pipes to descriptors 3 and 4.
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
                // Chromium's sandbox does not work as root, and /dev/shm is small in containers.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
                // Without these options, Chromium sends network requests on its own.
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

    /// Sends a command to a page or to the browser, and waits for the result.
    ///
    /// # Panics
    /// On an error, and after [`TIMEOUT`].
    pub(crate) async fn send(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, receiver) = oneshot::channel();
        self.shared.lock().unwrap().waiting.insert(id, sender);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = session.into();
        }
        let bytes = format!("{message}\0");
        let response = async {
            let mut stdin = self.stdin.lock().await;
            stdin.write_all(bytes.as_bytes()).await.unwrap();
            drop(stdin);
            receiver.await.expect("Chromium ended")
        };
        let mut answer = within(TIMEOUT, method, response).await;
        assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        answer["result"].take()
    }

    /// The parameters of all events of the type `method` so far.
    pub(crate) fn events(&self, method: &str) -> Vec<Value> {
        let shared = self.shared.lock().unwrap();
        let matching = shared
            .events
            .iter()
            .filter(|event| event["method"] == method);
        matching.map(|event| event["params"].clone()).collect()
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
                    // The test that waits for the result may have timed out.
                    let _ = waiting.send(value);
                }
            }
        }
    }
    // Dropping the senders fails all pending commands.
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
