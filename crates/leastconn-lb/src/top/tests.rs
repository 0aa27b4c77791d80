use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use serde_json::{Value, json};

use super::*;
use view::Tab;

fn answers() -> Answers {
    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }
    let outcomes = json!({ "ok": 1200, "rate_limited": 34 });
    Answers {
        status: read(json!({
            "version": "9.8.7", "pid": 1, "phase": "ready", "started": "", "time": "",
            "uptime_seconds": 8100, "workers": 2,
            "configuration": {
                "file": "/etc/leastconn/leastconn.toml", "epoch": 0, "applied": "", "clients": 2,
                "deviations": [],
            },
            "sandbox": { "state": "on" },
            "log": { "level": "info", "access": "stdout", "lines_lost": 0 },
            "connections": {
                "open": 5, "limit": 10_000, "handshakes": 1, "handshakes_waiting": 0,
                "accepted": 1239, "outcomes": outcomes, "bytes_received": 0, "bytes_sent": 0,
            },
            "listeners": [], "upstreams": [],
            "certificates": [
                { "file": "ca.crl", "not_after": "2027-01-01T00:00:00Z", "days_left": 1 },
            ],
        })),
        servers: read(json!({ "servers": [
            server("web1", "ready", "up", 4),
            server("web2", "ready", "down", 0),
            server("web3", "drain", "up", 1),
            server("web4", "drain", "ejected", 0),
            starting("web5"),
            unchecked("web6"),
        ] })),
        clients: read(json!({ "total": 1, "clients": [{
            "client": "orders", "match": ["cn=orders.lb.com"], "allow": ["web"],
            "mode": "enforce", "rate_limit": { "rate": 20.0, "burst": 20 }, "active": 5,
            "connections": 1239, "refused": 34, "failed": 0, "ended": 1200,
            "outcomes": outcomes,
        }] })),
        connections: read(json!({ "total": 1, "connections": [{
            "connection": 1234, "time": "", "stage": "relaying", "listener": "main",
            "source": "10.0.0.7:40001", "client": "orders", "identity": "cn:orders.lb.com",
            "upstream": "web", "server": "web1", "bytes_received": 1536, "bytes_sent": 7,
            "duration_ms": 303_000.0,
        }] })),
        history: read(json!({ "interval_seconds": 2.0, "samples": [{
            "time": "", "open": 5, "accepted_per_second": 312.0, "refused_per_second": 2.5,
            "received_per_second": 1024.0, "sent_per_second": 0.0,
        }] })),
    }
}

fn server(name: &str, state: &str, health: &str, active: u32) -> Value {
    json!({
        "upstream": "web", "server": name, "address": "10.0.0.1:80", "state": state,
        "health": health, "weight": 1, "backup": false, "active": active, "connections": 1000,
        "connect_failures": 0,
    })
}

/// A server without health checks.
fn unchecked(name: &str) -> Value {
    let mut server = server(name, "ready", "up", 0);
    server["checked"] = json!(false);
    server
}

/// A server in slow start.
fn starting(name: &str) -> Value {
    let mut server = server(name, "ready", "up", 0);
    server["slow_start"] = json!({ "share": 0.35, "remaining_seconds": 19.5 });
    server
}

fn screen(view: &mut View, now: Instant) -> Vec<String> {
    screen_of(view, now, 120, 30)
}

fn screen_of(view: &mut View, now: Instant, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, view, now)).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width));
    lines
        .map(|line| line.iter().map(ratatui::buffer::Cell::symbol).collect())
        .collect()
}

fn press(view: &mut View, code: KeyCode) -> Action {
    view.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn line<'a>(screen: &'a [String], with: &str) -> &'a str {
    screen
        .iter()
        .find(|line| line.contains(with))
        .unwrap_or_else(|| panic!("no line with {with}: {screen:#?}"))
}

