//! `servers`: upstream servers for any balancer, all on one thread. The servers must use
//! little CPU time, because they share a CPU with the load. Background streams run on a
//! separate thread at the lowest scheduling priority.

use std::{
    cell::RefCell,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream as StdTcpStream},
    sync::LazyLock,
    time::Duration,
};

use clap::Args;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{Receiver, Sender, channel},
    time::sleep,
};

use crate::{
    machine,
    protocol::{ACKNOWLEDGED, ENDLESS, Request},
};

/// Bytes per read or write.
const CHUNK: usize = 128 * 1024;

static ZEROS: [u8; CHUNK] = [0; CHUNK];

thread_local! {
    /// The buffer is per thread rather than per connection, because thousands of connections may
    /// be open.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// Arguments of `servers`.
#[derive(Args, Debug)]
pub struct ServersArgs {
    /// Number of servers, on ports chosen by the kernel.
    #[arg(long, value_name = "N", default_value_t = 4, conflicts_with = "ports")]
    count: u16,
    /// Start one server on each of these ports; 0: chosen by the kernel.
    #[arg(long, value_name = "PORT,…", value_delimiter = ',')]
    ports: Vec<u16>,
    /// Address to listen on.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Pin the thread to this CPU.
    #[arg(long, value_name = "CPU")]
    cpu: Option<usize>,
    /// Exit when standard input is closed, for example because the parent died.
    #[arg(long)]
    with_stdin: bool,
}

/// Runs the servers until SIGINT or SIGTERM. Prints the line `ready ADDRESS…` once they are
/// listening.
///
/// # Errors
/// If an address cannot be bound.
pub fn run(args: &ServersArgs) -> io::Result<()> {
    machine::raise_open_files();
    if let Some(cpu) = args.cpu {
        machine::pin(&[cpu])?;
    }
    machine::block_on(async {
        let ports = if args.ports.is_empty() {
            vec![0; args.count.into()]
        } else {
            args.ports.clone()
        };
        let addresses = start(args.bind, &ports).await?;
        let list: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut out = io::stdout();
        writeln!(out, "ready {}", list.join(" "))?;
        out.flush()?;
        tokio::select! {
            _ = machine::shutdown_signal() => {}
            () = stdin_closed(), if args.with_stdin => {}
        }
        Ok(())
    })
}

async fn stdin_closed() {
    let mut byte = [0];
    while let Ok(1..) = tokio::io::stdin().read(&mut byte).await {}
}

/// Starts one server per port, in the thread's `LocalSet`.
///
/// # Errors
/// If an address cannot be bound.
pub async fn start(bind: IpAddr, ports: &[u16]) -> io::Result<Vec<SocketAddr>> {
    let mut addresses = Vec::with_capacity(ports.len());
    for &port in ports {
        let listener = TcpListener::bind((bind, port)).await?;
        addresses.push(listener.local_addr()?);
        tokio::task::spawn_local(accept(listener));
    }
    Ok(addresses)
}

async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(async move {
                    // Errors caused by clients are not reported.
                    let _ = serve(stream).await;
                });
            }
            // The process is probably out of file descriptors. Retry later.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(request) = Request::read(&mut stream).await? {
        match request {
            Request::Echo => return echo(&mut stream).await,
            Request::Background => return in_background(stream),
            Request::Download(count) => send(&mut stream, count).await?,
            Request::Upload(count) => {
                let mut left = count;
                while left > 0 {
                    let want = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
                    let got = read_some(&stream, want, |_| ()).await?;
                    if got.0 == 0 {
                        return Ok(());
                    }
                    left -= got.0 as u64;
                }
                stream.write_all(&[ACKNOWLEDGED]).await?;
            }
        }
    }
    Ok(())
}

async fn send(stream: &mut TcpStream, count: u64) -> io::Result<()> {
    let mut left = count;
    while left > 0 {
        let chunk = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        stream.write_all(&ZEROS[..chunk]).await?;
        left -= chunk as u64;
    }
    Ok(())
}

/// The thread for background streams. The first background stream starts it.
static BACKGROUND: LazyLock<io::Result<Sender<StdTcpStream>>> = LazyLock::new(|| {
    let (sender, receiver) = channel(64);
    std::thread::Builder::new()
        .name("background".to_owned())
        .spawn(|| background(receiver))?;
    Ok(sender)
});

fn in_background(stream: TcpStream) -> io::Result<()> {
    let error = |error: &dyn std::fmt::Display| {
        io::Error::other(format!("cannot start a background stream: {error}"))
    };
    let sender = BACKGROUND.as_ref().map_err(|cause| error(cause))?;
    sender
        .try_send(stream.into_std()?)
        .map_err(|cause| error(&cause))
}

fn background(mut streams: Receiver<StdTcpStream>) -> io::Result<()> {
    machine::lower_priority()?;
    machine::block_on(async {
        while let Some(stream) = streams.recv().await {
            let mut stream = TcpStream::from_std(stream)?;
            tokio::task::spawn_local(async move { send(&mut stream, ENDLESS).await });
        }
        Ok(())
    })
}

async fn echo(stream: &mut TcpStream) -> io::Result<()> {
    loop {
        // Write from the scratch buffer, and copy only the bytes that the socket does not accept.
        let (count, left) = read_some(stream, CHUNK, |bytes| {
            let taken = stream.try_write(bytes).unwrap_or(0);
            bytes[taken..].to_vec()
        })
        .await?;
        if count == 0 {
            return Ok(());
        }
        stream.write_all(&left).await?;
    }
}

/// Reads at most `want` bytes and passes them to `see`. Returns the number of bytes and the result
/// of `see`.
async fn read_some<T>(
    stream: &TcpStream,
    want: usize,
    see: impl Fn(&[u8]) -> T,
) -> io::Result<(usize, T)> {
    loop {
        stream.readable().await?;
        let read = SCRATCH.with_borrow_mut(|scratch| {
            let count = stream.try_read(&mut scratch[..want])?;
            Ok((count, see(&scratch[..count])))
        });
        match read {
            Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn background_stream_ends_with_its_client() {
        machine::block_on(async {
            let addresses = start(Ipv4Addr::LOCALHOST.into(), &[0]).await.unwrap();
            let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
            stream.write_all(&Request::Background.encode()).await?;
            let mut got = vec![1; CHUNK * 3];
            stream.read_exact(&mut got).await?;
            assert!(got.iter().all(|byte| *byte == 0));
            io::Result::Ok(())
        })
        .unwrap();
    }

    #[test]
    fn server_handles_every_request_kind() {
        machine::block_on(async {
            let addresses = start(Ipv4Addr::LOCALHOST.into(), &[0]).await.unwrap();
            let mut stream = TcpStream::connect(addresses[0]).await.unwrap();
            let size = CHUNK * 3 + 1;

            let download = Request::Download(size as u64).encode();
            stream.write_all(&download).await.unwrap();
            let mut got = vec![1; size];
            stream.read_exact(&mut got).await.unwrap();
            assert!(got.iter().all(|byte| *byte == 0));

            let upload = Request::Upload(size as u64).encode();
            stream.write_all(&upload).await.unwrap();
            stream.write_all(&got).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), ACKNOWLEDGED);

            stream.write_all(b"Eto and fro").await.unwrap();
            let mut echoed = [0; 10];
            stream.read_exact(&mut echoed).await.unwrap();
            assert_eq!(&echoed, b"to and fro");
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut echoed).await.unwrap(), 0);
            io::Result::Ok(())
        })
        .unwrap();
    }
}
