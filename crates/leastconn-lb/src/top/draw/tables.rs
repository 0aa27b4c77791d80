//! The tables.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Rect},
    style::{Modifier, Style, Stylize},
    text::{Span, Text},
    widgets::{Cell, Row, Table},
};

use super::super::{
    Picture,
    view::{Tab, View},
};
use crate::{
    api::{Client, Connection, Server},
    figures,
};

/// Cells of a bar.
const BAR: u16 = 12;

pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, picture: &Picture, area: Rect) {
    let (columns, rows) = match view.tab {
        Tab::Servers => servers(view, picture),
        Tab::Clients => clients(view, picture),
        Tab::Connections => connections(picture),
        Tab::Outcomes => outcomes(view, picture),
        Tab::Certificates => certificates(picture),
    };
    let (head, widths): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let head = Row::new(head).style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(rows, widths)
        .header(head)
        .column_spacing(2)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut view.table);
}

type Columns = Vec<(Cell<'static>, Constraint)>;
type Rows = Vec<Row<'static>>;

fn left(text: impl Into<String>) -> Cell<'static> {
    Cell::from(text.into())
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Text::from(text.into()).alignment(Alignment::Right))
}

/// Nothing is known before the second picture.
fn rate(rate: Option<f64>) -> Cell<'static> {
    right(rate.map_or_else(|| "-".to_owned(), figures::rate))
}

/// A column of texts, which shares the room that there is.
fn texts(title: &str, share: u16) -> (Cell<'static>, Constraint) {
    (left(title), Constraint::Fill(share))
}

/// A column of words, of one width.
fn words(title: &str, width: u16) -> (Cell<'static>, Constraint) {
    (left(title), Constraint::Length(width))
}

/// A column of numbers, of one width.
fn numbers(title: &str, width: u16) -> (Cell<'static>, Constraint) {
    (right(title), Constraint::Length(width))
}

fn servers(view: &View, picture: &Picture) -> (Columns, Rows) {
    let columns = vec![
        texts("UPSTREAM", 2),
        texts("SERVER", 2),
        words("STATE", 7),
        numbers("ACTIVE", 11),
        words("", BAR),
        numbers("NEW/S", 7),
        numbers("TOTAL", 12),
        numbers("FAILED", 7),
        numbers("WEIGHT", 6),
        texts("ADDRESS", 3),
    ];
    let servers = &picture.servers.servers;
    let most = servers.iter().map(|server| server.active).max();
    let row = |server: &Server| {
        let active = match server.max_conns {
            Some(max) => format!("{}/{max}", server.active),
            None => figures::number(server.active.into()),
        };
        let full = server.max_conns.or(most).unwrap_or(0);
        let name = if server.backup {
            format!("{} (backup)", server.server)
        } else {
            server.server.clone()
        };
        Row::new(vec![
            left(&server.upstream),
            left(name),
            Cell::from(state(server)),
            right(active),
            left(bar(server.active.into(), full.into())),
            rate(view.server_rate(&server.upstream, &server.server)),
            right(figures::number(server.connections)),
            right(figures::number(server.connect_failures)),
            right(server.weight.to_string()),
            left(&server.address),
        ])
    };
    (columns, servers.iter().map(row).collect())
}

/// What the operator wants, unless it is nothing special; then what health says.
fn state(server: &Server) -> Span<'static> {
    let word = match server.state.as_str() {
        "ready" => server.health.clone(),
        other => other.to_owned(),
    };
    match word.as_str() {
        "up" => word.green(),
        "down" | "ejected" => word.red().bold(),
        _ => word.yellow(),
    }
}

fn bar(value: u64, full: u64) -> String {
    let cells = (value * u64::from(BAR)).div_ceil(full.max(1));
    "█".repeat(usize::from(
        u16::try_from(cells).map_or(BAR, |cells| cells.min(BAR)),
    ))
}

fn clients(view: &View, picture: &Picture) -> (Columns, Rows) {
    let columns = vec![
        texts("CLIENT", 2),
        numbers("ACTIVE", 9),
        numbers("NEW/S", 7),
        numbers("TOTAL", 12),
        numbers("REFUSED", 9),
        words("LIMITS", 16),
        texts("ALLOW", 2),
        texts("MATCH", 3),
    ];
    let row = |client: &Client| {
        let refused: u64 = ["not_allowed", "rate_limited", "too_many_connections"]
            .iter()
            .filter_map(|outcome| client.outcomes.get(*outcome))
            .sum();
        let rate_limit = client.rate_limit.map(|limit| format!("{}/s", limit.rate));
        let max_conns = client.max_conns.map(|max| format!("{max} open"));
        let limits: Vec<_> = rate_limit.into_iter().chain(max_conns).collect();
        let name = match client.mode.as_str() {
            "enforce" => client.client.clone(),
            mode => format!("{} ({mode})", client.client),
        };
        Row::new(vec![
            left(name),
            right(figures::number(client.active)),
            rate(view.client_rate(&client.client)),
            right(figures::number(client.connections)),
            right(figures::number(refused)),
            left(limits.join(", ")),
            left(client.allow.join(" ")),
            left(client.matches.join(" ")),
        ])
    };
    let rows = picture.clients.clients.iter().map(row).collect();
    (columns, rows)
}

fn connections(picture: &Picture) -> (Columns, Rows) {
    let columns = vec![
        numbers("ID", 8),
        numbers("AGE", 6),
        texts("CLIENT", 2),
        texts("IDENTITY", 3),
        words("SOURCE", 21),
        texts("SERVER", 2),
        numbers("IN", 8),
        numbers("OUT", 8),
        words("STAGE", 10),
    ];
    let row = |connection: &Connection| {
        let server = match (&connection.upstream, &connection.server) {
            (Some(upstream), Some(server)) => format!("{upstream}/{server}"),
            (Some(upstream), None) => upstream.clone(),
            _ => String::new(),
        };
        Row::new(vec![
            right(connection.connection.to_string()),
            right(figures::age((connection.duration_ms / 1e3) as u64)),
            left(connection.client.clone().unwrap_or_default()),
            left(connection.identity.clone().unwrap_or_default()),
            left(&connection.source),
            left(server),
            right(figures::bytes(connection.bytes_received)),
            right(figures::bytes(connection.bytes_sent)),
            left(connection.stage.as_str()),
        ])
    };
    let rows = picture.connections.connections.iter().map(row).collect();
    (columns, rows)
}

fn outcomes(view: &View, picture: &Picture) -> (Columns, Rows) {
    let columns = vec![
        words("OUTCOME", 22),
        numbers("TOTAL", 14),
        numbers("PER SECOND", 10),
    ];
    let mut outcomes: Vec<_> = picture.status.connections.outcomes.iter().collect();
    outcomes.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    let row = |(outcome, &count): (&String, &u64)| {
        Row::new(vec![
            left(outcome),
            right(figures::number(count)),
            rate(view.outcome_rate(outcome)),
        ])
    };
    (columns, outcomes.into_iter().map(row).collect())
}

fn certificates(picture: &Picture) -> (Columns, Rows) {
    let columns = vec![
        numbers("DAYS LEFT", 9),
        words("NOT AFTER", 20),
        texts("FILE", 1),
    ];
    let rows = picture.status.certificates.iter().map(|certificate| {
        let row = Row::new(vec![
            right(certificate.days_left.to_string()),
            left(&certificate.not_after),
            left(&certificate.file),
        ]);
        match certificate.days_left {
            ..2 => row.red().bold(),
            2..14 => row.yellow(),
            _ => row,
        }
    });
    (columns, rows.collect())
}
