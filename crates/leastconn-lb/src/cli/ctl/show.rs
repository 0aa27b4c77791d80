//! Renders the answers of the admin API as text.

pub(super) mod blocks;
mod discovery;
mod expiry;
pub(super) mod fleet;

use leastconn::AdminState;

use super::table::{Align, Cell, OutputStyle, Table, Tone};
use crate::figures;
use leastconn_server::api::{
    Clients, Connections, ListenerStatus, Phase, Refusals, ReloadOutcome, ServerState, Servers,
    Stage, StateSet, Status, UpstreamSummary, WeightSet, outage, outage_lines,
};

/// Maximum number of lines about unavailable upstreams and servers.
const MAX_OUTAGE_LINES: usize = 10;

pub(super) fn status(status: &Status, style: &OutputStyle) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: &str| {
        out.push_str(&format!("{name:<14} {text}\n"));
    };
    let (phase, tone) = match status.phase {
        Phase::Starting => ("starting", Tone::Warning),
        Phase::Ready => ("ready", Tone::Good),
        Phase::Draining => ("draining", Tone::Warning),
    };
    let waiting = status.upstreams.iter().filter(|one| one.waits_for_servers);
    let waiting: Vec<_> = waiting.map(|one| &*one.name).collect();
    let reason = match &waiting[..] {
        [..] if status.phase != Phase::Starting => String::new(),
        [] => String::new(),
        names => format!(
            ": waits until servers are discovered for {}",
            names.join(", ")
        ),
    };
    row("state", &format!("{}{reason}", style.paint(phase, tone)));
    row(
        "version",
        &format!("{}, pid {}", status.version, status.pid),
    );
    row(
        "uptime",
        &format!(
            "{}, since {}",
            figures::age(status.uptime_seconds),
            status.started
        ),
    );
    for (n, line) in outage_lines(&status.upstreams, MAX_OUTAGE_LINES)
        .iter()
        .enumerate()
    {
        row(
            if n == 0 { "servers" } else { "" },
            &style.paint(line, Tone::Bad),
        );
    }
    let configuration = &status.configuration;
    row(
        "configuration",
        &format!("{}, applied {}", configuration.file, configuration.applied),
    );
    match &configuration.last_reload {
        None => row("last reload", "none"),
        Some(reload) if reload.outcome == ReloadOutcome::Applied => {
            row("last reload", &format!("applied {}", reload.time));
        }
        Some(reload) => {
            let rejected = style.paint("REJECTED", Tone::Bad);
            row(
                "last reload",
                &format!(
                    "{rejected} {}; the previous configuration stays active:",
                    reload.time
                ),
            );
            reload.reasons.iter().for_each(|reason| row("", reason));
        }
    }
    if let Some(blocked) = &configuration.blocked {
        let word = style.paint("BLOCKED", Tone::Bad);
        row("reload", &format!("{word} by {blocked}"));
    }
    if let Some(upgrade) = &status.failed_upgrade {
        let failed = style.paint("FAILED", Tone::Bad);
        let time = &upgrade.time;
        row(
            "last upgrade",
            &format!("{failed} {time}; this process continues:"),
        );
        row("", &upgrade.reason);
    }
    for (n, old) in status.old_processes.iter().enumerate() {
        row(if n == 0 { "old processes" } else { "" }, &old.to_string());
    }
    for (n, deviation) in configuration.deviations.iter().enumerate() {
        let since = deviation.since.as_ref();
        let since = since
            .map(|since| format!(", since {since}"))
            .unwrap_or_default();
        let text = format!(
            "{} {} (configured: {}){since}{}",
            deviation.what,
            deviation.is,
            deviation.configured,
            fleet::set_for(deviation.set_for)
        );
        row(
            if n == 0 { "overrides" } else { "" },
            &style.paint(&text, Tone::Warning),
        );
    }
    if configuration.blocks > 0 {
        let blocked = figures::count(configuration.blocks, "client");
        let text = format!("{blocked} (`ctl blocks` lists them)");
        row("blocked", &style.paint(&text, Tone::Warning));
    }
    if let Some(fleet) = &status.fleet {
        row("fleet", &fleet::summary(fleet, style));
    }
    let connections = &status.connections;
    row(
        "connections",
        &format!(
            "{} open (limit {}){}, {} accepted since start, {} received, {} sent",
            connections.open,
            connections.limit,
            if connections.open >= connections.limit {
                style.paint(": new connections are REFUSED", Tone::Bad)
            } else {
                String::new()
            },
            connections.accepted,
            figures::bytes(connections.bytes_received),
            figures::bytes(connections.bytes_sent)
        ),
    );
    if let Some(memory) = &status.memory {
        let (used, limit) = (memory.used_bytes, memory.limit_bytes);
        let text = format!("{} of {}", figures::bytes(used), figures::bytes(limit));
        let over = if used > limit {
            style.paint(": new connections are REFUSED", Tone::Bad)
        } else {
            String::new()
        };
        row("memory", &format!("{text}{over}"));
    }
    row(
        "handshakes",
        &format!(
            "{} in progress, {} waiting",
            connections.handshakes, connections.handshakes_waiting
        ),
    );
    let outcomes = connections.outcomes.iter();
    let outcomes: Vec<_> = outcomes
        .map(|(reason, n)| format!("{reason} {n}"))
        .collect();
    if !outcomes.is_empty() {
        row("outcomes", &outcomes.join(", "));
    }
    let lost = match status.log.lines_lost {
        0 => String::new(),
        lost => style.paint(&format!(", {lost} lines LOST"), Tone::Bad),
    };
    row(
        "log",
        &format!(
            "level {}, access log to {}{lost}",
            status.log.level, status.log.access
        ),
    );
    let lines = expiry::lines(&status.certificates, style);
    for (n, line) in lines.iter().enumerate() {
        row(if n == 0 { "certificates" } else { "" }, line);
    }
    out.push('\n');
    out.push_str(&listeners(&status.listeners, style));
    if !status.upstreams.is_empty() {
        out.push('\n');
        out.push_str(&upstreams(&status.upstreams, style));
    }
    out
}