#[test]
fn screen_shows_the_answers() {
    let (mut view, now) = (View::default(), net::now());
    view.update(Ok(answers()), now);
    let shown = screen(&mut view, now);
    assert!(shown[0].contains("leastconn 9.8.7 ready"), "{}", shown[0]);
    assert!(shown[0].contains("up 2h15m"), "{}", shown[0]);
    assert!(shown[1].contains("open 5/10,000"), "{}", shown[1]);
    assert!(shown[1].contains("new/s 312"), "{}", shown[1]);
    assert!(shown[1].contains("refused/s 2.5"), "{}", shown[1]);
    let bars: Vec<_> = ["web1", "web2", "web3"]
        .iter()
        .map(|server| line(&shown, server).matches('█').count())
        .collect();
    assert_eq!(bars, [12, 0, 3]);
    assert!(line(&shown, "web1").contains("up"));
    assert!(line(&shown, "web2").contains("down"));
    assert!(line(&shown, "web3").contains(" drain "));
    assert!(line(&shown, "web4").contains(" drain/ejec"));
    assert!(line(&shown, "web5").contains(" up 35% "));
    assert!(line(&shown, "web6").contains(" unchecked "));

    press(&mut view, KeyCode::Char('2'));
    let shown = screen(&mut view, now);
    let orders = line(&shown, "orders");
    for part in ["1,239", "34", "20/s", "cn=orders.lb.com"] {
        assert!(orders.contains(part), "{part}: {orders}");
    }
    press(&mut view, KeyCode::Tab);
    let shown = screen(&mut view, now);
    let connection = line(&shown, "1234");
    for part in [
        "5m03s",
        "orders",
        "10.0.0.7:40001",
        "web/web1",
        "1.5KiB",
        "7B",
        "relaying",
    ] {
        assert!(connection.contains(part), "{part}: {connection}");
    }
    press(&mut view, KeyCode::Tab);
    let shown = screen(&mut view, now);
    assert!(line(&shown, "rate_limited").contains("34"));
    press(&mut view, KeyCode::Tab);
    let shown = screen(&mut view, now);
    assert!(line(&shown, "ca.crl").contains('1'));
    press(&mut view, KeyCode::Tab);
    assert_eq!(view.tab, Tab::Servers);
}

#[test]
fn fleet_and_its_problems_are_shown() {
    let (mut view, now) = (View::default(), net::now());
    let mut some = answers();
    let fleet = leastconn_server::api::FleetSummary {
        name: "edge".to_owned(),
        state: leastconn_server::api::FleetState::Joined,
        since: "2026-11-30T14:00:00.000Z".to_owned(),
        members: 3,
        serving: 3,
        other_configurations: 0,
        error: None,
    };
    some.status.fleet = Some(fleet.clone());
    view.update(Ok(some.clone()), now);
    let shown = screen_of(&mut view, now, 160, 30);
    assert!(line(&shown, "leastconn").contains("fleet edge joined, 3 members"));
    some.status.fleet = Some(leastconn_server::api::FleetSummary {
        other_configurations: 1,
        ..fleet.clone()
    });
    view.update(Ok(some.clone()), now);
    let shown = screen_of(&mut view, now, 160, 30);
    let others = "fleet edge: 1 member with another configuration";
    assert!(shown.iter().any(|line| line.contains(others)), "{shown:#?}");
    some.status.fleet = Some(leastconn_server::api::FleetSummary {
        state: leastconn_server::api::FleetState::CutOff,
        error: Some("no answer in 250 ms".to_owned()),
        ..fleet
    });
    some.status.configuration.blocks = 2;
    view.update(Ok(some), now);
    let shown = screen_of(&mut view, now, 160, 30);
    let cut_off = "CUT OFF from fleet edge since 2026-11-30T14:00:00.000Z: no answer in 250 ms";
    assert!(
        shown.iter().any(|line| line.contains(cut_off)),
        "{shown:#?}"
    );
    assert!(shown.iter().any(|line| line.contains("blocked: 2 clients")));
}

#[test]
fn early_failures_have_a_column_if_there_are_any() {
    let (mut view, now) = (View::default(), net::now());
    let mut some = answers();
    view.update(Ok(some.clone()), now);
    let shown = screen_of(&mut view, now, 160, 30);
    assert!(!line(&shown, "UPSTREAM").contains("EARLY"));
    some.servers.servers[0].early_failures = 4321;
    view.update(Ok(some), now);
    let shown = screen_of(&mut view, now, 160, 30);
    assert!(line(&shown, "UPSTREAM").contains("EARLY"));
    assert!(line(&shown, "web1").contains("4,321"));
}

