//! Answers, for people.

use leastconn::AdminState;

use super::table::{Cell, Paper, Side, Table, Tone};
use crate::figures;
use leastconn_server::api::{
    Certificate, CertificateKind, CertificateState, Clients, Connections, ListenerStatus, Phase,
    Refusals, ReloadOutcome, ServerState, Servers, Stage, StateSet, Status, UpstreamSummary,
    outage,
};

/// Lines about upstreams without an available server and servers that are down.
const OUTAGES: usize = 10;

/// Certificates that last longer are not worth a line.
const SOON: i64 = 30;

pub(super) fn status(status: &Status, paper: &Paper) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: &str| {
        out.push_str(&format!("{name:<14} {text}\n"));
    };
    let (phase, tone) = match status.phase {
        Phase::Starting => ("starting", Tone::Odd),
        Phase::Ready => ("ready", Tone::Good),
        Phase::Draining => ("draining", Tone::Odd),
    };
    row("state", &paper.paint(phase, tone));
    row(
        "version",
        &format!("{}, pid {}", status.version, status.pid),
    );
    row(
        "up for",
        &format!(
            "{}, since {}",
            figures::age(status.uptime_seconds),
            status.started
        ),
    );
    for (n, line) in outage::lines(&status.upstreams, OUTAGES).iter().enumerate() {
        row(
            if n == 0 { "servers down" } else { "" },
            &paper.paint(line, Tone::Bad),
        );
    }
    let configuration = &status.configuration;
    row(
        "configuration",
        &format!(
            "{}, in force since {}",
            configuration.file, configuration.applied
        ),
    );
    match &configuration.last_reload {
        None => row("last reload", "none"),
        Some(reload) if reload.outcome == ReloadOutcome::Applied => {
            row("last reload", &format!("applied, {}", reload.time));
        }
        Some(reload) => {
            let rejected = paper.paint("REJECTED", Tone::Bad);
            row(
                "last reload",
                &format!(
                    "{rejected}, {}: the one before goes on, because",
                    reload.time
                ),
            );
            reload.reasons.iter().for_each(|reason| row("", reason));
        }
    }
    if let Some(blocked) = &configuration.blocked {
        let word = paper.paint("BLOCKED", Tone::Bad);
        row("reading", &format!("{word} by {blocked}"));
    }
    if let Some(upgrade) = &status.failed_upgrade {
        let failed = paper.paint("FAILED", Tone::Bad);
        let time = &upgrade.time;
        row(
            "last upgrade",
            &format!("{failed}, {time}: this process goes on, because"),
        );
        row("", &upgrade.reason);
    }
    for (n, old) in status.old_processes.iter().enumerate() {
        row(if n == 0 { "upgraded" } else { "" }, &old.to_string());
    }
    for (n, deviation) in configuration.deviations.iter().enumerate() {
        let since = deviation.since.as_ref();
        let since = since
            .map(|since| format!(", since {since}"))
            .unwrap_or_default();
        let what = format!(
            "{} is {}, not {}{since}",
            deviation.what, deviation.is, deviation.configured
        );
        row(
            if n == 0 { "set by hand" } else { "" },
            &paper.paint(&what, Tone::Odd),
        );
    }
    let connections = &status.connections;
    row(
        "connections",
        &format!(
            "{} open of at most {}, {} since the start, {} received, {} sent",
            connections.open,
            connections.limit,
            connections.accepted,
            figures::bytes(connections.bytes_received),
            figures::bytes(connections.bytes_sent)
        ),
    );
    if let Some(memory) = &status.memory {
        let (used, limit) = (memory.used_bytes, memory.limit_bytes);
        let text = format!("{} of {}", figures::bytes(used), figures::bytes(limit));
        let over = if used > limit {
            paper.paint(": new connections are REFUSED", Tone::Bad)
        } else {
            String::new()
        };
        row("memory", &format!("{text}{over}"));
    }
    row(
        "handshakes",
        &format!(
            "{} going on, {} waiting",
            connections.handshakes, connections.handshakes_waiting
        ),
    );
    let outcomes = connections.outcomes.iter();
    let outcomes: Vec<_> = outcomes
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    if !outcomes.is_empty() {
        row("ended", &outcomes.join(", "));
    }
    let lost = match status.log.lines_lost {
        0 => String::new(),
        lost => paper.paint(&format!(", {lost} lines LOST"), Tone::Bad),
    };
    row(
        "log",
        &format!(
            "level {}, access to {}{lost}",
            status.log.level, status.log.access
        ),
    );
    let ending = status.certificates.iter();
    let ending = ending.filter(|file| is_worth_a_line(file));
    let mut lines: Vec<_> = ending.map(|file| expires(file, paper)).collect();
    for file in &status.certificates {
        lines.extend(file.expired.iter().map(|name| {
            let text = format!("{}: {name} has EXPIRED, its clients are refused", file.file);
            paper.paint(&text, Tone::Bad)
        }));
    }
    if lines.is_empty() && !status.certificates.is_empty() {
        lines.push(format!("none expires within {SOON} days, no list soon"));
    }
    for (n, line) in lines.iter().enumerate() {
        row(if n == 0 { "certificates" } else { "" }, line);
    }
    out.push('\n');
    out.push_str(&listeners(&status.listeners, paper));
    if !status.upstreams.is_empty() {
        out.push('\n');
        out.push_str(&upstreams(&status.upstreams, paper));
    }
    out
}

