use std::{net::SocketAddr, num::NonZeroU32};

use leastconn_testkit::{
    Behaviour, DEADLINE, Upstream, eventually, upstream::OpenConnections, within,
};
use tokio::net::{TcpListener, TcpStream};

use tokio::time::sleep;

use super::{
    super::prepare::Plain,
    checker::{SPREAD, URGENT},
    *,
};
use crate::{
    AdminState, Pool, ServerSpec,
    health::{ActivePolicy, PassivePolicy},
};

const MS: Duration = Duration::from_millis(1);

fn tcp(send: Option<&str>, expect: Option<&str>) -> Check {
    let bytes = |text: &str| text.as_bytes().to_vec();
    check(Probe::Tcp {
        send: send.map(bytes),
        expect: expect.map(bytes),
    })
}

fn http(status: RangeInclusive<u16>) -> Check {
    check(Probe::Http {
        path: "/health?full=1".to_owned(),
        status: vec![status],
    })
}

fn check(probe: Probe) -> Check {
    Check {
        probe,
        port: None,
        interval: Duration::from_secs(3600),
        timeout: Duration::from_secs(5),
    }
}

fn pool(addresses: &[SocketAddr], rise: u32, fall: u32) -> Pool {
    let servers = addresses
        .iter()
        .enumerate()
        .map(|(number, &address)| ServerSpec::new(format!("web{number}"), address));
    let policy = ActivePolicy {
        rise: NonZeroU32::new(rise).unwrap(),
        fall: NonZeroU32::new(fall).unwrap(),
    };
    Pool::builder("web")
        .servers(servers)
        .active(policy)
        .seed(1)
        .build()
        .unwrap()
}

async fn probe_at(address: SocketAddr, check: &Check) -> Result<(), ProbeError> {
    let pool = pool(&[address], 1, 1);
    within(
        DEADLINE,
        "the probe",
        probe(&pool.members()[0].server, check, &Plain),
    )
    .await
}

/// Answers one connection with `pieces`, each in its own segment, then closes the connection.
/// Returns the request.
async fn answering(
    pieces: &'static [&'static str],
) -> (SocketAddr, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut question = vec![0; 1000];
        let count = stream.read(&mut question).await.unwrap();
        question.truncate(count);
        for piece in pieces {
            if stream.write_all(piece.as_bytes()).await.is_err() {
                break;
            }
            sleep(5 * MS).await;
        }
        String::from_utf8(question).unwrap()
    });
    (address, answering)
}

#[tokio::test]
async fn tcp_probe_only_connects() {
    let upstream = Upstream::start(Behaviour::Stuck).await;
    probe_at(upstream.addr(), &tcp(None, None)).await.unwrap();
    upstream.stop(OpenConnections::Close).await;
    let error = probe_at(upstream.addr(), &tcp(None, None)).await;
    assert!(matches!(error, Err(ProbeError::Io(_))), "{error:?}");
}

#[tokio::test]
async fn expected_answer_is_found_across_segments() {
    for pieces in [&["+PONG\r\n"][..], &["x+P", "O", "NG!"], &["+PON", "+PONG"]] {
        let (address, question) = answering(pieces).await;
        probe_at(address, &tcp(Some("PING"), Some("+PONG")))
            .await
            .unwrap();
        assert_eq!(question.await.unwrap(), "PING");
    }
    for pieces in [&["+PON"][..], &["", "-ERR"], &[]] {
        let (address, _question) = answering(pieces).await;
        let error = probe_at(address, &tcp(Some("PING"), Some("+PONG"))).await;
        assert!(matches!(error, Err(ProbeError::Unexpected(_))), "{error:?}");
    }
}

#[tokio::test]
async fn endless_answer_fails_the_probe() {
    let upstream = Upstream::start(Behaviour::Source { bytes: 1 << 30 }).await;
    let error = probe_at(upstream.addr(), &tcp(None, Some("never this"))).await;
    assert!(matches!(error, Err(ProbeError::Unexpected(_))), "{error:?}");
}

