use crate::{
    program::{run, tool},
    site::{RecordLayer, Site, both_record_layers},
};

both_record_layers! {
    #[tokio::test]
    client_endings_have_distinct_outcomes,
}

const CLIENT: &str = r#"
import socket, ssl, struct, sys
host, port, ca, cert, key, version, ending = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(cert, key)
context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
tcp = socket.create_connection((host, int(port)), 10)
tls = context.wrap_socket(tcp, server_hostname="lb.com", suppress_ragged_eofs=False)
tls.sendall(b"GET / HTTP/1.1\r\nHost: lb.com\r\n\r\n")
answer = b""
while not answer.endswith(b"webapp1\n") and not answer.endswith(b"webapp2\n"):
    answer += tls.recv(4096)
if ending == "clean":
    # Send close_notify, and wait for the balancer's close_notify.
    tls.unwrap().close()
elif ending == "abrupt":
    # Close the TCP connection without close_notify.
    tls.close()
elif ending == "reset":
    tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tls.close()
print("done")
"#;

async fn client_endings_have_distinct_outcomes(layer: RecordLayer) {
    let site = Site::with_record_layer(layer).await;
    let (cert, key) = site.certs.pair("client1");
    let mut count = 0;
    for version in ["TLSv1_2", "TLSv1_3"] {
        for (ending, outcome) in [
            ("clean", "ok"),
            ("abrupt", "client_truncated"),
            ("reset", "client_reset"),
        ] {
            let mut python = tool("python3");
            python
                .args([
                    "-c",
                    CLIENT,
                    "127.0.0.1",
                    &site.address().port().to_string(),
                ])
                .args([&site.certs.path("ca/ca.crt"), &cert, &key])
                .args([version, ending]);
            assert_eq!(run(&mut python).await.ok().stdout, "done\n");
            count += 1;
            let records = site.balancer.wait_records(count).await;
            let last = records.last().unwrap();
            assert_eq!(last["outcome"], outcome, "{version} {ending}: {last}");
        }
    }
    site.finish().await;
}
