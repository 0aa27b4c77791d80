use std::{sync::Arc, time::Duration};

use leastconn_testkit::{StoreKind, StoreOptions, StoreServer};

use super::{redis, *};
use crate::{
    Batch, ClientKey, ClientReport, Counts, MemberId, Password, ServerCount, ServerKey, SlotReport,
};

/// A report with something in every key of the store.
pub(super) fn full_report(member: u64) -> Report {
    let client = ClientReport {
        client: ClientKey([1; 16]),
        admitted: 2,
        ask: 0,
        rate: 10.0,
        burst: 20,
        max_conns: 0,
        open: 2,
        used: None,
    };
    Report {
        member: MemberId::new("lb", member),
        status: crate::MemberStatus::Serving,
        counts: Arc::new(Counts {
            version: 1,
            servers: vec![ServerCount {
                server: ServerKey(5),
                open: 3,
                dials_per_second: 1.0,
            }],
        }),
        facts: Some(crate::Facts::default()),
        batch: Some(Arc::new(Batch {
            number: 1,
            clients: vec![client],
        })),
        slots: vec![SlotReport {
            server: ServerKey(5),
            max: 20,
            want: 4,
            open: 3,
        }],
        commands: vec![
            crate::Command::State {
                upstream: "web".to_owned(),
                server: "web1".to_owned(),
                state: "drain".to_owned(),
                grace: Duration::ZERO,
            },
            crate::Command::Kill {
                id: "k1".to_owned(),
                filter: "{}".to_owned(),
            },
        ],
        acknowledgements: Vec::new(),
    }
}

fn with_password(server: &StoreServer, user: Option<&str>, password: &str) -> Redis {
    let endpoint = Endpoint::Server(server.address().into());
    let mut settings = RedisSettings::new(endpoint);
    settings.user = user.map(str::to_owned);
    settings.password = Some(Password::new(password));
    Redis::new(&cases::settings(), settings)
}

async fn error_text(member: &mut Redis) -> String {
    let report = full_report(0);
    let exchange = member.exchange(&report);
    let result = tokio::time::timeout(Duration::from_secs(10), exchange).await;
    result.unwrap().unwrap_err().to_string()
}

#[tokio::test]
async fn every_key_expires() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        redis(&server).exchange(&full_report(0)).await.unwrap();
        let keys = server.keys().await;
        assert_eq!(keys.len(), 7, "{keys:?}");
        for key in keys {
            let lifetime = server.command(&["PTTL", &key]).await.integer();
            assert!((1..=86_400_000).contains(&lifetime), "{key}: {lifetime}");
        }
    }
}

#[tokio::test]
async fn numbers_are_sent_again_after_a_restart() {
    for kind in StoreKind::installed() {
        let mut server = StoreServer::start(kind).await;
        let mut members = [redis(&server), redis(&server)];
        for (i, member) in members.iter_mut().enumerate() {
            assert!(
                member
                    .exchange(&full_report(i as u64))
                    .await
                    .unwrap()
                    .forgotten
            );
        }
        server.restart_empty().await;
        let mut report = full_report(0);
        report.commands.clear();
        assert!(members[0].exchange(&report).await.is_err());
        assert!(members[0].exchange(&report).await.unwrap().forgotten);
        // The other member restores the state of the operators.
        members[1].disconnect();
        let view = members[1].exchange(&report_of(1)).await.unwrap();
        assert_eq!(view.members[0].counts.servers, report.counts.servers);
        let mut new = redis(&server);
        let view = new.exchange(&report_of(2)).await.unwrap();
        assert_eq!(view.operators.unwrap().states.len(), 1);
    }
}

pub(super) fn report_of(member: u64) -> Report {
    let mut report = full_report(member);
    report.commands.clear();
    report.batch = None;
    report
}

