//! Redis and Valkey health check: `PING`.

use tokio::io::AsyncWriteExt;

use super::{Excerpt, ProbeError, Stream, drain, read_until};

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
const QUIT: &[u8] = b"*1\r\n$4\r\nQUIT\r\n";

/// Answers of a healthy server, including errors due to missing authentication or permission.
const WORKS: [&[u8]; 3] = [b"+PONG", b"-NOAUTH", b"-NOPERM"];

pub(super) async fn check<S: Stream>(
    stream: &mut S,
    answer: &mut Vec<u8>,
) -> Result<(), ProbeError> {
    stream.write_all(PING).await?;
    stream.flush().await?;
    let line = read_until(stream, answer, |answer| {
        let end = answer.windows(2).position(|window| window == b"\r\n")?;
        Some(answer[..end].to_vec())
    });
    let line = line.await?;
    match line.as_deref() {
        Some(line) if WORKS.iter().any(|word| line.starts_with(word)) => {
            stream.write_all(QUIT).await?;
            stream.flush().await?;
            drain(stream).await;
            Ok(())
        }
        Some([b'-', error @ ..]) => Err(ProbeError::server(error)),
        _ => Err(ProbeError::Unexpected(Excerpt::of(answer))),
    }
}