/// Lists are renewed often: theirs is relative to how long they are valid.
fn is_worth_a_line(file: &Certificate) -> bool {
    match file.kind {
        CertificateKind::Crl => file.state != CertificateState::Valid,
        _ => file.days_left < SOON,
    }
}

fn expires(file: &Certificate, paper: &Paper) -> String {
    let is_list = file.kind == CertificateKind::Crl;
    let (when, tone) = match (file.state, file.days_left) {
        (CertificateState::Expired, _) if is_list => (
            "has EXPIRED: clients of its issuer are refused (crl_expired)".to_owned(),
            Tone::Bad,
        ),
        (CertificateState::Expired, _) | (_, ..0) => ("has EXPIRED".to_owned(), Tone::Bad),
        (_, 0) => ("expires TODAY".to_owned(), Tone::Bad),
        (_, 1) => ("expires in 1 day".to_owned(), Tone::Bad),
        (CertificateState::ExpiresNow, days) => (format!("expires in {days} days"), Tone::Bad),
        (_, days) => (format!("expires in {days} days"), Tone::Odd),
    };
    let name = match &*file.name {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let text = format!("{}{name} {when}, {}", file.file, file.not_after);
    paper.paint(&text, tone)
}

fn listeners(listeners: &[ListenerStatus], paper: &Paper) -> String {
    let mut table = Table::new(&[
        ("LISTENER", Side::Left),
        ("OPEN", Side::Right),
        ("ACCEPTED", Side::Right),
        ("RECEIVED", Side::Right),
        ("SENT", Side::Right),
        ("CLIENTS", Side::Left),
        ("TO", Side::Left),
        ("AT", Side::Cut),
    ]);
    for listener in listeners {
        let at = match &listener.addresses[..] {
            [] => Cell("nowhere any more".to_owned(), Tone::Odd),
            addresses => addresses.join(" ").into(),
        };
        table.row(vec![
            (&*listener.name).into(),
            listener.open.to_string().into(),
            listener.accepted.to_string().into(),
            figures::bytes(listener.bytes_received).into(),
            figures::bytes(listener.bytes_sent).into(),
            match (listener.tls, listener.client_certificate) {
                (_, true) => "certificate",
                (true, false) => "tls",
                (false, false) => "plain",
            }
            .into(),
            listener.upstream.as_deref().unwrap_or("-").into(),
            at,
        ]);
    }
    table.print(paper)
}

fn upstreams(upstreams: &[UpstreamSummary], paper: &Paper) -> String {
    let mut table = Table::new(&[
        ("UPSTREAM", Side::Left),
        ("SERVERS", Side::Right),
        ("AVAILABLE", Side::Right),
        ("OPEN", Side::Right),
    ]);
    for upstream in upstreams {
        let tone = match upstream.available {
            0 => Tone::Bad,
            n if n < upstream.servers => Tone::Odd,
            _ => Tone::Plain,
        };
        table.row(vec![
            (&*upstream.name).into(),
            upstream.servers.to_string().into(),
            Cell(upstream.available.to_string(), tone),
            upstream.active.to_string().into(),
        ]);
    }
    table.print(paper)
}

pub(super) fn servers(servers: &Servers, paper: &Paper) -> String {
    let mut table = Table::new(&[
        ("SERVER", Side::Left),
        ("STATE", Side::Left),
        ("HEALTH", Side::Left),
        ("OPEN", Side::Right),
        ("MAX", Side::Right),
        ("WEIGHT", Side::Right),
        ("CONNECTIONS", Side::Right),
        ("FAILED", Side::Right),
        ("ADDRESS", Side::Cut),
    ]);
    for server in &servers.servers {
        let ready = server.state == AdminState::Ready.as_str();
        let up = server.health == "up";
        let backup = if server.backup { " (backup)" } else { "" };
        table.row(vec![
            format!("{}/{}", server.upstream, server.server).into(),
            Cell(
                server.state.clone(),
                if ready { Tone::Plain } else { Tone::Odd },
            ),
            match &server.slow_start {
                Some(slow) => Cell(
                    format!("{}, {}", server.health, figures::slow_start(slow)),
                    Tone::Odd,
                ),
                None => Cell(
                    server.health.clone(),
                    if up { Tone::Good } else { Tone::Bad },
                ),
            },
            server.active.to_string().into(),
            server
                .max_conns
                .map_or_else(|| "-".to_owned(), |max| max.to_string())
                .into(),
            server.weight.to_string().into(),
            server.connections.to_string().into(),
            server.connect_failures.to_string().into(),
            format!("{}{backup}", server.address).into(),
        ]);
    }
    let mut out = table.print(paper);
    let down = servers.servers.iter().filter_map(|server| {
        let outage = server.outage.as_ref()?;
        let line = outage::line(&server.upstream, &server.server, &server.health, outage);
        Some(paper.paint(&line, Tone::Bad) + "\n")
    });
    let down: String = down.collect();
    if !down.is_empty() {
        out.push('\n');
        out.push_str(&down);
    }
    out
}

pub(super) fn clients(clients: &Clients, paper: &Paper) -> String {
    let mut table = Table::new(&[
        ("CLIENT", Side::Left),
        ("OPEN", Side::Right),
        ("CONNECTIONS", Side::Right),
        ("REFUSED", Side::Right),
        ("FAILED", Side::Right),
        ("ENDED", Side::Right),
        ("RATE", Side::Right),
        ("MAX", Side::Right),
        ("ALLOW", Side::Cut),
        ("MATCH", Side::Cut),
    ]);
    for client in &clients.clients {
        let rate = client.rate_limit.as_ref();
        let shadow = if client.mode == "shadow" {
            " (shadow)"
        } else {
            ""
        };
        table.row(vec![
            format!("{}{shadow}", client.client).into(),
            client.active.to_string().into(),
            client.connections.to_string().into(),
            client.refused.to_string().into(),
            client.failed.to_string().into(),
            client.ended.to_string().into(),
            rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", rate.rate))
                .into(),
            client
                .max_conns
                .map_or_else(|| "-".to_owned(), |max| max.to_string())
                .into(),
            client.allow.join(" ").into(),
            client.matches.join(" ").into(),
        ]);
    }
    table.print(paper) + &rest(clients.clients.len(), clients.total)
}

pub(super) fn connections(connections: &Connections, paper: &Paper) -> String {
    let mut table = Table::new(&[
        ("ID", Side::Right),
        ("AGE", Side::Right),
        ("STAGE", Side::Left),
        ("CLIENT", Side::Left),
        ("SERVER", Side::Left),
        ("RECEIVED", Side::Right),
        ("SENT", Side::Right),
        ("LISTENER", Side::Left),
        ("SOURCE", Side::Left),
        ("IDENTITY", Side::Cut),
    ]);
    for connection in &connections.connections {
        let to = match (&connection.upstream, &connection.server) {
            (Some(upstream), Some(server)) => format!("{upstream}/{server}"),
            (Some(upstream), None) => upstream.clone(),
            _ => "-".to_owned(),
        };
        table.row(vec![
            connection.connection.to_string().into(),
            figures::age((connection.duration_ms / 1e3) as u64).into(),
            match connection.stage {
                Stage::Handshake => "handshake",
                Stage::Connecting => "connecting",
                Stage::Relaying => "relaying",
            }
            .into(),
            connection.client.as_deref().unwrap_or("-").into(),
            to.into(),
            figures::bytes(connection.bytes_received).into(),
            figures::bytes(connection.bytes_sent).into(),
            (&*connection.listener).into(),
            (&*connection.source).into(),
            connection.identity.as_deref().unwrap_or("-").into(),
        ]);
    }
    table.print(paper) + &rest(connections.connections.len(), connections.total)
}

pub(super) fn refusals(refusals: &Refusals, paper: &Paper) -> String {
    let mut table = Table::new(&[
        ("TIME", Side::Left),
        ("REASON", Side::Left),
        ("LISTENER", Side::Left),
        ("SOURCE", Side::Left),
        ("WHO", Side::Left),
        ("DETAIL", Side::Cut),
    ]);
    for refusal in &refusals.refusals {
        let known = [&refusal.client, &refusal.identity, &refusal.subject];
        let who = known.into_iter().flatten().chain(&refusal.names).next();
        table.row(vec![
            (&*refusal.time).into(),
            (&*refusal.outcome).into(),
            (&*refusal.listener).into(),
            (&*refusal.source).into(),
            who.map_or("-", String::as_str).into(),
            refusal.detail.as_deref().unwrap_or("-").into(),
        ]);
    }
    table.print(paper) + &rest(refusals.refusals.len(), refusals.total)
}

/// Says how many are not shown.
fn rest(shown: usize, total: usize) -> String {
    match total.saturating_sub(shown) {
        0 => String::new(),
        more => format!("and {more} more (--limit, --search)\n"),
    }
}

pub(super) fn set(set: &StateSet) -> String {
    let (state, was) = (word(set.state), word(set.was));
    let (connections, are) = match set.active {
        1 => ("1 connection".to_owned(), "is"),
        n => (format!("{n} connections"), "are"),
    };
    let left = match (set.state, set.active) {
        (ServerState::Ready, _) => String::new(),
        (_, 0) => "; no connections are left".to_owned(),
        (ServerState::Drain, _) => format!("; {connections} left"),
        (ServerState::Maint, _) => {
            let seconds = set.ends_after_seconds.unwrap_or_default();
            format!("; {connections} left, which {are} ended after {seconds}s")
        }
    };
    let alone = match (set.state, set.available) {
        (ServerState::Drain | ServerState::Maint, Some(0)) => {
            format!(
                "; {} has NO server left that is given connections",
                set.upstream
            )
        }
        _ => String::new(),
    };
    format!(
        "{}/{}: {state} (was {was}){left}{alone}\n",
        set.upstream, set.server
    )
}

const fn word(state: ServerState) -> &'static str {
    match state {
        ServerState::Ready => "ready",
        ServerState::Drain => "drain",
        ServerState::Maint => "maint",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_said_in_a_line() {
        let mut done = StateSet {
            upstream: "web".to_owned(),
            server: "web1".to_owned(),
            state: ServerState::Maint,
            was: ServerState::Ready,
            active: 1,
            available: Some(1),
            ends_after_seconds: Some(10.0),
        };
        assert_eq!(
            set(&done),
            "web/web1: maint (was ready); 1 connection left, which is ended after 10s\n"
        );
        done.state = ServerState::Drain;
        done.active = 3;
        assert_eq!(
            set(&done),
            "web/web1: drain (was ready); 3 connections left\n"
        );
        done.available = Some(0);
        assert_eq!(
            set(&done),
            "web/web1: drain (was ready); 3 connections left; web has NO server left that is given connections\n"
        );
        done.state = ServerState::Ready;
        assert_eq!(set(&done), "web/web1: ready (was ready)\n");
    }
}