#[tokio::test]
async fn members_that_leave_are_removed() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut member = redis(&server);
        let report = report_of(0);
        member.exchange(&report).await.unwrap();
        member.leave(&report.member).await.unwrap();
        let members = server.command(&["HKEYS", "lc1:{test}:m"]).await.texts();
        assert_eq!(members, [".since"]);
        let keys = server.keys().await;
        let expected = [
            "lc1:{test}:b",
            "lc1:{test}:m",
            "lc1:{test}:s:0000000000000005",
        ];
        assert_eq!(keys, expected);
    }
}

#[tokio::test]
async fn evicted_keys_are_noticed() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut member = redis(&server);
        member.exchange(&report_of(0)).await.unwrap();
        for (key, forgotten) in [("m", true), ("c", false), ("i", false)] {
            let key = format!("lc1:{{test}}:{key}");
            server.command(&["DEL", &key]).await;
            let view = member.exchange(&report_of(0)).await.unwrap();
            assert_eq!(view.forgotten, forgotten, "{key}");
            // What is missing is sent with the next exchange.
            member.exchange(&report_of(0)).await.unwrap();
            assert!(server.keys().await.contains(&key), "{key}");
        }
    }
}

#[tokio::test]
async fn abandoned_exchange_does_not_confuse_the_next() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut member = redis(&server);
        member.exchange(&report_of(0)).await.unwrap();
        server.pause();
        let report = full_report(0);
        let stalled = tokio::time::timeout(Duration::from_millis(100), member.exchange(&report));
        assert!(stalled.await.is_err());
        assert_eq!(member.server(), None);
        server.resume();
        let view = member.exchange(&report).await.unwrap();
        // The abandoned request was applied or not, and took the tokens at most once.
        assert_eq!(view.clients[0].used.ceil(), 2.0);
        assert!(!view.forgotten);
    }
}

#[tokio::test]
async fn scripts_are_loaded_again() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut member = redis(&server);
        member.exchange(&report_of(0)).await.unwrap();
        server.command(&["SCRIPT", "FLUSH"]).await;
        let view = member.exchange(&full_report(0)).await.unwrap();
        assert_eq!(view.clients[0].used, 2.0);
    }
}

#[tokio::test]
async fn scripts_are_loaded_again_to_leave() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut member = redis(&server);
        let report = report_of(0);
        member.exchange(&report).await.unwrap();
        server.command(&["SCRIPT", "FLUSH"]).await;
        member.leave(&report.member).await.unwrap();
        let members = server.command(&["HKEYS", "lc1:{test}:m"]).await.texts();
        assert_eq!(members, [".since"]);
    }
}

#[tokio::test]
async fn authentication_errors_name_the_user() {
    for kind in StoreKind::installed() {
        let options = StoreOptions::new(kind)
            .password("secret")
            .user("leastconn", "on >other resetkeys -@all +hello");
        let server = StoreServer::start_with(options).await;
        let text = error_text(&mut redis(&server)).await;
        assert!(
            text.contains("requires a password: set `user` and `password`"),
            "{text}"
        );
        let text = error_text(&mut with_password(&server, None, "wrong")).await;
        assert!(
            text.contains("refuses user `default` or its password"),
            "{text}"
        );
        let text = error_text(&mut with_password(&server, Some("lb1"), "secret")).await;
        assert!(
            text.contains("refuses user `lb1` or its password"),
            "{text}"
        );
        let text = error_text(&mut with_password(&server, Some("leastconn"), "other")).await;
        assert!(
            text.contains("script|load") && text.contains("fleet-acl"),
            "{text}"
        );
        let mut member = with_password(&server, None, "secret");
        member.exchange(&full_report(0)).await.unwrap();
    }
}

