//! Draws the tables.

use std::cmp::Ordering;

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
use leastconn_server::api::{CertificateState, Client, Connection, Outage, Server, outage};

/// Width of a bar, in cells.
const BAR_WIDTH: u16 = 12;

/// Minimum width of a text column; columns of lower priority are dropped first.
const MIN_TEXT_WIDTH: u16 = 12;

/// Names longer than this are shortened.
const MAX_NAME_WIDTH: u16 = 64;

/// Columns of lower priority are dropped to show names of up to this length in full.
const READABLE_NAME_WIDTH: u16 = 32;

const SPACING: u16 = 2;

pub(super) fn draw(frame: &mut Frame<'_>, view: &mut View, answers: &Answers, area: Rect) {
    let (mut columns, mut rows) = match view.tab {
        Tab::Servers => servers(view, answers),
        Tab::Clients => clients(view, answers),
        Tab::Connections => connections(answers),
        Tab::Outcomes => outcomes(view, answers),
        Tab::Certificates => certificates(answers),
    };
    let sort = view.sort();
    if let Some(sort) = sort
        && let Some(position) = columns
            .iter()
            .position(|column| column.title == sort.column)
    {
        // A stable sort keeps the order of rows that compare equal.
        rows.sort_by(|one, other| {
            let ordering = one[position].compare(&other[position]);
            if sort.is_descending {
                ordering.reverse()
            } else {
                ordering
            }
        });
    }
    let mut needs = needs(&columns, &rows);
    while let Some(dropped) = column_to_drop(&columns, &needs, area.width) {
        columns.remove(dropped);
        needs.remove(dropped);
        for row in &mut rows {
            row.remove(dropped);
        }
    }
    let widths = name_widths(&columns, &needs, area.width);
    let constraints = columns
        .iter()
        .zip(&widths)
        .map(|(column, width)| match width {
            Some(width) => Constraint::Length(*width),
            None => column.width,
        });
    let constraints: Vec<_> = constraints.collect();
    let heads = columns.iter().map(|column| {
        let arrow = match sort {
            Some(sort) if sort.column == column.title && sort.is_descending => "▼",
            Some(sort) if sort.column == column.title => "▲",
            _ => "",
        };
        Text::from(format!("{}{arrow}", column.title)).alignment(column.alignment)
    });
    let head = Row::new(heads.collect::<Vec<_>>());
    let head = head.style(Style::new().add_modifier(Modifier::BOLD));
    let rows = rows.into_iter().map(|row| {
        let cells = row.into_iter().zip(&widths);
        Row::new(cells.map(|(entry, width)| entry.into_cell(width.map(usize::from))))
    });
    let table = Table::new(rows, constraints)
        .header(head)
        .column_spacing(SPACING)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut view.table);
}

/// Returns the width that each column needs. Only a column of names needs room for its longest
/// text.
fn needs(columns: &[Column], rows: &Rows) -> Vec<u16> {
    let need = |(position, column): (usize, &Column)| match column.width {
        Constraint::Length(width) => width,
        _ if column.is_name() => {
            let lengths = rows.iter().map(|row| row[position].text.chars().count());
            let longest = u16::try_from(lengths.max().unwrap_or(0)).unwrap_or(MAX_NAME_WIDTH);
            longest.clamp(MIN_TEXT_WIDTH, MAX_NAME_WIDTH)
        }
        _ => MIN_TEXT_WIDTH,
    };
    columns.iter().enumerate().map(need).collect()
}

/// Returns the column to drop next if the table is wider than `width`.
fn column_to_drop(columns: &[Column], needs: &[u16], width: u16) -> Option<usize> {
    let needed = columns.iter().zip(needs).map(|(column, need)| {
        let need = if column.is_name() {
            (*need).min(READABLE_NAME_WIDTH)
        } else {
            *need
        };
        need + SPACING
    });
    let needed: u16 = needed.sum();
    let ranks = columns.iter().map(|column| column.rank).enumerate();
    let (position, rank) = ranks.max_by_key(|&(_, rank)| rank)?;
    (needed > width.saturating_add(SPACING) && rank > 0).then_some(position)
}

