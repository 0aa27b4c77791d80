//! A ClientHello that is split into many TCP segments or TLS records is handled like an
//! unsplit ClientHello.

use std::net::SocketAddr;

use leastconn_testkit::{Cert, FaultProxy, Faults, TestCa, Upstream, client::read_to_close};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::support::{CLIENT1, Records, Site, both_record_layers, refused, talk, tcp};

both_record_layers! {
    #[tokio::test]
    client_hello_in_one_byte_segments_is_accepted,
    #[tokio::test]
    client_hello_in_one_byte_records_is_accepted,
}

async fn client_hello_in_one_byte_segments_is_accepted(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let slices = Faults {
        slice: Some(1),
        ..Faults::default()
    };
    let proxy = FaultProxy::start(lb.main(), slices.clone(), slices).await;
    let stranger = lb.client_with(&TestCa::new("other").leaf(CLIENT1).build());
    assert!(refused(&stranger, proxy.addr()).await.is_some());
    lb.expect_record(0, "untrusted_certificate").await;
    assert_eq!(web.accepted(), 0);
    let stream = lb.client(CLIENT1).connect(proxy.addr()).await.unwrap();
    talk(stream).await.unwrap();
    lb.expect_record(1, "ok").await;
    lb.quiet().await;
}

/// A transport to the balancer that splits the first TLS record into records of one byte
/// each.
fn fragmenting(to: SocketAddr) -> DuplexStream {
    let (client, mut middle) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let mut header = [0; 5];
        middle.read_exact(&mut header).await?;
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        middle.read_exact(&mut hello).await?;
        let records: Vec<u8> = hello
            .iter()
            .flat_map(|byte| [header[0], header[1], header[2], 0, 1, *byte])
            .collect();
        let mut socket = tcp(to).await;
        socket.write_all(&records).await?;
        tokio::io::copy_bidirectional(&mut middle, &mut socket).await
    });
    client
}

async fn client_hello_in_one_byte_records_is_accepted(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let show = |cert: &Cert| lb.client_with(cert);
    for (n, client) in [
        show(&lb.ca().leaf(CLIENT1).build()).tls12(),
        show(&lb.ca().leaf(CLIENT1).build()).tls13(),
    ]
    .into_iter()
    .enumerate()
    {
        let stream = client
            .handshake(fragmenting(lb.main()), "localhost")
            .await
            .unwrap();
        talk(stream).await.unwrap();
        assert_eq!(lb.expect_record(n, "ok").await["sni"], "localhost");
    }
    // A fragmented ClientHello does not bypass authentication.
    let anonymous = leastconn_testkit::TlsClient::new(lb.ca(), None);
    if let Ok(mut stream) = anonymous
        .handshake(fragmenting(lb.main()), "localhost")
        .await
    {
        assert!(read_to_close(&mut stream).await.is_err());
    }
    lb.expect_record(2, "no_certificate").await;
    assert_eq!(web.accepted(), 2);
    lb.quiet().await;
}