fn listeners(listeners: &[ListenerStatus], style: &OutputStyle) -> String {
    let mut table = Table::new(&[
        ("LISTENER", Align::Left),
        ("OPEN", Align::Right),
        ("ACCEPTED", Align::Right),
        ("RECEIVED", Align::Right),
        ("SENT", Align::Right),
        ("TLS", Align::Left),
        ("UPSTREAM", Align::Left),
        ("ADDRESS", Align::Truncate),
    ]);
    for listener in listeners {
        let addresses = match &listener.addresses[..] {
            [] => Cell("closed".to_owned(), Tone::Warning),
            addresses => addresses.join(" ").into(),
        };
        table.row(vec![
            (&*listener.name).into(),
            listener.open.to_string().into(),
            listener.accepted.to_string().into(),
            figures::bytes(listener.bytes_received).into(),
            figures::bytes(listener.bytes_sent).into(),
            match (listener.tls, listener.client_certificate) {
                (_, true) => "mutual",
                (true, false) => "server",
                (false, false) => "off",
            }
            .into(),
            listener.upstream.as_deref().unwrap_or("-").into(),
            addresses,
        ]);
    }
    table.render(style)
}

fn upstreams(upstreams: &[UpstreamSummary], style: &OutputStyle) -> String {
    let mut table = Table::new(&[
        ("UPSTREAM", Align::Left),
        ("SERVERS", Align::Right),
        ("AVAILABLE", Align::Right),
        ("OPEN", Align::Right),
        ("ZONE", Align::Left),
    ]);
    for upstream in upstreams {
        let tone = match upstream.available {
            0 => Tone::Bad,
            n if n < upstream.servers || upstream.is_full() => Tone::Warning,
            _ => Tone::Plain,
        };
        table.row(vec![
            (&*upstream.name).into(),
            upstream.servers.to_string().into(),
            Cell(upstream.available.to_string(), tone),
            upstream.active.to_string().into(),
            match &upstream.zone {
                None => "-".into(),
                Some(zone) if zone.preferred => (&*zone.name).into(),
                Some(zone) => Cell(
                    format!("all, less than half of {} is available", zone.name),
                    Tone::Warning,
                ),
            },
        ]);
    }
    table.render(style)
}

