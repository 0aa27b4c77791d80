use std::{fs, path::Path};

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