#[tokio::test]
async fn silent_server_times_out() {
    let upstream = Upstream::start(Behaviour::Stuck).await;
    for probe in [tcp(None, Some("hello")), http(200..=299)] {
        let check = Check {
            timeout: 50 * MS,
            ..probe
        };
        let error = probe_at(upstream.addr(), &check).await;
        assert!(matches!(error, Err(ProbeError::TimedOut(_))), "{error:?}");
    }
}

#[tokio::test]
async fn probe_errors_quote_an_escaped_excerpt() {
    let error_text = async |pieces: &'static [&'static str], check: Check, open: bool| {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for piece in pieces {
                stream.write_all(piece.as_bytes()).await.unwrap();
            }
            if open {
                std::future::pending::<()>().await;
            }
        });
        probe_at(address, &check).await.unwrap_err().to_string()
    };
    let short = |check: Check| Check {
        timeout: 1000 * MS,
        ..check
    };
    let expecting = || tcp(None, Some("+PONG"));
    assert_eq!(
        error_text(&["-ERR \u{1b}[2Jno\n"], short(expecting()), true).await,
        "no expected answer within 1s; received \"-ERR \\x1b[2Jno\\n\""
    );
    assert_eq!(
        error_text(&["HTTP/1."], short(http(200..=200)), true).await,
        "no expected answer within 1s; received \"HTTP/1.\""
    );
    const LONG: &str = "é\"0123456789012345678901234567890123456789012345678901234567890123456789";
    assert_eq!(
        error_text(&[LONG], short(expecting()), true).await,
        format!(
            "no expected answer within 1s; received {} bytes that start with \
             \"\\xc3\\xa9\\\"{}\"",
            LONG.len(),
            &LONG[3..64]
        )
    );
    assert_eq!(
        error_text(&["220 mail\r\n"], expecting(), false).await,
        "unexpected answer: \"220 mail\\r\\n\""
    );
    assert_eq!(
        error_text(&[], expecting(), false).await,
        "unexpected answer: no data"
    );
    assert_eq!(
        error_text(&["SSH-2.0-x\r\n"], http(200..=200), false).await,
        "not an HTTP answer: \"SSH-2.0-x\\r\\n\""
    );
}