#[test]
fn rates_are_computed_between_two_answers() {
    let (mut view, then) = (View::default(), net::now());
    view.update(Ok(answers()), then);
    assert_eq!(view.client_rate("orders"), None);
    let mut next = answers();
    next.clients.clients[0].connections += 30;
    next.servers.servers[0].connections += 10;
    next.status
        .connections
        .outcomes
        .insert("not_allowed".to_owned(), 4);
    let now = then + Duration::from_secs(2);
    view.update(Ok(next.clone()), now);
    assert_eq!(view.client_rate("orders"), Some(15.0));
    assert_eq!(view.server_rate("web", "web1"), Some(5.0));
    assert_eq!(view.outcome_rate("not_allowed"), Some(2.0));
    // The PID changes when another process answers, after an upgrade or a restart.
    next.status.pid += 1;
    view.update(Ok(next), now + Duration::from_secs(2));
    assert_eq!(view.client_rate("orders"), None);
}

#[test]
fn missing_answers_are_reported() {
    let (mut view, then) = (View::default(), net::now());
    let shown = screen(&mut view, then);
    assert!(shown[29].contains("connecting"), "{}", shown[29]);
    view.update(Ok(answers()), then);
    view.update(Err("connection refused".to_owned()), then);
    let now = then + Duration::from_secs(90);
    let shown = screen(&mut view, now);
    assert!(
        shown[29].contains("no answer for 1m30s: connection refused"),
        "{}",
        shown[29]
    );
    // The last answers are still shown.
    line(&shown, "web1");
    view.update(Ok(answers()), now);
    assert!(screen(&mut view, now)[29].contains("q quit"));
    let hung = screen(&mut view, now + Duration::from_secs(20));
    assert!(hung[29].contains("no answer for 20s"), "{}", hung[29]);
}

#[test]
fn alerts_are_above_the_totals() {
    let (mut view, now) = (View::default(), net::now());
    let mut changed = answers();
    let configuration = &mut changed.status.configuration;
    configuration.last_reload = Some(leastconn_server::api::Reload {
        time: String::new(),
        outcome: leastconn_server::api::ReloadOutcome::Rejected,
        reasons: vec![
            "unknown key\n  at = 1".to_owned(),
            "no such file".to_owned(),
        ],
    });
    configuration
        .deviations
        .push(leastconn_server::api::Deviation {
            what: "web/web3".to_owned(),
            is: "drain".to_owned(),
            configured: "ready".to_owned(),
            since: None,
            set_for: None,
        });
    changed.status.failed_upgrade = Some(leastconn_server::api::FailedUpgrade {
        time: String::new(),
        reason: "it was killed".to_owned(),
    });
    changed.status.old_processes = vec![leastconn_server::api::OldProcess {
        pid: 4711,
        connections: 1,
    }];
    view.update(Ok(changed), now);
    let shown = screen_of(&mut view, now, 60, 24);
    let wanted = [
        "last reload REJECTED (and 1 more): unknown key",
        "last upgrade FAILED: it was killed",
        "predecessor process 4711 still serves 1 connection",
        "overrides: web/web3 drain",
    ];
    for (line, wanted) in shown[1..].iter().zip(wanted) {
        assert_eq!(line.trim_end(), wanted);
    }
    assert!(shown[5].starts_with("open 5/10,000"), "{}", shown[5]);
}

