//! A minimal client of the Redis protocol (RESP2).

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Integer(i64),
    Text(String),
    Error(String),
    Array(Vec<Self>),
}

impl Reply {
    /// The text of a reply.
    ///
    /// # Panics
    /// If the reply is not a text.
    pub fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            other => panic!("not a text: {other:?}"),
        }
    }

    /// The texts of an array.
    ///
    /// # Panics
    /// If the reply is not an array of texts.
    pub fn texts(self) -> Vec<String> {
        match self {
            Self::Array(replies) => replies.into_iter().map(Self::text).collect(),
            other => panic!("not an array: {other:?}"),
        }
    }

    /// # Panics
    /// If the reply is not an integer.
    pub fn integer(self) -> i64 {
        match self {
            Self::Integer(integer) => integer,
            other => panic!("not an integer: {other:?}"),
        }
    }
}

/// Sends a command on a new connection.
pub(super) async fn command(
    address: SocketAddr,
    password: Option<&str>,
    command: &[&str],
) -> Result<Reply, String> {
    let exchange = async {
        let mut stream = BufStream::new(TcpStream::connect(address).await?);
        if let Some(password) = password {
            send(&mut stream, &["AUTH", password]).await?;
        }
        send(&mut stream, command).await
    };
    let timed = tokio::time::timeout(std::time::Duration::from_secs(5), exchange).await;
    let reply: std::io::Result<Reply> = timed.map_err(|_| "no reply within 5 s".to_owned())?;
    reply.map_err(|error| error.to_string())
}

async fn send(stream: &mut BufStream<TcpStream>, command: &[&str]) -> std::io::Result<Reply> {
    let mut request = format!("*{}\r\n", command.len());
    for argument in command {
        request.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
    }
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    read(stream).await
}

async fn read(stream: &mut BufStream<TcpStream>) -> std::io::Result<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let line = line.trim_end();
    let invalid = || std::io::Error::other(format!("reply {line:?}"));
    let kind = line.chars().next().ok_or_else(invalid)?;
    let rest = line.get(1..).ok_or_else(invalid)?;
    let number = || rest.parse::<i64>().map_err(|_| invalid());
    Ok(match kind {
        '+' => Reply::Text(rest.to_owned()),
        '-' => Reply::Error(rest.to_owned()),
        ':' => Reply::Integer(number()?),
        '$' | '*' if number()? < 0 => Reply::Nil,
        '$' => {
            let length = usize::try_from(number()?).map_err(|_| invalid())?;
            let mut text = vec![0; length + 2];
            stream.read_exact(&mut text).await?;
            text.truncate(length);
            Reply::Text(String::from_utf8_lossy(&text).into_owned())
        }
        '*' => {
            let mut replies = Vec::new();
            for _ in 0..number()? {
                replies.push(Box::pin(read(stream)).await?);
            }
            Reply::Array(replies)
        }
        _ => return Err(invalid()),
    })
}