#[tokio::test]
async fn http_status_decides_the_probe() {
    for (status, works) in [
        (200, true),
        (204, true),
        (301, false),
        (404, false),
        (503, false),
    ] {
        let upstream = Upstream::start(Behaviour::Http(status)).await;
        match probe_at(upstream.addr(), &http(200..=299)).await {
            Ok(()) => assert!(works, "{status}"),
            Err(ProbeError::Status(code)) => assert!(!works && code == status),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn http_probe_stops_at_the_status_line() {
    for pieces in [
        &["HTTP/1.1 200 OK\r\n"][..],
        &["HT", "TP/1.0 2", "0", "0 OK\r", "\n"],
        &["HTTP/1.1 200 OK\r\nbro ken: header\r\n\r\n"],
    ] {
        let (address, question) = answering(pieces).await;
        probe_at(address, &http(200..=200)).await.unwrap();
        let question = question.await.unwrap();
        assert!(
            question.starts_with("GET /health?full=1 HTTP/1.1\r\n"),
            "{question}"
        );
        assert!(
            question.contains(&format!("\r\nHost: {address}\r\n")),
            "{question}"
        );
        assert!(question.ends_with("\r\n\r\n"));
    }
    for pieces in [
        &["SSH-2.0-OpenSSH_9.6\r\n"][..],
        &["HTTP/1.1 20"],
        &["HTTP/2 200 OK\r\n\r\n"],
        &[],
    ] {
        let (address, _question) = answering(pieces).await;
        let error = probe_at(address, &http(200..=200)).await;
        assert!(
            matches!(error, Err(ProbeError::NotHttp(_))),
            "{pieces:?} {error:?}"
        );
    }
}

#[tokio::test]
async fn probe_uses_the_configured_port() {
    let (service, health) = (
        Upstream::start(Behaviour::AcceptThenReset).await,
        Upstream::start(Behaviour::Http(200)).await,
    );
    let check = Check {
        port: Some(health.addr().port()),
        ..http(200..=200)
    };
    probe_at(service.addr(), &check).await.unwrap();
    assert_eq!((service.accepted(), health.accepted()), (0, 1));
}

#[tokio::test]
async fn invalid_check_opens_no_connection() {
    let upstream = Upstream::start(Behaviour::Http(200)).await;
    let http = |path: &str| Probe::Http {
        path: path.to_owned(),
        status: vec![200..=299],
    };
    let user = "db\0database\0other".to_owned();
    for probe in [
        http("/ HTTP/1.1\r\nX-Forwarded-For: 127.0.0.1"),
        http("/a b"),
        Probe::Mysql { user: user.clone() },
        Probe::Postgres { user },
    ] {
        let error = probe_at(upstream.addr(), &check(probe)).await.unwrap_err();
        assert!(matches!(error, ProbeError::InvalidCheck(_)), "{error:?}");
        // The health of the server must show the fault.
        assert!(error.is_server_fault());
    }
    assert_eq!(upstream.accepted(), 0);
}

#[tokio::test]
async fn longest_timeout_does_not_overflow() {
    let upstream = Upstream::start(Behaviour::Http(200)).await;
    let check = Check {
        timeout: Duration::MAX,
        ..http(200..=200)
    };
    probe_at(upstream.addr(), &check).await.unwrap();
}

#[test]
fn local_exhaustion_is_no_server_fault() {
    let io = |code| ProbeError::Io(io::Error::from_raw_os_error(code));
    assert!(!io(libc::EMFILE).is_server_fault());
    assert!(!io(libc::EADDRNOTAVAIL).is_server_fault());
    assert!(io(libc::ECONNREFUSED).is_server_fault());
    assert!(ProbeError::TimedOut(MS).is_server_fault());
    assert!(ProbeError::Status(500).is_server_fault());
}

async fn becomes(pool: &Pool, up: bool) {
    let server = &pool.members()[0].server;
    eventually(DEADLINE, || async {
        let status = server.status();
        (status.is_up() == up)
            .then_some(())
            .ok_or(format!("{status:?}"))
    })
    .await
    .unwrap();
}

/// This test checks only that probes update the health. The tests of `health` check the thresholds.
#[tokio::test]
async fn probes_change_server_health() {
    let upstream = Upstream::start(Behaviour::Http(200)).await;
    let pool = pool(&[upstream.addr()], 2, 3);
    let check = Check {
        interval: 10 * MS,
        ..http(200..=200)
    };
    let checker = Checker::start(&pool, check);
    upstream.wait_accepted(2).await;
    assert!(pool.members()[0].server.status().is_up());

    upstream.set_behaviour(Behaviour::Http(500));
    becomes(&pool, false).await;
    upstream.set_behaviour(Behaviour::Http(200));
    becomes(&pool, true).await;

    // Servers in maintenance are not probed, but a probe that is already running may complete.
    pool.members()[0].server.set_admin(AdminState::Maint);
    sleep(30 * MS).await;
    upstream.wait_open(0).await;
    let asked = upstream.accepted();
    sleep(50 * MS).await;
    assert_eq!(upstream.accepted(), asked);
    pool.members()[0].server.set_admin(AdminState::Ready);
    upstream.wait_accepted(asked + 1).await;

    drop(checker);
    upstream.wait_open(0).await;
    let asked = upstream.accepted();
    sleep(50 * MS).await;
    assert_eq!(
        upstream.accepted(),
        asked,
        "the server was probed after the checker was dropped"
    );
}

#[tokio::test]
async fn first_probe_is_immediate_and_decisive() {
    let (well, ill) = (
        Upstream::start(Behaviour::Http(200)).await,
        Upstream::start(Behaviour::Http(500)).await,
    );
    let pool = pool(&[ill.addr(), well.addr()], 2, 3);
    // The interval is longer than the test, so there is only one probe.
    let _checker = Checker::start(&pool, http(200..=200));
    becomes(&pool, false).await;
    well.wait_accepted(1).await;
    assert!(pool.members()[1].server.status().is_up());
}

/// A step that sends a greeting, or fails if the field is `false`.
struct Greeting(bool);

impl Prepare for Greeting {
    type Stream = TcpStream;

    async fn prepare(&self, mut stream: TcpStream, _: &Server) -> io::Result<TcpStream> {
        if !self.0 {
            return Err(io::Error::other("greeting refused"));
        }
        stream.write_all(b"hello ").await?;
        Ok(stream)
    }
}

#[tokio::test]
async fn probe_runs_step_first_and_reports_failure() {
    let upstream = Upstream::start(Behaviour::Echo).await;
    let pool = pool(&[upstream.addr()], 1, 1);
    let server = &pool.members()[0].server;
    let check = tcp(Some("and goodbye"), Some("hello and goodbye"));
    let probing = |step| within(DEADLINE, "the probe", probe(server, &check, step));
    probing(&Greeting(true)).await.unwrap();
    let error = probing(&Greeting(false)).await.unwrap_err();
    assert!(error.is_server_fault());
    assert_eq!(error.to_string(), "greeting refused");

    let _checker = Checker::start_with(&pool, check.clone(), Greeting(false));
    becomes(&pool, false).await;
}

/// Accepts one connection, sends `greeting` if there is one, and answers with `answers`. Returns
/// the bytes that the probe has sent.
async fn scripted(
    greeting: &[u8],
    answers: &[&[u8]],
) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let greeting = greeting.to_vec();
    let answers: Vec<_> = answers.iter().map(|answer| answer.to_vec()).collect();
    let script = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&greeting).await.unwrap();
        let mut seen = Vec::new();
        for answer in answers {
            let before = seen.len();
            while seen.len() == before {
                stream.read_buf(&mut seen).await.unwrap();
            }
            stream.write_all(&answer).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        let end = stream.read_to_end(&mut seen).await;
        end.expect("the probe reset the connection");
        seen
    });
    (address, script)
}

