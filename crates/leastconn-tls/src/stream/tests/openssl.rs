//! The stream against `openssl s_client`, which can update keys, renegotiate and send small
//! fragments.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use super::*;
use crate::permit::Unscheduled;

/// `s_client`, and the server's end of its connection.
struct Conversation {
    openssl: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
    stream: TlsStream,
}

async fn wait_for(lines: &mut Lines<impl AsyncBufRead + Unpin>, words: &str) {
    let said = async { while !lines.next_line().await.unwrap().unwrap().contains(words) {} };
    within(LIMIT, words, said).await;
}

impl Conversation {
    async fn begin(own: bool, args: &[&str]) -> Self {
        let ca = TestCa::new("openssl");
        let cert = ca.server(&["localhost"]);
        let mut config = ServerConfig::builder_with_provider(provider(own))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(cert.chain_der.clone(), cert.key_der.clone_key())
            .unwrap();
        config.enable_secret_extraction = own;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut openssl = Command::new("openssl")
            .args(["s_client", "-connect", &address])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let accepted = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let hello = read_hello(&mut socket, &mut Vec::new()).await.unwrap();
            accept(socket, hello, &Arc::new(config).into(), &Unscheduled)
                .await
                .map_err(|(error, _)| error)
                .unwrap()
        };
        let stream = within(LIMIT, "a handshake with openssl", accepted).await;
        Self {
            stdin: openssl.stdin.take().unwrap(),
            stdout: BufReader::new(openssl.stdout.take().unwrap()).lines(),
            stderr: BufReader::new(openssl.stderr.take().unwrap()).lines(),
            openssl,
            stream,
        }
    }

    async fn command(&mut self, command: &str) {
        self.stdin.write_all(command.as_bytes()).await.unwrap();
    }

    /// Waits for a line on stdout that contains these words.
    async fn says(&mut self, words: &str) {
        wait_for(&mut self.stdout, words).await;
    }

    /// Waits for a line on stderr that contains these words.
    async fn complains(&mut self, words: &str) {
        wait_for(&mut self.stderr, words).await;
    }

    /// Sends a line from the client to the server, and back to the client.
    async fn echoes(&mut self, line: &str) {
        self.command(&format!("{line}\n")).await;
        let mut seen = vec![0; line.len() + 1];
        within(LIMIT, line, self.stream.read_exact(&mut seen))
            .await
            .unwrap();
        assert_eq!(seen, format!("{line}\n").as_bytes());
        self.stream.write_all(&seen).await.unwrap();
        self.stream.flush().await.unwrap();
        self.says(line).await;
    }

    async fn read(&mut self) -> io::Result<usize> {
        within(LIMIT, "the end", self.stream.read(&mut [0; 100])).await
    }
}

#[tokio::test]
async fn keys_are_updated_in_both_directions() {
    for own in BOTH {
        let mut conversation = Conversation::begin(own, &["-tls1_3"]).await;
        for round in 0..6 {
            // "k" updates the client's keys. "K" also requests an update of the server's keys.
            conversation.command(["k\n", "K\n"][round % 2]).await;
            conversation.complains("KEYUPDATE").await;
            conversation.echoes(&format!("this is round {round}")).await;
        }
    }
}

#[tokio::test]
async fn hello_retry_request_is_sent() {
    for own in BOTH {
        for group in ["X25519", "P-256", "P-384"] {
            // The client sends a key share only for P-521, which the server does not support.
            let groups = format!("P-521:{group}");
            let args = ["-tls1_3", "-msg", "-groups", &groups];
            let mut conversation = Conversation::begin(own, &args).await;
            // The first ServerHello is a HelloRetryRequest.
            conversation.says("ServerHello").await;
            conversation.says("ClientHello").await;
            conversation.says("ServerHello").await;
            conversation.says("Server Temp Key").await;
            conversation.echoes(group).await;
        }
    }
}

#[tokio::test]
async fn small_fragments_are_reassembled() {
    const LINES: usize = 2_000;
    let text: String = (0..LINES)
        .map(|n| format!("line {n} is as long as this\n"))
        .collect();
    for own in BOTH {
        for args in [
            [
                "-tls1_3",
                "-max_send_frag",
                "512",
                "-split_send_frag",
                "512",
            ],
            [
                "-tls1_2",
                "-max_send_frag",
                "512",
                "-split_send_frag",
                "512",
            ],
        ] {
            let mut conversation = Conversation::begin(own, &args).await;
            let mut seen = vec![0; text.len()];
            let Conversation { stdin, stream, .. } = &mut conversation;
            let (written, read) = within(LIMIT, "a transfer", async {
                tokio::join!(
                    stdin.write_all(text.as_bytes()),
                    stream.read_exact(&mut seen)
                )
            })
            .await;
            written.and(read.map(drop)).unwrap();
            assert!(seen == text.as_bytes());
            conversation.echoes("and on").await;
        }
    }
}

#[tokio::test]
async fn renegotiation_of_openssl_is_refused() {
    for own in BOTH {
        let mut conversation = Conversation::begin(own, &["-tls1_2"]).await;
        conversation.echoes("before").await;
        conversation.command("R\n").await;
        // openssl treats the refused renegotiation as fatal, and sends an alert.
        let error = conversation.read().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        conversation.complains("no renegotiation").await;
    }
}

#[tokio::test]
async fn killed_client_is_not_an_orderly_end() {
    for own in BOTH {
        for version in ["-tls1_2", "-tls1_3"] {
            let mut conversation = Conversation::begin(own, &[version]).await;
            conversation.echoes("and now").await;
            conversation.command("Q\n").await;
            assert_eq!(conversation.read().await.unwrap(), 0);

            let mut conversation = Conversation::begin(own, &[version]).await;
            conversation.echoes("and now").await;
            conversation.openssl.kill().await.unwrap();
            let error = conversation.read().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
