//! gRPC: Python's grpcio as client and server.

use crate::{
    program::{Port, command, run},
    service::{Front, NO_PROBES, python_with},
    site::Certs,
};

const SCRIPT: &str = r#"
import sys, grpc
from concurrent import futures
balancer, server_port, ca, cert, key = sys.argv[1:]

def count(request, context):
    for n in range(200): yield b"%d" % n

server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", {
    "Say": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Join": grpc.stream_unary_rpc_method_handler(lambda requests, context: b"".join(requests)),
}),))
server.add_insecure_port("127.0.0.1:" + server_port)
server.start()
read = lambda path: open(path, "rb").read()
credentials = grpc.ssl_channel_credentials(read(ca), read(key), read(cert))
options = [("grpc.enable_http_proxy", 0)]
with grpc.secure_channel("localhost:" + balancer, credentials, options) as channel:
    say = channel.unary_unary("/test.Echo/Say")
    calls = [say.future(b"%d" % n, timeout=20) for n in range(50)]
    assert [call.result() for call in calls] == [b"%d" % n for n in range(50)]
    large = b"x" * 3_000_000
    assert say(large, timeout=20) == large
    assert list(channel.unary_stream("/test.Echo/Count")(b"", timeout=20)) == [b"%d" % n for n in range(200)]
    assert channel.stream_unary("/test.Echo/Join")(iter([b"a"] * 100), timeout=20) == b"a" * 100
server.stop(None)
print("done")
"#;

#[tokio::test]
async fn grpc_calls_share_a_connection() {
    let Some(python) = python_with("grpc") else {
        return;
    };
    let server = Port::reserve();
    let certs = Certs::generate().await;
    let front = Front::start(certs, server.address, "alpn = [\"h2\"]", NO_PROBES).await;
    let mut script = command(python);
    script.args(["-c", SCRIPT, &front.port()]);
    script.arg(server.address.port().to_string());
    let ended = run(script.args(front.files())).await.ok();
    assert_eq!(ended.stdout, "done\n", "{ended:?}");
    assert_eq!(front.finish(1).await[0]["alpn"], "h2");
}