fn packet(sequence: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![payload.len() as u8, 0, 0, sequence];
    packet.extend(payload);
    packet
}

fn mysql() -> Check {
    check(Probe::Mysql {
        user: "leastconn".to_owned(),
    })
}

const GREETING: &[u8] = b"\x0a8.0.1\0....";
const DENIED: &[u8] = b"\xff\x15\x04#28000Access denied";

#[tokio::test]
async fn mysql_login_is_completed() {
    let greeting = packet(0, GREETING);
    let ok = packet(2, b"\0\0\0\x02\0\0\0");
    let denied = packet(2, DENIED);
    let switch = packet(2, b"\xfecaching_sha2_password\0salt");
    let denied_then = packet(4, DENIED);
    for (answers, last) in [
        (vec![&*ok], b"\x01\0\0\0\x01".to_vec()),
        (vec![&*denied], b"mysql_native_password\0".to_vec()),
        (vec![&*switch, &*denied_then], b"\0\0\0\x03".to_vec()),
    ] {
        let (address, script) = scripted(&greeting, &answers).await;
        probe_at(address, &mysql()).await.unwrap();
        let seen = script.await.unwrap();
        assert_eq!(seen[3], 1, "sequence number of the first response");
        assert!(seen.windows(9).any(|window| window == b"leastconn"));
        assert!(seen.ends_with(&last), "{seen:?}");
    }
}

#[tokio::test]
async fn mysql_global_errors_fail_the_probe() {
    let blocked = packet(0, b"\xff\x69\x04Host '10.0.0.1' is blocked");
    let (address, script) = scripted(&blocked, &[]).await;
    let error = probe_at(address, &mysql()).await.unwrap_err();
    assert!(error.to_string().contains("is blocked"), "{error}");
    script.await.unwrap();
    let greeting = packet(0, GREETING);
    let full = packet(2, b"\xff\x10\x04#08004Too many connections");
    let (address, script) = scripted(&greeting, &[&full]).await;
    let error = probe_at(address, &mysql()).await.unwrap_err();
    assert!(error.to_string().contains("Too many"), "{error}");
    script.await.unwrap();
    let (address, script) = scripted(b"SSH-2.0-OpenSSH\r\n", &[]).await;
    probe_at(address, &mysql()).await.unwrap_err();
    let _ = script.await;
}