pub(super) fn servers(servers: &Servers, style: &OutputStyle) -> String {
    let in_fleet = servers.servers.iter().any(|one| one.elsewhere.is_some());
    let mut columns = vec![
        ("SERVER", Align::Left),
        ("STATE", Align::Left),
        ("HEALTH", Align::Left),
        ("OPEN", Align::Right),
    ];
    if in_fleet {
        columns.push(("ELSEWHERE", Align::Right));
    }
    columns.extend([
        ("MAX", Align::Right),
        ("WEIGHT", Align::Right),
        ("CONNECTIONS", Align::Right),
        ("FAILED", Align::Right),
        ("EARLY", Align::Right),
        ("ADDRESS", Align::Truncate),
    ]);
    let mut table = Table::new(&columns);
    for server in &servers.servers {
        let state = server.state_text();
        let ready = state == AdminState::Ready.as_str();
        let zone = server.zone.as_ref().map(|zone| format!("zone {zone}"));
        let notes = zone
            .into_iter()
            .chain(server.backup.then(|| "backup".to_owned()));
        let mut notes = notes.collect::<Vec<_>>().join(", ");
        if !notes.is_empty() {
            notes = format!(" ({notes})");
        }
        let mut row = vec![
            format!("{}/{}", server.upstream, server.server).into(),
            Cell(state, if ready { Tone::Plain } else { Tone::Warning }),
            match &server.slow_start {
                Some(slow) => Cell(
                    format!("{}, {}", server.health_text(), figures::slow_start(slow)),
                    Tone::Warning,
                ),
                None => Cell(
                    server.health_text().to_owned(),
                    match server.health_text() {
                        outage::UP => Tone::Good,
                        outage::UNCHECKED => Tone::Plain,
                        _ => Tone::Bad,
                    },
                ),
            },
            server.active.to_string().into(),
        ];
        if in_fleet {
            let elsewhere = server.elsewhere.map(|open| open.to_string());
            row.push(elsewhere.unwrap_or_else(|| "-".to_owned()).into());
        }
        row.extend([
            server
                .max_conns
                .map_or_else(|| "-".to_owned(), |max| max.to_string())
                .into(),
            server.weight_text().into(),
            server.connections.to_string().into(),
            server.connect_failures.to_string().into(),
            server.early_failures.to_string().into(),
            format!("{}{notes}", server.address).into(),
        ]);
        table.row(row);
    }
    let mut out = table.render(style);
    for section in [
        discovery::removed(&servers.removed, style),
        discovery::sources(&servers.sources, style),
    ] {
        if !section.is_empty() {
            out.push('\n');
            out.push_str(&section);
        }
    }
    let down = servers.servers.iter().filter_map(|server| {
        let (upstream, name) = (&server.upstream, &server.server);
        let line = match (&server.outage, &server.kept_in_use) {
            (Some(outage), _) => outage::line(upstream, name, &server.health, outage),
            (None, Some(failure)) => outage::kept_line(upstream, name, failure),
            (None, None) => return None,
        };
        Some(style.paint(&line, Tone::Bad) + "\n")
    });
    let down: String = down.collect();
    if !down.is_empty() {
        out.push('\n');
        out.push_str(&down);
    }
    out
}