#[tokio::test]
async fn refused_writes_are_explained() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut member = redis(&server);
        let cases = [
            (["maxmemory", "1"], "has reached `maxmemory`"),
            (["maxmemory", "0"], ""),
            (["min-replicas-to-write", "1"], "`min-replicas-to-write`"),
            (["min-replicas-to-write", "0"], ""),
        ];
        for (setting, expected) in cases {
            server
                .command(&["CONFIG", "SET", setting[0], setting[1]])
                .await;
            if expected.is_empty() {
                member.exchange(&full_report(0)).await.unwrap();
            } else {
                let text = error_text(&mut member).await;
                assert!(text.contains(expected), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn busy_server_is_reported() {
    for kind in StoreKind::installed() {
        let options = StoreOptions::new(kind).config("lua-time-limit 20");
        let server = Arc::new(StoreServer::start_with(options).await);
        let mut member = redis(&server);
        member.exchange(&report_of(0)).await.unwrap();
        let script = tokio::spawn({
            let server = server.clone();
            async move {
                server
                    .try_command(&["EVAL", "while true do end", "0"])
                    .await
            }
        });
        // Reading the reply of PING shows that the script is running.
        server.wait_for(&["PING"], "BUSY").await;
        let text = error_text(&mut member).await;
        assert!(
            text.contains("busy with a script of another client"),
            "{text}"
        );
        server.command(&["SCRIPT", "KILL"]).await;
        script.await.unwrap();
        member.exchange(&report_of(0)).await.unwrap();
    }
}

#[tokio::test]
async fn unreachable_servers_are_named() {
    let mut server = StoreServer::start(StoreKind::installed()[0]).await;
    let address = server.address().to_string();
    server.kill();
    let text = error_text(&mut redis(&server)).await;
    assert!(text.starts_with(&address), "{text}");
    assert!(
        text.contains("connection refused: is the server running"),
        "{text}"
    );

    let endpoint = |address: &str| Endpoint::Server(address.parse().unwrap());
    let member = |address: &str| Redis::new(&settings(), RedisSettings::new(endpoint(address)));
    let text = error_text(&mut member("store.invalid:6379")).await;
    assert!(
        text.starts_with("store.invalid:6379: cannot resolve the host name"),
        "{text}"
    );
    let text = error_text(&mut member("unix:/nonexistent/store.sock")).await;
    assert!(text.contains("no such socket"), "{text}");
}

#[tokio::test]
async fn other_services_are_recognized() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let settings = RedisSettings::new(Endpoint::Server(address.into()));
    let text = error_text(&mut Redis::new(&cases::settings(), settings)).await;
    assert!(text.starts_with(&address.to_string()), "{text}");
}

#[tokio::test]
async fn request_that_arrives_after_leaving_is_refused() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut member = redis(&server);
        let report = report_of(0);
        member.exchange(&report).await.unwrap();
        let late = member.session.request(&report);
        member.leave(&report.member).await.unwrap();
        let mut connection = member.take_connection().await.unwrap();
        let error = member.request(&mut connection, &late).await.unwrap_err();
        assert!(error.to_string().contains("a later request"), "{error}");
        assert!(member.exchange(&report).await.unwrap().forgotten);
        let lifetime = server.command(&["PTTL", "lc1:{test}:m"]).await.integer();
        assert!(lifetime > 0);
    }
}

#[tokio::test]
async fn buckets_are_kept_until_they_are_full() {
    for kind in StoreKind::installed() {
        let server = StoreServer::start(kind).await;
        let mut report = full_report(0);
        let mut batch = Batch::clone(report.batch.as_ref().unwrap());
        batch.clients[0].rate = 0.00001;
        batch.clients[0].open = 0;
        report.batch = Some(Arc::new(batch));
        redis(&server).exchange(&report).await.unwrap();
        let key = format!("lc1:{{test}}:l:{}", ClientKey([1; 16]));
        let lifetime = server.command(&["PTTL", &key]).await.integer();
        // Two tokens at 10 in 1,000,000 seconds.
        assert!(lifetime > 190_000_000, "{lifetime}");
    }
}

/// A server that answers with a very long value.
#[tokio::test]
async fn answers_have_a_limited_size() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"$2147483647\r\n").await;
            let part = vec![b'x'; 1 << 20];
            for _ in 0..20 {
                if stream.write_all(&part).await.is_err() {
                    break;
                }
            }
            std::future::pending::<()>().await;
        }
    });
    let settings = RedisSettings::new(Endpoint::Server(address.into()));
    let text = error_text(&mut Redis::new(&cases::settings(), settings)).await;
    assert!(text.starts_with(&address.to_string()), "{text}");
}