/// Returns the widths of the name columns: as wide as needed, or shrunk in proportion if they do
/// not fit.
fn name_widths(columns: &[Column], needs: &[u16], width: u16) -> Vec<Option<u16>> {
    let spacing = SPACING * u16::try_from(columns.len().saturating_sub(1)).unwrap_or(0);
    let of = |are_names: bool| -> u16 {
        let all = columns.iter().zip(needs);
        let some = all.filter(|(column, _)| column.is_name() == are_names);
        some.map(|(_, need)| need).sum()
    };
    let names = of(true);
    let left = width.saturating_sub(of(false) + spacing);
    let fitted = |need: u16| match u32::from(need) * u32::from(left) / u32::from(names.max(1)) {
        share if names > left => u16::try_from(share).unwrap_or(need),
        _ => need,
    };
    let all = columns.iter().zip(needs);
    all.map(|(column, need)| column.is_name().then(|| fitted(*need)))
        .collect()
}

struct Column {
    title: &'static str,
    alignment: Alignment,
    width: Constraint,
    /// Columns with the highest rank are dropped first in narrow terminals. A column with
    /// rank 0 is never dropped.
    rank: u8,
}

impl Column {
    fn new(title: &'static str, alignment: Alignment, width: Constraint) -> Self {
        Self {
            title,
            alignment,
            width,
            rank: 0,
        }
    }

    /// Whether the column has a text that is never dropped: a name.
    fn is_name(&self) -> bool {
        self.rank == 0 && !matches!(self.width, Constraint::Length(_))
    }

    fn rank(self, rank: u8) -> Self {
        Self { rank, ..self }
    }
}

type Columns = Vec<Column>;
type Rows = Vec<Vec<Entry>>;

/// A cell, and what a sort by its column compares.
struct Entry {
    text: String,
    style: Style,
    alignment: Alignment,
    /// For numbers and durations. Other cells are compared by their text.
    number: Option<f64>,
}

impl Entry {
    fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.number, other.number) {
            (Some(one), Some(other)) => one.total_cmp(&other),
            (Some(_), None) => Ordering::Greater,
            (None, Some(_)) => Ordering::Less,
            (None, None) => self.text.cmp(&other.text),
        }
    }

    /// Returns the cell for a column of `width`. A longer text loses its middle, because similar
    /// names often differ only at the end.
    fn into_cell(self, width: Option<usize>) -> Cell<'static> {
        let text = match width {
            Some(width) => shortened(&self.text, width),
            None => self.text,
        };
        Cell::from(Text::from(text).alignment(self.alignment)).style(self.style)
    }
}

fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width || width < 3 {
        return text.to_owned();
    }
    let end = width / 2;
    let start = width - 1 - end;
    let first = text.chars().take(start);
    let last = text.chars().skip(length - end);
    first.chain(['…']).chain(last).collect()
}

fn left(text: impl Into<String>) -> Entry {
    Entry {
        text: text.into(),
        style: Style::new(),
        alignment: Alignment::Left,
        number: None,
    }
}

fn right(text: impl Into<String>, number: impl Into<f64>) -> Entry {
    Entry {
        alignment: Alignment::Right,
        number: Some(number.into()),
        ..left(text)
    }
}

fn transferred(bytes: u64) -> Entry {
    right(figures::bytes(bytes), bytes as f64)
}

/// Returns a cell for a count. As a float, the count is exact up to 53 bits.
fn count(count: u64) -> Entry {
    right(figures::number(count), count as f64)
}

/// Formats a rate per second. The rate is `None` until the second answer has arrived.
fn rate(rate: Option<f64>) -> Entry {
    let text = rate.map_or_else(|| "-".to_owned(), figures::rate);
    right(text, rate.unwrap_or(-1.0))
}

