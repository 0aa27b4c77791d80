//! ClientHellos that never end, and data after complete ClientHellos.

use leastconn_testkit::client::read_to_close;
use leastconn_testkit::{DEADLINE, Upstream, eventually};
use tokio::io::AsyncWriteExt;

use crate::support::{Records, Site, both_record_layers, client_hello, tcp};

both_record_layers! {
    #[tokio::test]
    unfinished_client_hello_holds_at_most_70_kib,
    #[tokio::test]
    garbage_after_a_client_hello_is_refused,
}

/// A ClientHello of the maximum accepted length, in full records, without its last bytes.
fn unfinished() -> Vec<u8> {
    const MESSAGE: usize = 0x8000;
    let mut message = vec![1, 0, 0x80, 0];
    message.resize(MESSAGE, 0);
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    };
    message.chunks(1 << 14).flat_map(record).collect()
}

async fn unfinished_client_hello_holds_at_most_70_kib(records: Records) {
    const CONNECTIONS: u64 = 200;
    let web = Upstream::named("web1").await;
    let lb = Site::long_handshake_timeout(&[&web])
        .records(records)
        .start()
        .await;
    let bytes = unfinished();
    let open = async || {
        let mut stream = tcp(lb.main()).await;
        stream.write_all(&bytes).await.unwrap();
        stream
    };
    // The first connection also allocates memory that later connections share.
    let mut held = vec![open().await];
    lb.wait_metric(
        "leastconn_handshakes_active{listener=\"main\"}",
        1.0,
        DEADLINE,
    )
    .await;
    let before = lb.resident_kib();
    for _ in 0..CONNECTIONS {
        held.push(open().await);
    }
    // Wait until the balancer has read all bytes. Before that, the measurement would be too
    // low.
    let each = eventually(DEADLINE, || async {
        let each = (lb.resident_kib() - before) / CONNECTIONS;
        if each >= 32 {
            Ok(each)
        } else {
            Err(format!("{each} KiB"))
        }
    });
    let each = each.await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let each = each.max((lb.resident_kib() - before) / CONNECTIONS);
    assert!(each <= 70, "each unfinished ClientHello uses {each} KiB");
    drop(held);
    lb.quiet().await;
}

async fn garbage_after_a_client_hello_is_refused(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::long_handshake_timeout(&[&web])
        .records(records)
        .start()
        .await;
    let hello = client_hello(lb.ca());
    let mut longer = hello.clone();
    // Make the record one byte longer than the message.
    longer[4] += 1;
    longer.push(0);
    let followed_by = |more: &[u8]| [&hello, more].concat();
    let cases = [
        (followed_by(b"GET / HTTP/1.1\r\n\r\n"), &b""[..]),
        (followed_by(b"X"), b""),
        (followed_by(&[23, 9, 9, 0, 20]), b""),
        (longer, b""),
        // The record starts a message of 64 KiB.
        (vec![22, 3, 1, 0, 4, 1, 0, 0xff, 0xff], b""),
        (hello.clone(), b"GET / HTTP/1.1\r\n\r\n"),
        (hello.clone(), &[23, 3, 3, 0xff, 0xff]),
    ];
    for (n, (sent, later)) in cases.into_iter().enumerate() {
        let mut stream = tcp(lb.main()).await;
        stream.write_all(&sent).await.unwrap();
        if !later.is_empty() {
            // Wait for the server's first flight.
            stream.readable().await.unwrap();
            stream.write_all(later).await.unwrap();
        }
        let answer = read_to_close(&mut stream).await.unwrap_or_default();
        assert!(later.is_empty() || answer.len() > 7);
        lb.expect_record(n, "handshake_failed").await;
    }
    assert_eq!(web.accepted(), 0);
    lb.quiet().await;
}
