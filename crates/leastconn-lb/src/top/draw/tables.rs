//! Draws the tables.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Rect},
    style::{Modifier, Style, Stylize},
    text::{Span, Text},
    widgets::{Cell, Row, Table},
};

use super::super::{
    answers::Answers,
    view::{Tab, View},
};
use crate::figures;
use leastconn_server::api::{
    CertificateKind, CertificateState, Client, Connection, Outage, Server,
};

/// Width of a bar, in cells.
const BAR_WIDTH: u16 = 12;

/// Minimum width of a text column; columns of lower priority are dropped first.
const MIN_TEXT_WIDTH: u16 = 12;

const SPACING: u16 = 2;

pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, answers: &Answers, area: Rect) {
    let (mut columns, mut rows) = match view.tab {
        Tab::Servers => servers(view, answers),
        Tab::Clients => clients(view, answers),
        Tab::Connections => connections(answers),
        Tab::Outcomes => outcomes(view, answers),
        Tab::Certificates => certificates(answers),
    };
    while let Some(dropped) = column_to_drop(&columns, area.width) {
        columns.remove(dropped);
        for row in &mut rows {
            row.remove(dropped);
        }
    }
    let widths: Vec<_> = columns.iter().map(|column| column.width).collect();
    let head = Row::new(columns.into_iter().map(|column| column.head));
    let head = head.style(Style::new().add_modifier(Modifier::BOLD));
    let table = Table::new(rows.into_iter().map(Row::new), widths)
        .header(head)
        .column_spacing(SPACING)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut view.table);
}

/// The column to drop next if the table is wider than `width`.
fn column_to_drop(columns: &[Column], width: u16) -> Option<usize> {
    let widths = columns.iter().map(|column| match column.width {
        Constraint::Length(width) => width,
        _ => MIN_TEXT_WIDTH,
    });
    let needed: u16 = widths.map(|width| width + SPACING).sum();
    let ranks = columns.iter().map(|column| column.rank).enumerate();
    let (position, rank) = ranks.max_by_key(|&(_, rank)| rank)?;
    (needed > width.saturating_add(SPACING) && rank > 0).then_some(position)
}

struct Column {
    head: Cell<'static>,
    width: Constraint,
    /// Columns with the highest rank are dropped first in narrow terminals. A column with
    /// rank 0 is never dropped.
    rank: u8,
}

impl Column {
    fn new(head: Cell<'static>, width: Constraint) -> Self {
        let rank = 0;
        Self { head, width, rank }
    }

    fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }
}

type Columns = Vec<Column>;
type Rows = Vec<Vec<Cell<'static>>>;

fn left(text: impl Into<String>) -> Cell<'static> {
    Cell::from(text.into())
}

fn right(text: impl Into<String>) -> Cell<'static> {
    Cell::from(Text::from(text.into()).alignment(Alignment::Right))
}

/// Formats a rate per second. The rate is `None` until the second answer has arrived.
fn rate(rate: Option<f64>) -> Cell<'static> {
    right(rate.map_or_else(|| "-".to_owned(), figures::rate))
}

/// Creates a text column that gets `share` parts of the remaining width.
fn texts(title: &str, share: u16) -> Column {
    Column::new(left(title), Constraint::Fill(share))
}

fn words(title: &str, width: u16) -> Column {
    Column::new(left(title), Constraint::Length(width))
}

fn numbers(title: &str, width: u16) -> Column {
    Column::new(right(title), Constraint::Length(width))
}

fn servers(view: &View, answers: &Answers) -> (Columns, Rows) {
    let mut columns = vec![
        texts("UPSTREAM", 2),
        texts("SERVER", 2),
        words("STATE", 10),
        numbers("OPEN", 11),
        words("", BAR_WIDTH).rank(2),
        numbers("NEW/S", 7).rank(1),
        numbers("TOTAL", 12).rank(4),
        numbers("FAILED", 7).rank(3),
        numbers("WEIGHT", 6).rank(6),
        texts("ADDRESS", 3).rank(5),
    ];
    let servers = &answers.servers.servers;
    let has_early_failures = servers.iter().any(|server| server.early_failures > 0);
    if has_early_failures {
        columns.push(numbers("EARLY", 7).rank(3));
    }
    let has_outage = servers.iter().any(|server| server.outage.is_some());
    if has_outage {
        columns.push(texts("DOWN FOR, REASON", 4).rank(2));
    }
    let max_active = servers.iter().map(|server| server.active).max();
    let row = |server: &Server| {
        let active = match server.max_conns {
            Some(max) => format!("{}/{max}", server.active),
            None => figures::number(server.active.into()),
        };
        let full = server.max_conns.or(max_active).unwrap_or(0);
        let name = if server.backup {
            format!("{} (backup)", server.server)
        } else {
            server.server.clone()
        };
        let mut row = vec![
            left(&server.upstream),
            left(name),
            Cell::from(state(server)),
            right(active),
            left(bar(server.active.into(), full.into())),
            rate(view.server_rate(&server.upstream, &server.server)),
            right(figures::number(server.connections)),
            right(figures::number(server.connect_failures)),
            right(server.weight_text()),
            left(&server.address),
        ];
        if has_early_failures {
            row.push(right(figures::number(server.early_failures)));
        }
        if has_outage {
            let outage = server.outage.as_ref();
            let text = outage.map(|outage| down_for(outage, &answers.status.time));
            row.push(left(text.unwrap_or_default()));
        }
        row
    };
    (columns, servers.iter().map(row).collect())
}

