//! WebSocket: Python's websockets as client and server.

use crate::{
    program::{Port, command, run},
    service::{Front, NO_PROBES, python_with},
    site::Certs,
};

const SCRIPT: &str = r#"
import ssl, sys, threading
from websockets.sync.client import connect
from websockets.sync.server import serve
balancer, server_port, ca, cert, key = sys.argv[1:]

def echo(socket):
    for message in socket: socket.send(message)

server = serve(echo, "127.0.0.1", int(server_port))
threading.Thread(target=server.serve_forever, daemon=True).start()
tls = ssl.create_default_context(cafile=ca)
tls.load_cert_chain(cert, key)
with connect("wss://localhost:" + balancer, ssl=tls, proxy=None) as socket:
    for message in ["hello", b"x" * 500_000]:
        socket.send(message)
        assert socket.recv(timeout=20) == message
server.shutdown()
print("done")
"#;

#[tokio::test]
async fn websocket_messages_are_echoed() {
    let Some(python) = python_with("websockets.sync.server") else {
        return;
    };
    let server = Port::reserve();
    let certs = Certs::generate().await;
    let front = Front::start(certs, server.address, "", NO_PROBES).await;
    let mut script = command(python);
    script.args(["-c", SCRIPT, &front.port()]);
    script.arg(server.address.port().to_string());
    let ended = run(script.args(front.files())).await.ok();
    assert_eq!(ended.stdout, "done\n", "{ended:?}");
    front.finish(1).await;
}