#[test]
fn down_servers_are_above_the_totals() {
    let (mut view, now) = (View::default(), net::now());
    let mut changed = answers();
    let summary = json!([{
        "name": "web", "servers": 2, "available": 0, "active": 0, "unhealthy": 1,
        "unhealthy_servers": [{
            "server": "web2", "health": "down", "since": "2026-11-24T03:12:09.123Z",
            "reason": "HTTP status 503",
        }],
    }]);
    changed.status.time = "2026-11-24T03:15:15Z".to_owned();
    changed.status.upstreams = serde_json::from_value(summary).unwrap();
    changed.servers.servers[1].outage = Some(leastconn_server::api::Outage {
        until: None,
        since: "2026-11-24T03:12:09.123Z".to_owned(),
        reason: "HTTP status 503".to_owned(),
    });
    view.update(Ok(changed), now);
    let shown = screen_of(&mut view, now, 160, 30);
    assert_eq!(shown[1].trim_end(), "upstream web: NO server is available");
    assert_eq!(
        shown[2].trim_end(),
        "web/web2 is down since 2026-11-24T03:12:09.123Z: HTTP status 503"
    );
    let row = shown[3..].iter().find(|line| line.contains("web2"));
    assert!(row.unwrap().contains("3m05s HTTP status 503"), "{shown:#?}");
}

#[test]
fn esc_clears_the_search_before_it_quits() {
    let mut view = View::default();
    assert_eq!(press(&mut view, KeyCode::Char('/')), Action::Draw);
    assert_eq!(view.tab, Tab::Connections);
    for c in "orq".chars() {
        assert_eq!(press(&mut view, KeyCode::Char(c)), Action::Fetch);
    }
    assert_eq!(press(&mut view, KeyCode::Backspace), Action::Fetch);
    assert_eq!(view.search(), "or");
    let query = Query::search(view.search());
    assert_eq!(query.connections.search.as_deref(), Some("or"));
    assert_eq!(query.clients.search.as_deref(), Some("or"));
    press(&mut view, KeyCode::Enter);
    assert_eq!(press(&mut view, KeyCode::Esc), Action::Fetch);
    assert_eq!(Query::search(view.search()).connections.search, None);
    assert_eq!(press(&mut view, KeyCode::Esc), Action::Quit);
    press(&mut view, KeyCode::Char('/'));
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(view.press(ctrl_c), Action::Quit);
}

#[test]
fn any_terminal_size_can_be_drawn() {
    let (mut view, now) = (View::default(), net::now());
    view.update(Ok(answers()), now);
    for (width, height) in [(1, 1), (2, 7), (40, 10), (80, 24), (400, 100)] {
        for _ in Tab::ALL {
            press(&mut view, KeyCode::Tab);
            press(&mut view, KeyCode::End);
            screen_of(&mut view, now, width, height);
        }
    }
}

#[test]
fn changed_query_is_fetched_before_the_interval() {
    let query = Mutex::new(Query::search(""));
    let (results_tx, results_rx) = mpsc::sync_channel(1);
    let (wake_tx, wake_rx) = mpsc::sync_channel(1);
    let times = AtomicUsize::new(0);
    thread::scope(|scope| {
        let hour = Duration::from_secs(3600);
        let (query, times) = (&query, &times);
        let fetch = |_: &Query| {
            times.fetch_add(1, Ordering::Relaxed);
            Ok(answers())
        };
        let fetching = scope.spawn(move || fetch_loop(fetch, hour, query, results_tx, wake_rx));
        results_rx.recv().unwrap().unwrap();
        wake_tx.send(()).unwrap();
        results_rx.recv().unwrap().unwrap();
        drop(wake_tx);
        fetching.join().unwrap();
    });
    assert_eq!(times.into_inner(), 2);
}

#[test]
fn narrow_screen_drops_less_important_columns() {
    let (mut view, now) = (View::default(), net::now());
    view.update(Ok(answers()), now);
    for (key, named, present, dropped) in [
        (
            '1',
            "web1",
            &["web ", " up ", "4"][..],
            &["ADDRESS", "WEIGHT"][..],
        ),
        ('2', "orders", &["34", "20/s"], &["MATCH"]),
        (
            '3',
            "orders",
            &["1234", "10.0.0.7:40001", "web/web1"],
            &["IDENTITY", "STAGE"],
        ),
    ] {
        press(&mut view, KeyCode::Char(key));
        let shown = screen_of(&mut view, now, 80, 24);
        let row = line(&shown, named);
        assert!(present.iter().all(|part| row.contains(part)), "{shown:#?}");
        for title in dropped {
            assert!(!shown.iter().any(|line| line.contains(title)), "{shown:#?}");
        }
    }
    // In a narrow terminal, the totals wrap into a second line.
    line(&screen_of(&mut view, now, 60, 24), "handshakes\u{a0}1");
}

