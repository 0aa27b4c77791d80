//! Without `resumption`, no session is resumed: each handshake verifies the chain, its
//! expiry and its revocation status.

use leastconn_testkit::Upstream;
use rustls::HandshakeKind;

use crate::support::{CLIENT1, Records, Site, both_record_layers, talk};

both_record_layers! {
    #[tokio::test]
    resuming_client_gets_a_full_handshake,
}

async fn resuming_client_gets_a_full_handshake(records: Records) {
    let web = Upstream::named("web1").await;
    let lb = Site::usual(&[&web]).records(records).start().await;
    let client = lb.client(CLIENT1).with_resumption();
    for client in [client.clone().tls12(), client.tls13()] {
        for _ in 0..2 {
            let mut stream = client.connect(lb.main()).await.unwrap();
            // Any session tickets arrive before the greeting.
            talk(&mut stream).await.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(session.tls13_tickets_received(), 0);
        }
    }
    lb.wait_records(4).await;
    lb.quiet().await;
}