pub(super) fn clients(clients: &Clients, style: &OutputStyle) -> String {
    let mut table = Table::new(&[
        ("CLIENT", Align::Left),
        ("OPEN", Align::Right),
        ("CONNECTIONS", Align::Right),
        ("REFUSED", Align::Right),
        ("FAILED", Align::Right),
        ("ENDED", Align::Right),
        ("RATE", Align::Right),
        ("MAX", Align::Right),
        ("ALLOW", Align::Truncate),
        ("MATCH", Align::Truncate),
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
    table.render(style) + &not_shown(clients.clients.len(), clients.total)
}

pub(super) fn connections(connections: &Connections, style: &OutputStyle) -> String {
    let mut table = Table::new(&[
        ("ID", Align::Right),
        ("AGE", Align::Right),
        ("STAGE", Align::Left),
        ("CLIENT", Align::Left),
        ("SERVER", Align::Left),
        ("RECEIVED", Align::Right),
        ("SENT", Align::Right),
        ("LISTENER", Align::Left),
        ("SOURCE", Align::Left),
        ("IDENTITY", Align::Truncate),
    ]);
    for connection in &connections.connections {
        let server = match (&connection.upstream, &connection.server) {
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
            server.into(),
            figures::bytes(connection.bytes_received).into(),
            figures::bytes(connection.bytes_sent).into(),
            (&*connection.listener).into(),
            (&*connection.source).into(),
            connection.identity.as_deref().unwrap_or("-").into(),
        ]);
    }
    table.render(style) + &not_shown(connections.connections.len(), connections.total)
}

pub(super) fn refusals(refusals: &Refusals, style: &OutputStyle) -> String {
    let mut table = Table::new(&[
        ("TIME", Align::Left),
        ("REASON", Align::Left),
        ("LISTENER", Align::Left),
        ("SOURCE", Align::Left),
        ("WHO", Align::Left),
        ("DETAIL", Align::Truncate),
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
    table.render(style) + &not_shown(refusals.refusals.len(), refusals.total)
}

/// Returns a line with the number of rows that the limit leaves out, or an empty string if there
/// are none.
fn not_shown(shown: usize, total: usize) -> String {
    match total.saturating_sub(shown) {
        0 => String::new(),
        more => format!("{more} more: use --limit or --search\n"),
    }
}

pub(super) fn weight_set(set: &WeightSet) -> String {
    let warning = if set.weight == 0.0 {
        no_server_left(&set.upstream, set.available)
    } else {
        String::new()
    };
    format!(
        "{}/{}: weight {} (was {}, configured: {}){warning}\n",
        set.upstream, set.server, set.weight, set.was, set.configured
    )
}

fn no_server_left(upstream: &str, available: Option<usize>) -> String {
    if available == Some(0) {
        format!("; upstream {upstream} has NO server left for new connections")
    } else {
        String::new()
    }
}

pub(super) fn state_set(set: &StateSet) -> String {
    let (state, was) = (state_name(set.state), state_name(set.was));
    let connections = match set.active {
        1 => "1 connection".to_owned(),
        n => format!("{n} connections"),
    };
    let left = match (set.state, set.active) {
        (ServerState::Ready, _) => String::new(),
        (_, 0) => "; no connections left".to_owned(),
        (ServerState::Drain, _) => format!("; {connections} left"),
        (ServerState::Maint, _) => {
            let seconds = set.ends_after_seconds.unwrap_or_default();
            format!("; {connections} left, to be closed after {seconds}s")
        }
    };
    let warning = match set.state {
        ServerState::Ready => String::new(),
        ServerState::Drain | ServerState::Maint => no_server_left(&set.upstream, set.available),
    };
    format!(
        "{}/{}: {state} (was {was}){left}{warning}\n",
        set.upstream, set.server
    )
}

const fn state_name(state: ServerState) -> &'static str {
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
    fn state_change_is_one_line() {
        let mut change = StateSet {
            upstream: "web".to_owned(),
            server: "web1".to_owned(),
            state: ServerState::Maint,
            was: ServerState::Ready,
            active: 1,
            available: Some(1),
            ends_after_seconds: Some(10.0),
            fleet: None,
        };
        assert_eq!(
            state_set(&change),
            "web/web1: maint (was ready); 1 connection left, to be closed after 10s\n"
        );
        change.state = ServerState::Drain;
        change.active = 3;
        assert_eq!(
            state_set(&change),
            "web/web1: drain (was ready); 3 connections left\n"
        );
        change.available = Some(0);
        assert_eq!(
            state_set(&change),
            "web/web1: drain (was ready); 3 connections left; upstream web has NO server left for new connections\n"
        );
        change.state = ServerState::Ready;
        assert_eq!(state_set(&change), "web/web1: ready (was ready)\n");
    }
}