#[test]
fn tables_are_sorted_by_the_selected_column() {
    let (mut view, now) = (View::default(), net::now());
    view.update(Ok(answers()), now);
    let order = |view: &mut View| -> Vec<String> {
        let shown = screen(view, now);
        let rows = shown.iter().filter(|line| line.contains("10.0.0.1:80"));
        let name = |row: &String| row.split_whitespace().nth(1).unwrap().to_owned();
        rows.map(name).collect()
    };
    // UPSTREAM, SERVER, STATE, OPEN
    for _ in 0..4 {
        press(&mut view, KeyCode::Char('s'));
    }
    line(&screen(&mut view, now), "OPEN▼");
    assert_eq!(
        order(&mut view),
        ["web1", "web3", "web2", "web4", "web5", "web6"]
    );
    press(&mut view, KeyCode::Char('r'));
    line(&screen(&mut view, now), "OPEN▲");
    assert_eq!(
        order(&mut view),
        ["web2", "web4", "web5", "web6", "web3", "web1"]
    );
    // Each table has its own order. After the last column, the balancer's order returns.
    press(&mut view, KeyCode::Char('2'));
    assert_eq!(view.sort(), None);
    press(&mut view, KeyCode::Char('1'));
    for _ in 0..4 {
        press(&mut view, KeyCode::Char('s'));
    }
    assert_eq!(view.sort(), None);
    assert_eq!(
        order(&mut view),
        ["web1", "web2", "web3", "web4", "web5", "web6"]
    );
    for tab in Tab::ALL {
        view.go_to(tab);
        for column in tab.sort_columns() {
            press(&mut view, KeyCode::Char('s'));
            let arrow = ["▼", "▲"].map(|arrow| format!("{column}{arrow}"));
            let shown = screen_of(&mut view, now, 200, 30);
            let has_arrow = |line: &String| arrow.iter().any(|arrow| line.contains(arrow));
            assert!(shown.iter().any(has_arrow), "{column}: {shown:#?}");
        }
    }
}

#[test]
fn help_lists_the_keys_until_a_key_is_pressed() {
    let (mut view, now) = (View::default(), net::now());
    view.update(Ok(answers()), now);
    assert!(screen(&mut view, now)[29].contains("? help"));
    assert_eq!(press(&mut view, KeyCode::Char('?')), Action::Draw);
    let shown = screen_of(&mut view, now, 80, 24);
    assert!(line(&shown, "sort by the next column").starts_with("s "));
    assert!(
        !shown.iter().any(|line| line.contains("web1")),
        "{shown:#?}"
    );
    assert_eq!(press(&mut view, KeyCode::Esc), Action::Draw);
    line(&screen(&mut view, now), "web1");
}

#[test]
fn long_names_can_be_told_apart_at_80_columns() {
    let (mut view, now) = (View::default(), net::now());
    let mut long = answers();
    let names = [
        "inventory-production-eu-west-1a",
        "inventory-production-eu-west-1b",
    ];
    for (server, name) in long.servers.servers.iter_mut().zip(names) {
        server.upstream = "inventory-production".to_owned();
        server.server = name.to_owned();
    }
    view.update(Ok(long.clone()), now);
    let shown = screen_of(&mut view, now, 80, 24);
    for name in names {
        // Less important columns are dropped first.
        assert!(
            line(&shown, name).contains("inventory-production "),
            "{shown:#?}"
        );
    }
    // If that is not enough, names lose their middle.
    for server in &mut long.servers.servers {
        server.upstream = "inventory-production-of-the-largest-shop".to_owned();
    }
    view.update(Ok(long), now);
    let shown = screen_of(&mut view, now, 60, 24);
    let rows: Vec<_> = shown
        .iter()
        .filter(|line| line.starts_with("inventor"))
        .collect();
    assert!(rows.len() > 2, "{shown:#?}");
    assert!(
        rows[0].contains("1a ") && rows[1].contains("1b "),
        "{shown:#?}"
    );
    assert!(rows[0].contains('…'), "{shown:#?}");
}
