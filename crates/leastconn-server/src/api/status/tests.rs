use std::{
    path::Path,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};

use leastconn_config::load_text;

use super::*;
use crate::{server::Server, telemetry::access_log::AccessLog, test_config::PLAIN};

#[tokio::test]
async fn status_does_not_wait_for_a_reload() {
    let config = load_text("test.toml", PLAIN, Path::new("/"));
    let config = config
        .unwrap_or_else(|problems| panic!("{problems}"))
        .config;
    let (log, _flusher) = AccessLog::open(&config.log.access).unwrap();
    let server = Server::start(config, log).unwrap();
    let control = Arc::clone(server.reloader());
    let cx = ApiContext {
        context: Arc::clone(server.context()),
        control,
        history: Arc::default(),
    };
    let (sender, receiver) = sync_channel(1);
    let status = {
        // A reload holds both locks.
        let _sockets = server.reloader().sockets();
        let _admin = server.reloader().admin();
        std::thread::spawn(move || sender.send(Box::new(Status::of(&cx, Changes::Allowed))));
        receiver.recv_timeout(Duration::from_secs(10))
    };
    let status = status.expect("status waits for a lock of the reload");
    let (_, address) = &server.addresses()[0];
    assert_eq!(status.listeners[0].addresses, [address.to_string()]);
}
