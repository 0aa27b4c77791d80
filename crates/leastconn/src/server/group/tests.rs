#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    fmt::{self, Write},
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::{
    Failure, Pool, Selector, Server, ServerSpec, Tried,
    health::{ActivePolicy, Availability, PassivePolicy},
    net::now,
};

/// Records messages with their fields. Uses the pool for each message, as a subscriber may.
struct Recorder {
    messages: Arc<Mutex<Vec<String>>>,
    pool: Arc<Pool>,
}

/// The text of a message, then its fields.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            write!(self.fields, " {}={value:?}", field.name()).unwrap();
        }
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        self.messages.lock().push(line.message + &line.fields);
        let _ = self.pool.is_panicking();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Runs `change` and returns the messages. Fails if `change` does not return.
fn messages_of(pool: Pool, change: impl FnOnce(&Pool) + Send + 'static) -> Vec<String> {
    let (pool, messages) = (Arc::new(pool), Arc::new(Mutex::new(Vec::new())));
    let recorder = Recorder {
        messages: Arc::clone(&messages),
        pool: Arc::clone(&pool),
    };
    let (ends, end) = mpsc::sync_channel(1);
    thread::spawn(move || {
        tracing::subscriber::with_default(recorder, || change(&pool));
        let _ = ends.send(());
    });
    let ended = end.recv_timeout(Duration::from_secs(60));
    ended.unwrap();
    let messages = messages.lock();
    messages.clone()
}

fn server(pool: &Pool, name: &str) -> Arc<Server> {
    pool.server(name).unwrap()
}

fn servers(names: &[&str]) -> Vec<ServerSpec> {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let servers = names.iter().map(|name| ServerSpec::new(*name, address));
    servers.collect()
}

fn failure() -> Failure<'static> {
    Failure::new(SystemTime::UNIX_EPOCH, &"refused")
}

#[test]
fn causes_are_logged_before_effects_without_the_lock() {
    let once = std::num::NonZeroU32::MIN;
    let pool = Pool::builder("web")
        .servers(servers(&["a", "b"]))
        .active(ActivePolicy::new(once, once))
        .build()
        .unwrap();
    let messages = messages_of(pool, |pool| {
        server(pool, "a").probe_failed(failure());
        server(pool, "b").probe_failed(failure());
        server(pool, "a").probed(true);
    });
    let check = r#"cause="health check""#;
    assert_eq!(
        messages,
        [
            format!("server down upstream=web server=a {check} reason=refused"),
            format!("server down upstream=web server=b {check} reason=refused"),
            "all servers unavailable: connecting to any of them upstream=web".to_owned(),
            format!("server up upstream=web server=a {check}"),
            "server available again upstream=web".to_owned(),
        ]
    );
}

/// A server that is put back into use, because all servers close their connections early.
#[test]
fn reinstated_server_is_logged_as_up() {
    let passive = PassivePolicy {
        max_early: 2,
        fail_timeout: Duration::from_secs(1),
        ..PassivePolicy::default()
    };
    let pool = Pool::builder("web")
        .servers(servers(&["a", "b", "c"]))
        .passive(passive)
        .build()
        .unwrap();
    let messages = messages_of(pool, |pool| {
        let (start, b) = (now(), server(pool, "b"));
        for name in ["a", "b", "c"] {
            server(pool, name).connect_succeeded();
        }
        b.failed_early(start, start, failure());
        b.failed_early(start, start, failure());
        for name in ["a", "c"] {
            server(pool, name).failed_early(start, start, failure());
        }
        let later = start + Duration::from_secs(2);
        let only_b = pool.candidates(&Selector::named(["b"]));
        let trial = pool.pick(&only_b, &Tried::default(), later).unwrap();
        b.failed_early(later, later, failure());
        drop(trial);
        assert_eq!(b.status().availability, Availability::Up);
    });
    assert_eq!(
        messages,
        [
            r#"server ejected upstream=web server=b cause="connection" reason=refused"#,
            r#"server up upstream=web server=b cause="connection" reason="no other server serves connections""#,
        ]
    );
}

#[test]
fn reload_that_ends_an_ejection_is_logged() {
    let pool = Pool::builder("web").servers(servers(&["a", "b"])).build();
    let messages = messages_of(pool.unwrap(), |pool| {
        let started = now();
        server(pool, "a").connect_failed_with(started, started, failure());
        let passive = PassivePolicy {
            max_fails: 0,
            ..PassivePolicy::default()
        };
        let next = pool.successor().servers(servers(&["a", "b"]));
        next.passive(passive).build().unwrap();
    });
    assert_eq!(
        messages,
        [
            r#"server ejected upstream=web server=a cause="connect" reason=refused"#,
            r#"server up upstream=web server=a cause="configuration""#,
        ]
    );
}
