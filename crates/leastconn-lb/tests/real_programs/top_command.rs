//! `top` in a terminal. tmux provides the terminal, and returns the contents of its screen.

use leastconn_testkit::{
    Balancer, Behaviour, DEADLINE, TempDir, Upstream, client::roundtrip, eventually,
};
use tokio::net::TcpStream;

use crate::{
    plain,
    program::{LB, Output, lb, run, tool},
};

/// A tmux server with one window of 130 columns and 30 lines.
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

    async fn tmux(&self, args: &[&str]) -> Output {
        let mut tmux = tool("tmux");
        tmux.env("TERM", "xterm-256color");
        // Ignore the user's configuration, and use a separate socket.
        tmux.args(["-f", "/dev/null", "-S"])
            .arg(self.dir.path().join("tmux"));
        run(tmux.args(args)).await
    }

    async fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat()).await.ok();
    }

    /// Waits for a line with all of `parts`.
    async fn wait_line(&self, parts: &[&str]) -> String {
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

    /// Waits until the program has exited, which also ends the tmux session.
    async fn wait_exit(&self) {
        eventually(DEADLINE, || async {
            let output = self.tmux(&["has-session"]).await;
            (output.code != 0)
                .then_some(())
                .ok_or_else(|| "the session still exists".to_owned())
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn top_shows_a_running_balancer() {
    let dir = TempDir::new().unwrap();
    let upstream = Upstream::start(Behaviour::Echo).await;
    let admin = format!("{}socket = \"lb.sock\"\n", plain::ADMIN);
    let servers = format!(
        "servers = [{{ name = \"web1\", address = \"{}\" }}]",
        upstream.addr()
    );
    let config = plain::configuration(&admin, &servers);
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
        .wait_line(&["leastconn", env!("CARGO_PKG_VERSION"), "ready"])
        .await;
    terminal.wait_line(&["open 1/"]).await;
    terminal.wait_line(&["web1", "up", "█"]).await;
    terminal.keys(&["3"]).await;
    terminal
        .wait_line(&[&source, "local", "web/web1", "relaying"])
        .await;
    terminal.keys(&["/", "no-match"]).await;
    terminal.wait_line(&["search: no-match"]).await;
    eventually(DEADLINE, || async {
        let screen = terminal.tmux(&["capture-pane", "-p"]).await.all();
        (!screen.contains(&source)).then_some(()).ok_or(screen)
    })
    .await
    .unwrap();
    terminal.keys(&["Escape"]).await;
    terminal.wait_line(&[&source, "relaying"]).await;

    drop(stream);
    terminal.wait_line(&["open 0/"]).await;
    drop(balancer);
    terminal.wait_line(&["no answer"]).await;
    terminal.keys(&["q"]).await;
    terminal.wait_exit().await;
}

#[tokio::test]
async fn top_without_a_terminal_suggests_ctl() {
    let output = run(&mut lb(["top", "--socket", "/nowhere/lb.sock"])).await;
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("ctl"), "{output:?}");
}
