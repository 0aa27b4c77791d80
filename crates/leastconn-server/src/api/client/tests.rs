use std::os::unix::net::UnixListener as StdListener;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};

use super::*;

/// Responds to one request with `bytes`. Returns the client's result, and the request.
async fn answering(bytes: &'static [u8]) -> (Result<Status, ClientError>, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::at_socket(&path).within(leastconn_testkit::DEADLINE);
    let answer = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(bytes).await.unwrap();
        String::from_utf8(asked).unwrap()
    };
    tokio::join!(client.status(), answer)
}

#[tokio::test]
async fn connect_errors_suggest_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| Client::at_socket(&dir.path().join(name));
    let missing = at("missing").status().await.unwrap_err().to_string();
    assert!(missing.contains("there is no socket"), "{missing}");
    drop(StdListener::bind(dir.path().join("stale")).unwrap());
    let stale = at("stale").status().await.unwrap_err().to_string();
    assert!(stale.contains("exited without removing it"), "{stale}");
    std::fs::write(dir.path().join("file"), "").unwrap();
    let file = at("file").status().await.unwrap_err().to_string();
    assert!(file.contains("is not a socket"), "{file}");
    let long = at(&"x".repeat(108)).status().await.unwrap_err().to_string();
    assert!(long.contains("the limit is 107 bytes"), "{long}");
    let denied = io::Error::from(io::ErrorKind::PermissionDenied);
    let denied = unreachable(at("x").target(), &denied);
    assert!(denied.contains("only root and the user"), "{denied}");
}

#[tokio::test]
async fn invalid_response_is_an_error() {
    let (answer, asked) =
        answering(b"HTTP/1.1 404 Not Found\r\ncontent-length: 16\r\n\r\n{\"error\":\"none\"}")
            .await;
    assert!(
        asked.starts_with("GET /api/v1/status HTTP/1.1\r\n"),
        "{asked}"
    );
    match answer {
        Err(ClientError::Refused { status, message }) => {
            assert_eq!((status.as_u16(), &*message), (404, "none"));
        }
        other => panic!("{other:?}"),
    }
    for (bytes, says) in [
        (&b"SSH-2.0-OpenSSH\r\n"[..], "invalid response from"),
        (b"", "invalid response from"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{",
            "invalid response from",
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
            "cannot parse the response",
        ),
        (
            b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\nno",
            "status 500",
        ),
    ] {
        let error = answering(bytes).await.0.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn unanswered_request_times_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let client = Client::at_socket(&path).within(Duration::from_millis(50));
    match client.status().await {
        Err(error @ ClientError::TimedOut(..)) => {
            assert!(error.to_string().contains("within 50ms"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn name_is_encoded_as_one_path_segment() {
    assert_eq!(segment("web-1_a"), "web-1_a");
    assert_eq!(segment("a/b c%.é"), "a%2Fb%20c%25%2E%C3%A9");
}
