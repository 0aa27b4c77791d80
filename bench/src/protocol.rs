//! What the load tool says to the bench's servers: the first byte of a request
//! says what the server is to do, so that one server serves every kind of load.
//!
//! | request | the server |
//! |---|---|
//! | `E` | sends back every byte that follows, until the end |
//! | `D`, count (u64, big endian) | sends that many bytes, then takes the next request |
//! | `B` | sends bytes until the end, in the background: only when nothing else wants the CPU |
//! | `U`, count (u64, big endian) | takes that many bytes, answers `A`, then takes the next request |

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The answer to a complete upload.
pub const ACKNOWLEDGED: u8 = b'A';

/// So many bytes that the stream ends only when the connection does.
pub const ENDLESS: u64 = u64::MAX;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Everything back.
    Echo,
    /// So many bytes from the server.
    Download(u64),
    /// Bytes until the connection ends, whenever the server has nothing else to do.
    Background,
    /// So many bytes to the server.
    Upload(u64),
}

impl Request {
    /// As it is sent.
    pub fn encode(self) -> Vec<u8> {
        let (kind, count) = match self {
            Self::Echo => return vec![b'E'],
            Self::Background => return vec![b'B'],
            Self::Download(count) => (b'D', count),
            Self::Upload(count) => (b'U', count),
        };
        let mut bytes = vec![kind];
        bytes.extend(count.to_be_bytes());
        bytes
    }

    /// Reads the next one; `None` when the client has ended instead.
    ///
    /// # Errors
    /// Of the connection, or `InvalidData` for what is no request.
    pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Option<Self>> {
        let mut kind = [0];
        if reader.read(&mut kind).await? == 0 {
            return Ok(None);
        }
        match kind[0] {
            b'E' => Ok(Some(Self::Echo)),
            b'B' => Ok(Some(Self::Background)),
            b'D' => Ok(Some(Self::Download(reader.read_u64().await?))),
            b'U' => Ok(Some(Self::Upload(reader.read_u64().await?))),
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("no request starts with byte {other:#04x}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_roundtrip() {
        let all = [
            Request::Download(7),
            Request::Upload(ENDLESS),
            Request::Background,
            Request::Echo,
        ];
        let bytes: Vec<u8> = all.iter().flat_map(|request| request.encode()).collect();
        let mut reader = &bytes[..];
        for request in all {
            assert_eq!(Request::read(&mut reader).await.unwrap(), Some(request));
        }
        assert_eq!(Request::read(&mut reader).await.unwrap(), None);
    }

    #[tokio::test]
    async fn invalid_requests_are_refused() {
        let error = Request::read(&mut &b"GET / HTTP/1.1"[..])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = Request::read(&mut &b"D\0\0"[..]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