#[tokio::test]
async fn postgres_session_is_opened_and_terminated() {
    let postgres = check(Probe::Postgres {
        user: "leastconn".to_owned(),
    });
    let error = |code: &str| {
        let fields = format!("SFATAL\0C{code}\0Mthe message\0\0");
        let length = (fields.len() as u32 + 4).to_be_bytes();
        [b"E", &length[..], fields.as_bytes()].concat()
    };
    let taken = b"R\0\0\0\x08\0\0\0\0".to_vec();
    let password = b"R\0\0\0\x0c\0\0\0\x05salt".to_vec();
    for (answer, works, terminated) in [
        (taken, true, true),
        (password, true, false),
        (error("28000"), true, false),
        (error("57P03"), false, false),
        (error("53300"), false, false),
    ] {
        let (address, script) = scripted(b"", &[&answer]).await;
        let probed = probe_at(address, &postgres).await;
        assert_eq!(probed.is_ok(), works, "{probed:?}");
        let seen = script.await.unwrap();
        assert_eq!(seen[4..8], [0, 3, 0, 0]);
        assert_eq!(seen.ends_with(b"X\0\0\0\x04"), terminated);
    }
}

#[tokio::test]
async fn redis_probe_accepts_authentication_errors() {
    for (answer, works) in [
        ("+PONG\r\n", true),
        ("-NOAUTH Authentication required.\r\n", true),
        ("-LOADING Redis is loading the dataset in memory\r\n", false),
        ("-DENIED Redis is running in protected mode\r\n", false),
        ("HTTP/1.1 400 Bad Request\r\n", false),
    ] {
        let answers: Vec<&[u8]> = if works {
            vec![answer.as_bytes(), b"+OK\r\n"]
        } else {
            vec![answer.as_bytes()]
        };
        let (address, script) = scripted(b"", &answers).await;
        let probed = probe_at(address, &check(Probe::Redis)).await;
        assert_eq!(probed.is_ok(), works, "{probed:?}");
        script.await.unwrap();
    }
}

#[tokio::test]
async fn unavailable_upstreams_are_probed_every_second() {
    let upstream = Upstream::start(Behaviour::Http(200)).await;
    upstream.stop(OpenConnections::Close).await;
    // The interval is longer than the test, and `rise` exceeds the number of probes in the test.
    let pool = pool(&[upstream.addr()], 50, 1);
    let _checker = Checker::start(&pool, http(200..=200));
    becomes(&pool, false).await;
    upstream.restart().await;
    let start = now();
    becomes(&pool, true).await;
    assert!(now() - start < 5 * URGENT, "{:?}", now() - start);
    let probes = upstream.accepted();
    sleep(2 * URGENT).await;
    assert_eq!(
        upstream.accepted(),
        probes,
        "probes return to the configured interval"
    );
}

#[tokio::test]
async fn successor_pool_keeps_probe_schedule_and_spreads_new() {
    let mut upstreams = Vec::new();
    for _ in 0..5 {
        upstreams.push(Upstream::start(Behaviour::Http(200)).await);
    }
    let addresses: Vec<_> = upstreams.iter().map(Upstream::addr).collect();
    let before = pool(&addresses[..1], 2, 3);
    let checker = Checker::start(&before, http(200..=200));
    within(DEADLINE, "the first probe", checker.first_round()).await;
    let specs = addresses.iter().enumerate();
    let specs = specs.map(|(n, &address)| ServerSpec::new(format!("web{n}"), address));
    let policy = ActivePolicy {
        rise: NonZeroU32::MIN,
        fall: NonZeroU32::MIN,
    };
    let after = before
        .successor()
        .servers(specs)
        .active(policy)
        .passive(PassivePolicy::default())
        .build();
    let after = after.unwrap();
    let start = now();
    let next = Checker::start(&after, http(200..=200));
    drop(checker);
    within(DEADLINE, "the new servers' probes", next.first_round()).await;
    assert!(now() - start >= SPREAD / 2, "{:?}", now() - start);
    let probes: Vec<_> = upstreams.iter().map(Upstream::accepted).collect();
    assert_eq!(probes, [1; 5], "the first server was not probed again");
}
