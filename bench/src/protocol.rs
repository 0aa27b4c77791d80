//! Protocol between the load generator and the servers. The first byte of a request selects the
//! operation, so that one server handles every kind of load.
//!
//! | request | server |
//! |---|---|
//! | `E` | echoes all following bytes |
//! | `D`, count (u64, big endian) | sends that many bytes, then reads the next request |
//! | `B` | sends bytes until the connection closes, at the lowest scheduling priority |
//! | `U`, count (u64, big endian) | reads that many bytes, responds `A`, then reads the next request |

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// Response to a complete upload.
pub const ACKNOWLEDGED: u8 = b'A';

/// Byte count of a stream that ends only when the connection ends.
pub const ENDLESS: u64 = u64::MAX;

/// A client's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Echo,
    /// Download: the server sends this many bytes.
    Download(u64),
    /// Download at the lowest priority: the server sends bytes until the connection closes.
    Background,
    /// Upload: the client sends this many bytes.
    Upload(u64),
}

impl Request {
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

    /// Reads the next request; `None` at the end of the stream.
    ///
    /// # Errors
    /// I/O errors of the connection, and `InvalidData` for an invalid request.
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
                format!("invalid request type {other:#04x}"),
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