/// Creates a text column that gets `share` parts of the remaining width.
fn texts(title: &'static str, share: u16) -> Column {
    Column::new(title, Alignment::Left, Constraint::Fill(share))
}

fn words(title: &'static str, width: u16) -> Column {
    Column::new(title, Alignment::Left, Constraint::Length(width))
}

fn numbers(title: &'static str, width: u16) -> Column {
    Column::new(title, Alignment::Right, Constraint::Length(width))
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
    let failure = |server: &Server| server.outage.clone().or_else(|| server.kept_in_use.clone());
    let has_outage = servers.iter().any(|server| failure(server).is_some());
    if has_outage {
        columns.push(texts("OUTAGE", 4).rank(2));
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
            state(server),
            right(active, server.active),
            left(bar(server.active.into(), full.into())),
            rate(view.server_rate(&server.upstream, &server.server)),
            count(server.connections),
            count(server.connect_failures),
            right(server.weight_text(), server.weight),
            left(&server.address),
        ];
        if has_early_failures {
            row.push(count(server.early_failures));
        }
        if has_outage {
            let text = failure(server).map(|outage| down_for(&outage, &answers.status.time));
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
fn state(server: &Server) -> Entry {
    let (state, health) = (server.state_text(), server.health_text());
    let span: Span<'_> = match (&*state, health, &server.slow_start) {
        ("ready", _, Some(slow)) => format!("{health} {}", figures::percent(slow.share)).yellow(),
        ("ready", outage::UP, None) => health.to_owned().green(),
        ("ready", outage::UNCHECKED, None) => health.to_owned().into(),
        ("ready", _, None) => health.to_owned().red().bold(),
        (_, outage::UP | outage::UNCHECKED, _) | ("maint", ..) => state.yellow(),
        _ => format!("{state}/{health}").red(),
    };
    left(span.content).styled(span.style)
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
            count(client.active),
            rate(view.client_rate(&client.client)),
            count(client.connections),
            count(client.refused),
            count(client.failed),
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
            right(
                connection.connection.to_string(),
                connection.connection as f64,
            ),
            right(
                figures::age((connection.duration_ms / 1e3) as u64),
                connection.duration_ms,
            ),
            left(connection.client.clone().unwrap_or_default()),
            left(connection.identity.clone().unwrap_or_default()),
            left(&connection.source),
            left(server),
            transferred(connection.bytes_received),
            transferred(connection.bytes_sent),
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
        numbers("PER SECOND", 11),
    ];
    let mut outcomes: Vec<_> = answers.status.connections.outcomes.iter().collect();
    outcomes.sort_by_key(|&(_, &count)| std::cmp::Reverse(count));
    let row = |(outcome, &total): (&String, &u64)| {
        vec![
            left(outcome),
            count(total),
            rate(view.outcome_rate(outcome)),
        ]
    };
    (columns, outcomes.into_iter().map(row).collect())
}

fn certificates(answers: &Answers) -> (Columns, Rows) {
    let columns = vec![
        numbers("DAYS LEFT", 10),
        words("NOT AFTER", 20),
        texts("FILE", 1),
    ];
    let rows = answers.status.certificates.iter().map(|certificate| {
        let (good, soon, bad) = (
            Style::new(),
            Style::new().yellow(),
            Style::new().red().bold(),
        );
        let style = match certificate.state {
            CertificateState::Valid => good,
            CertificateState::ExpiresSoon => soon,
            CertificateState::ExpiresNow | CertificateState::Expired => bad,
        };
        let row = [
            right(
                certificate.days_left.to_string(),
                certificate.days_left as f64,
            ),
            left(&certificate.not_after),
            left(&certificate.file),
        ];
        row.map(|entry| entry.styled(style)).into()
    });
    (columns, rows.collect())
}
