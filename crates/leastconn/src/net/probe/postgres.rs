//! PostgreSQL health check: evaluates the first answer to a startup message.

use tokio::io::AsyncWriteExt;

use super::{Excerpt, ProbeError, Stream, drain, read_until};

/// Protocol version 3.0.
const PROTOCOL: u32 = 196_608;

const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// `SQLSTATE` codes of errors that affect all clients: the server is starting, stopping or
/// recovering (`cannot_connect_now`), or has no free connection (`too_many_connections`).
const UNAVAILABLE: [&[u8]; 2] = [b"57P03", b"53300"];

pub(super) async fn check<S: Stream>(
    stream: &mut S,
    user: &str,
    answer: &mut Vec<u8>,
) -> Result<(), ProbeError> {
    stream.write_all(&startup(user)).await?;
    stream.flush().await?;
    let message = read_until(stream, answer, |answer| {
        let (header, rest) = answer.split_first_chunk::<5>()?;
        let [kind, a, b, c, d] = *header;
        // The length includes the length field itself.
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        Some((kind, rest.get(..length.checked_sub(4)?)?.to_vec()))
    });
    match message.await? {
        // The server accepts the user without a password. Terminate the session.
        Some((b'R', request)) if request == [0; 4] => {
            stream.write_all(&TERMINATE).await?;
            stream.flush().await?;
            drain(stream).await;
            Ok(())
        }
        // The server requests a password. Close the connection.
        Some((b'R', _)) => Ok(()),
        Some((b'E', fields)) => match unavailable(&fields) {
            None => Ok(()),
            Some(message) => Err(ProbeError::server(message)),
        },
        _ => Err(ProbeError::Unexpected(Excerpt::of(answer))),
    }
}

fn startup(user: &str) -> Vec<u8> {
    let parameters = [
        "user",
        user,
        "database",
        "postgres",
        "application_name",
        "leastconn health check",
    ];
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for text in parameters {
        body.extend(text.bytes().chain([0]));
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or_default();
    let mut startup = length.to_be_bytes().to_vec();
    startup.extend(body);
    startup
}

/// Returns the error message, or `None` if the error does not affect all clients. Each field is a
/// letter followed by a NUL-terminated text.
fn unavailable(fields: &[u8]) -> Option<&[u8]> {
    let field = |letter: u8| {
        let mut all = fields.split(|&byte| byte == 0);
        all.find_map(|field| field.strip_prefix(&[letter]))
    };
    let code = field(b'C')?;
    UNAVAILABLE
        .contains(&code)
        .then(|| field(b'M').unwrap_or(code))
}
