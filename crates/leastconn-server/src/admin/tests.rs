use std::{fs, path::Path};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{server::Server, telemetry::access_log::AccessLog, test_config::PLAIN};

const ADMIN: &str = "[admin]\nbind = \"127.0.0.1:0\"\n";

fn start(path: &Path) -> Server {
    let loaded = leastconn_config::load(path).unwrap_or_else(|problems| panic!("{problems}"));
    let (log, _) = AccessLog::open(&loaded.config.log.access).unwrap();
    Server::start(loaded.config, log).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_recorded_only_with_an_admin_address() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    fs::write(&path, PLAIN).unwrap();
    let server = start(&path);
    let is_recording = || !server.reloader().admin().recording.is_empty();
    assert!(!is_recording());
    for wanted in [true, true, false, false, true] {
        let admin = if wanted { ADMIN } else { "" };
        fs::write(&path, format!("{admin}{PLAIN}")).unwrap();
        let reload = server.reloader().reload().await.unwrap();
        assert!(reload.reasons.is_empty(), "{reload:?}");
        assert_eq!(is_recording(), wanted);
    }
    assert_eq!(server.reloader().admin().recording.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn root_is_unknown_without_the_dashboard() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leastconn.toml");
    fs::write(&path, format!("{ADMIN}{PLAIN}")).unwrap();
    let server = start(&path);
    let address = server.reloader().admin().address().unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    if cfg!(feature = "dashboard") {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    } else {
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        assert!(answer.contains("built without the dashboard"), "{answer}");
    }
}
