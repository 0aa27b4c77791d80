//! In a real terminal: tmux is one, and tells what is on its screen.

use leastconn_testkit::{
    Balancer, Behaviour, DEADLINE, TempDir, Upstream, client::roundtrip, eventually,
};
use tokio::net::TcpStream;

use crate::program::{Ended, LB, lb, run, tool};

/// A tmux of its own, with one window that is 130 by 30.
struct Terminal {
    dir: TempDir,
}

impl Terminal {
    async fn start(program: &[&str]) -> Self {
        let terminal = Self {
            dir: TempDir::new().unwrap(),
        };
        let size = ["new-session", "-d", "-x", "130", "-y", "30"];
        terminal.tmux(&[&size[..], program].concat()).await.ok();
        terminal
    }

    async fn tmux(&self, args: &[&str]) -> Ended {
        let mut tmux = tool("tmux");
        tmux.env("TERM", "xterm-256color");
        // No configuration of whoever runs the tests, and no server that they know.
        tmux.args(["-f", "/dev/null", "-S"])
            .arg(self.dir.path().join("tmux"));
        run(tmux.args(args)).await
    }

    async fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat()).await.ok();
    }

    /// Waits until all of `parts` are in one line.
    async fn line(&self, parts: &[&str]) -> String {
        eventually(DEADLINE, || async {
            let screen = self.tmux(&["capture-pane", "-p"]).await.all();
            let found = screen
                .lines()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            found.map(str::to_owned).ok_or(screen)
        })
        .await
        .unwrap_or_else(|screen| panic!("no line with {parts:?}:\n{screen}"))
    }

    /// Waits until the program has ended, and the session with it.
    async fn gone(&self) {
        eventually(DEADLINE, || async {
            let ended = self.tmux(&["has-session"]).await;
            (ended.code != 0)
                .then_some(())
                .ok_or_else(|| "it goes on".to_owned())
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn top_shows_a_running_balancer() {
    let dir = TempDir::new().unwrap();
    let upstream = Upstream::start(Behaviour::Echo).await;
    let config = format!(
        r#"
[admin]
bind = "127.0.0.1:0"
socket = "lb.sock"

[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"

[[upstream]]
name = "web"
servers = [{{ name = "web1", address = "{}" }}]

[[client]]
name = "local"
match = {{ source = ["127.0.0.0/8"] }}
allow = ["web"]
"#,
        upstream.addr()
    );
    let balancer = Balancer::start(LB, &config, dir.path()).await.unwrap();
    let mut stream = TcpStream::connect(balancer.address("main")).await.unwrap();
    roundtrip(&mut stream, b"hello").await.unwrap();
    let source = stream.local_addr().unwrap().to_string();

    let socket = dir.path().join("lb.sock");
    let top = [
        LB,
        "top",
        "--interval",
        "200ms",
        "--socket",
        socket.to_str().unwrap(),
    ];
    let terminal = Terminal::start(&top).await;
    terminal
        .line(&["leastconn", env!("CARGO_PKG_VERSION"), "ready"])
        .await;
    terminal.line(&["open 1/"]).await;
    terminal.line(&["web1", "up", "█"]).await;
    terminal.keys(&["3"]).await;
    terminal
        .line(&[&source, "local", "web/web1", "relaying"])
        .await;
    terminal.keys(&["/", "nobody"]).await;
    terminal.line(&["search: nobody"]).await;
    eventually(DEADLINE, || async {
        let screen = terminal.tmux(&["capture-pane", "-p"]).await.all();
        (!screen.contains(&source)).then_some(()).ok_or(screen)
    })
    .await
    .unwrap();
    terminal.keys(&["Escape"]).await;
    terminal.line(&[&source, "relaying"]).await;

    drop(stream);
    terminal.line(&["open 0/"]).await;
    drop(balancer);
    terminal.line(&["no answer"]).await;
    terminal.keys(&["q"]).await;
    terminal.gone().await;
}

#[tokio::test]
async fn top_without_a_terminal_suggests_ctl() {
    let ended = run(&mut lb(["top", "--socket", "/nowhere/lb.sock"])).await;
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.stderr.contains("ctl"), "{ended:?}");
}