/// Formats the duration of an outage, by the balancer's clock, and its reason.
fn down_for(outage: &Outage, now: &str) -> String {
    let times: Option<[jiff::Timestamp; 2]> = now
        .parse()
        .ok()
        .zip(outage.since.parse().ok())
        .map(Into::into);
    let age = times.map_or_else(String::new, |[now, since]| {
        let seconds = now.duration_since(since).as_secs();
        figures::age(u64::try_from(seconds).unwrap_or(0)) + " "
    });
    format!("{age}{}", outage.reason)
}

/// Returns the administrative state unless it is `ready`, otherwise the health. During slow start,
/// the result also contains the server's current share of connections.
fn state(server: &Server) -> Span<'static> {
    let (state, health) = (server.state_text(), server.health.as_str());
    match (&*state, health, &server.slow_start) {
        ("ready", _, Some(slow)) => format!("{health} {}", figures::percent(slow.share)).yellow(),
        ("ready", "up", None) => health.to_owned().green(),
        ("ready", _, None) => health.to_owned().red().bold(),
        (_, "up", _) | ("maint", ..) => state.yellow(),
        _ => format!("{state}/{health}").red(),
    }
}

fn bar(value: u64, full: u64) -> String {
    let cells = (value * u64::from(BAR_WIDTH)).div_ceil(full.max(1));
    "█".repeat(usize::from(
        u16::try_from(cells).map_or(BAR_WIDTH, |cells| cells.min(BAR_WIDTH)),
    ))
}

fn clients(view: &View, answers: &Answers) -> (Columns, Rows) {
    let columns = vec![
        texts("CLIENT", 2),
        numbers("OPEN", 9),
        numbers("NEW/S", 7).rank(1),
        numbers("TOTAL", 12).rank(6),
        numbers("REFUSED", 9).rank(2),
        numbers("FAILED", 7).rank(4),
        words("LIMITS", 16).rank(3),
        texts("ALLOW", 2).rank(5),
        texts("MATCH", 3).rank(7),
    ];
    let row = |client: &Client| {
        let rate_limit = client.rate_limit.map(|limit| format!("{}/s", limit.rate));
        let max_conns = client.max_conns.map(|max| format!("{max} open"));
        let limits: Vec<_> = rate_limit.into_iter().chain(max_conns).collect();
        let name = match client.mode.as_str() {
            "enforce" => client.client.clone(),
            mode => format!("{} ({mode})", client.client),
        };
        vec![
            left(name),
            right(figures::number(client.active)),
            rate(view.client_rate(&client.client)),
            right(figures::number(client.connections)),
            right(figures::number(client.refused)),
            right(figures::number(client.failed)),
            left(limits.join(", ")),
            left(client.allow.join(" ")),
            left(client.matches.join(" ")),
        ]
    };
    let rows = answers.clients.clients.iter().map(row).collect();
    (columns, rows)
}

fn connections(answers: &Answers) -> (Columns, Rows) {
    let columns = vec![
        numbers("ID", 8),
        numbers("AGE", 6),
        texts("CLIENT", 2),
        texts("IDENTITY", 3).rank(4),
        words("SOURCE", 21).rank(1),
        texts("SERVER", 2),
        numbers("IN", 8).rank(3),
        numbers("OUT", 8).rank(2),
        words("STAGE", 10).rank(5),
    ];
    let row = |connection: &Connection| {
        let server = match (&connection.upstream, &connection.server) {
            (Some(upstream), Some(server)) => format!("{upstream}/{server}"),
            (Some(upstream), None) => upstream.clone(),
            _ => String::new(),
        };
        vec![
            right(connection.connection.to_string()),
            right(figures::age((connection.duration_ms / 1e3) as u64)),
            left(connection.client.clone().unwrap_or_default()),
            left(connection.identity.clone().unwrap_or_default()),
            left(&connection.source),
            left(server),
            right(figures::bytes(connection.bytes_received)),
            right(figures::bytes(connection.bytes_sent)),
            left(connection.stage.as_str()),
        ]
    };
    let rows = answers.connections.connections.iter().map(row).collect();
    (columns, rows)
}

fn outcomes(view: &View, answers: &Answers) -> (Columns, Rows) {
    let columns = vec![
        words("OUTCOME", 22),
        numbers("TOTAL", 14),
        numbers("PER SECOND", 10),
    ];
    let mut outcomes: Vec<_> = answers.status.connections.outcomes.iter().collect();
    outcomes.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    let row = |(outcome, &count): (&String, &u64)| {
        vec![
            left(outcome),
            right(figures::number(count)),
            rate(view.outcome_rate(outcome)),
        ]
    };
    (columns, outcomes.into_iter().map(row).collect())
}

fn certificates(answers: &Answers) -> (Columns, Rows) {
    let columns = vec![
        numbers("DAYS LEFT", 9),
        words("NOT AFTER", 20),
        texts("FILE", 1),
    ];
    let rows = answers.status.certificates.iter().map(|certificate| {
        let (good, soon, bad) = (
            Style::new(),
            Style::new().yellow(),
            Style::new().red().bold(),
        );
        let style = match (certificate.kind, certificate.state, certificate.days_left) {
            (_, CertificateState::Expired, _) => bad,
            // Many CRLs are valid for only a few days, so for a CRL the state decides,
            // which depends on the length of its validity period.
            (CertificateKind::Crl, CertificateState::Valid, _) => good,
            (CertificateKind::Crl, CertificateState::ExpiresSoon, _) => soon,
            (CertificateKind::Crl, ..) | (_, _, ..7) => bad,
            (_, _, 7..30) => soon,
            _ => good,
        };
        let row = [
            right(certificate.days_left.to_string()),
            left(&certificate.not_after),
            left(&certificate.file),
        ];
        row.map(|cell| cell.style(style)).into()
    });
    (columns, rows.collect())
}
