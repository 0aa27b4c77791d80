//! A Java client downloads more than its TLS 1.3 key limit. From then on, a JDK requests a
//! key update with each record that it reads until the update arrives. This can be more
//! than a hundred requests.

use leastconn_testkit::data::pattern;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    program::{run, tool},
    service::{Front, NO_PROBES, are_installed, configuration},
    site::{Certs, RecordLayer, both_record_layers, repository},
};

both_record_layers! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    download_continues_past_the_key_limit,
}

const BYTES: usize = 20 << 20;

/// Number of bytes after which the client requests a key update. The default of a JDK is
/// 2^37.
const LIMIT: &str = "2^23";

async fn download_continues_past_the_key_limit(layer: RecordLayer) {
    if !are_installed(&[("javac", "default-jdk-headless")]) {
        return;
    }
    let certs = Certs::generate().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = configuration(server.local_addr().unwrap(), "", NO_PROBES);
    let config = format!("[process]\ntls_records = \"{layer}\"\n{config}");
    let front = Front::start_from(certs, &config).await;
    tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        let piece = pattern(0, 1 << 20);
        for _ in 0..BYTES / piece.len() {
            stream.write_all(&piece).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });

    let [ca, cert, key] = front.files();
    let p12 = front.certs.path("client1.p12");
    let mut export = tool("openssl");
    export.args(["pkcs12", "-export", "-passout", "pass:changeit", "-in"]);
    export
        .arg(cert)
        .arg("-inkey")
        .arg(key)
        .arg("-out")
        .arg(&p12);
    run(&mut export).await.ok();
    let mut java = tool("java");
    java.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    java.arg(repository().join("crates/leastconn-lb/tests/real_programs/Download.java"));
    java.arg(front.port()).arg(&p12).arg(ca);
    java.args([&BYTES.to_string(), LIMIT]);
    let ended = run(&mut java).await.ok();
    assert_eq!(ended.stdout.trim(), BYTES.to_string(), "{ended:?}");
    let records = front.finish(1).await;
    assert_eq!(records[0]["tls_version"], "1.3", "{records:?}");
}
