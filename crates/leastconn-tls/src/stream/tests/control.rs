//! Answers to key updates, and limits on key updates.

use super::*;

#[tokio::test]
async fn key_update_request_is_answered_without_data() {
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        let (mut socket, mut session) = client.into_inner();
        within(LIMIT, "the answer", async {
            session.refresh_traffic_keys().unwrap();
            let mut request = Vec::new();
            session.write_tls(&mut request).unwrap();
            socket.write_all(&request).await.unwrap();
            let mut nothing = [0; 10];
            let mut header = [0; 5];
            tokio::select! {
                read = server.read(&mut nothing) => panic!("{read:?}"),
                answered = socket.read_exact(&mut header) => drop(answered.unwrap()),
            }
            // The payload of a key update consists of a 5-byte message, a content type and a tag.
            assert_eq!(header, [23, 3, 3, 0, 22]);
        })
        .await;
    }
}

/// The answer must be sent when the socket drains, even if the server writes nothing more.
#[tokio::test]
async fn key_update_is_answered_when_socket_drains() {
    const MOMENT: std::time::Duration = std::time::Duration::from_millis(300);
    for own in BOTH {
        let (mut server, client) = pair(own, any_suite(), None).await;
        let megabyte = vec![0; 1 << 20];
        let mut written = 0;
        while let Ok(count) = tokio::time::timeout(MOMENT, server.write(&megabyte)).await {
            written += count.unwrap();
        }
        let (mut socket, mut session) = client.into_inner();
        session.refresh_traffic_keys().unwrap();
        let mut request = Vec::new();
        session.write_tls(&mut request).unwrap();
        socket.write_all(&request).await.unwrap();
        let mut nothing = [0; 10];
        let receiving = async {
            let mut plaintext = 0;
            let mut buffer = vec![0; 1 << 16];
            // Read until all data and a record with the length of a key update have been received.
            let mut headers = Headers::default();
            while plaintext < written || headers.last != 22 {
                let count = socket.read(&mut buffer).await.unwrap();
                headers.pass(&buffer[..count]);
                let mut bytes = &buffer[..count];
                while !bytes.is_empty() {
                    session.read_tls(&mut bytes).unwrap();
                    plaintext += session
                        .process_new_packets()
                        .unwrap()
                        .plaintext_bytes_to_read();
                    let mut sink = Vec::new();
                    let _ = io::Read::read_to_end(&mut session.reader(), &mut sink);
                }
            }
            assert_eq!(plaintext, written);
        };
        within(LIMIT, "the answer", async {
            tokio::select! {
                read = server.read(&mut nothing) => panic!("{read:?}"),
                () = receiving => {}
            }
        })
        .await;
    }
}

#[derive(Default)]
struct Headers {
    header: Vec<u8>,
    length: usize,
    left: usize,
    /// Payload length of the last complete record.
    last: usize,
}

impl Headers {
    fn pass(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.left == 0 {
                self.header.push(byte);
                if let [_, _, _, high, low] = self.header[..] {
                    self.length = usize::from(u16::from_be_bytes([high, low]));
                    self.left = self.length;
                    self.header.clear();
                }
                continue;
            }
            self.left -= 1;
            if self.left == 0 {
                self.last = self.length;
            }
        }
    }
}

/// The client behaves like a JDK at its key limit: it requests new keys with each record that
/// it reads.
#[tokio::test]
async fn frequent_key_update_requests_do_not_end_download() {
    const DOWNLOAD: usize = 24 << 20;
    for own in BOTH {
        let (server, mut client) = pair(own, any_suite(), None).await;
        let (mut server_reads, mut server_writes) = tokio::io::split(server);
        let data = pattern(0, DOWNLOAD);
        let sending = async {
            server_writes.write_all(&data).await.unwrap();
            server_writes.shutdown().await.unwrap();
        };
        let receiving = async {
            let mut seen = 0;
            let mut requests = 0;
            let mut buffer = vec![0; 16 * 1024];
            loop {
                let count = client.read(&mut buffer).await.unwrap();
                if count == 0 {
                    break;
                }
                assert!(buffer[..count] == pattern(seen as u64, count), "at {seen}");
                seen += count;
                // Start after the first few megabytes, when a lot of data is in flight.
                if seen > 4 << 20 && requests < 1000 {
                    client.get_mut().1.refresh_traffic_keys().unwrap();
                    client.flush().await.unwrap();
                    requests += 1;
                }
            }
            assert_eq!((seen, requests), (DOWNLOAD, 1000));
            client.shutdown().await.unwrap();
        };
        let mut nothing = [0; 10];
        let end = within(LIMIT, "the download", async {
            tokio::join!(sending, receiving, server_reads.read(&mut nothing)).2
        })
        .await;
        assert_eq!(end.unwrap(), 0, "own {own}");
    }
}

/// The burst is 100 updates. Each of the 30 updates beyond the burst takes 10 ms.
#[tokio::test]
async fn key_updates_beyond_the_burst_are_delayed() {
    const MANY: usize = 130;
    // A little less than 300 ms, because the first update restarts the interval.
    const DELAY: std::time::Duration = std::time::Duration::from_millis(280);
    for own in BOTH {
        let (mut server, mut client) = pair(own, any_suite(), None).await;
        let start = leastconn::net::now();
        within(LIMIT, "key updates", async {
            for _ in 0..MANY {
                client.get_mut().1.refresh_traffic_keys().unwrap();
            }
            client.write_all(b"behind").await.unwrap();
            client.flush().await.unwrap();
            let mut seen = [0; 6];
            server.read_exact(&mut seen).await.unwrap();
            assert_eq!(&seen, b"behind");
        })
        .await;
        let took = leastconn::net::now() - start;
        assert!(took >= DELAY, "{took:?}");
    }
}
