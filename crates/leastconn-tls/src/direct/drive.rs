//! A stream over an in-memory socket, with a client that behaves arbitrarily, for property tests
//! and fuzzing.

use std::{pin::Pin, sync::LazyLock, task::Poll};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

use super::{
    DirectStream,
    memory::{Socket, context},
};
use crate::record::{content, drive::pair};

/// The runtime that drives the pause timer.
pub(crate) static RUNTIME: LazyLock<Option<Runtime>> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().ok());

/// A sequence of bytes that depend on their position, so that reordering is detected.
pub(crate) fn counted(from: usize, count: usize) -> Vec<u8> {
    static NUMBERS: LazyLock<Vec<u8>> = LazyLock::new(|| (0..251).collect::<Vec<_>>().repeat(300));
    let mut bytes = Vec::with_capacity(count);
    while bytes.len() < count {
        let numbers = &NUMBERS[(from + bytes.len()) % 251..];
        bytes.extend_from_slice(&numbers[..numbers.len().min(count - bytes.len())]);
    }
    bytes
}

/// Performs the operations that `data` encodes. Each side must read exactly the bytes that
/// the other side sent in valid records, in order, until an error ends the connection.
pub(crate) fn drive(data: &[u8]) {
    let Some((&setting, mut data)) = data.split_first() else {
        return;
    };
    let Ok((mut client, records)) = pair(setting & 1 > 0, setting & 2 > 0) else {
        return;
    };
    let wire = Socket::default();
    // Only reads are split into pieces: splitting writes would take too long.
    wire.0.borrow_mut().piece = usize::from(setting >> 2) * 97;
    let mut stream = DirectStream::new(wire.clone(), records, &[]);
    let _entered = RUNTIME.as_ref().map(Runtime::enter);
    let (mut sent, mut read) = (Vec::new(), Vec::new());
    let (mut to_write, mut written, mut back) = (0, 0, Vec::new());
    // Maximum number of records without data. A higher number can cause a pause or a refusal.
    const EMPTY: usize = 30;
    let mut empty = 0;
    // Whether the client sent an invalid record, which the stream may refuse.
    let mut odd = false;
    let mut given_up = false;
    while let [op, length, rest @ ..] = data {
        data = rest;
        let size = usize::from(*length);
        let many = size * (1 + usize::from(op >> 3) * 8);
        match op & 7 {
            // A record with data, possibly longer than allowed.
            0 => {
                let many = many.min(super::MAX_PLAINTEXT + 100);
                let body = counted(sent.len(), many);
                odd |= many > super::MAX_PLAINTEXT;
                empty += usize::from(many == 0);
                let Ok(record) = client.seal(content::DATA, &body) else {
                    return;
                };
                if !odd {
                    sent.extend_from_slice(&body);
                }
                wire.0.borrow_mut().inbound.extend(record);
            }
            // A record of any kind, or bytes that are not a record.
            1 | 2 => {
                let (body, rest) = rest.split_at(rest.len().min(size));
                data = rest;
                let kind = content::CHANGE_CIPHER_SPEC + (op >> 3 & 3);
                let record = if op & 7 == 1 {
                    client.seal(kind, body).unwrap_or_default()
                } else {
                    body.to_vec()
                };
                if op & 7 == 1 && kind == content::DATA {
                    empty += usize::from(body.is_empty());
                    if !odd {
                        sent.extend_from_slice(body);
                    }
                } else {
                    odd |= !record.is_empty();
                }
                wire.0.borrow_mut().inbound.extend(record);
            }
            // A key update.
            3 if setting & 1 > 0 => {
                let update = [24, 0, 0, 1, op >> 3 & 1];
                let Ok(record) = client.seal(content::HANDSHAKE, &update) else {
                    return;
                };
                wire.0.borrow_mut().inbound.extend(record);
                let _ = client.rekey();
                empty += 1;
            }
            4 => wire.0.borrow_mut().readable += many,
            5 => wire.0.borrow_mut().writable += many,
            6 => {
                let mut space = vec![0; many];
                let mut buffer = ReadBuf::new(&mut space);
                match Pin::new(&mut stream).poll_read(&mut context(), &mut buffer) {
                    Poll::Ready(Err(_)) => given_up = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
                read.extend_from_slice(buffer.filled());
            }
            _ => {
                // Offer up to 70,000 bytes, which can be more than the stream accepts in one call.
                to_write = (to_write + many).min(written + 70_000);
                let left = counted(written, to_write - written);
                if let Poll::Ready(count) = Pin::new(&mut stream).poll_write(&mut context(), &left)
                {
                    match count {
                        Ok(count) => written += count,
                        // A write fails only after a read found a violation. That read may
                        // have returned plaintext, and the error is then still in `failed`.
                        Err(_) => assert!(given_up || stream.state.failed.is_some()),
                    }
                }
            }
        }
    }
    wire.0.borrow_mut().readable = usize::MAX / 2;
    wire.0.borrow_mut().writable = usize::MAX / 2;
    wire.0.borrow_mut().ended = true;
    let mut space = vec![0; 1 << 15];
    loop {
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut stream).poll_read(&mut context(), &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => break,
            Poll::Ready(Ok(())) => read.extend_from_slice(buffer.filled()),
            Poll::Ready(Err(_)) => break,
            Poll::Pending => {
                assert!(
                    empty > EMPTY,
                    "the stream waits although everything has arrived"
                );
                break;
            }
        }
    }
    if odd || empty > EMPTY {
        assert!(sent.starts_with(&read) || read.starts_with(&sent));
    } else {
        assert!(read == sent);
    }
    let shut = Pin::new(&mut stream).poll_shutdown(&mut context());
    assert!(matches!(shut, Poll::Ready(Ok(()))));
    // All records from the stream must open in order, with new keys after each key update.
    let came = std::mem::take(&mut wire.0.borrow_mut().outbound);
    let Ok(seen) = client.back(&came) else {
        panic!("a sent record does not open");
    };
    for (kind, plaintext) in seen {
        if kind == content::DATA {
            back.extend(plaintext);
        }
    }
    assert!(back == counted(0, written));
}
