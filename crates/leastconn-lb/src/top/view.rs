//! State of the screen: selected table, search, last answers and rates.

use std::{collections::HashMap, time::Instant};

use leastconn_server::reason_code::ReasonCode;
use ratatui::widgets::TableState;

use super::answers::Answers;

/// What to do after a key was handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Draw,
    /// Send a request: the query has changed.
    Fetch,
    Quit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tab {
    #[default]
    Servers,
    Clients,
    Connections,
    Outcomes,
    Certificates,
}

impl Tab {
    pub(super) const ALL: [Self; 5] = [
        Self::Servers,
        Self::Clients,
        Self::Connections,
        Self::Outcomes,
        Self::Certificates,
    ];

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Servers => "Servers",
            Self::Clients => "Clients",
            Self::Connections => "Connections",
            Self::Outcomes => "Outcomes",
            Self::Certificates => "Certificates",
        }
    }

    pub(super) const fn is_searched(self) -> bool {
        matches!(self, Self::Clients | Self::Connections)
    }

    /// Columns that the table can be sorted by.
    pub(super) const fn sort_columns(self) -> &'static [&'static str] {
        match self {
            Self::Servers => &[
                "UPSTREAM", "SERVER", "STATE", "OPEN", "NEW/S", "TOTAL", "FAILED",
            ],
            Self::Clients => &["CLIENT", "OPEN", "NEW/S", "TOTAL", "REFUSED", "FAILED"],
            Self::Connections => &["ID", "AGE", "CLIENT", "SOURCE", "SERVER", "IN", "OUT"],
            Self::Outcomes => &["OUTCOME", "TOTAL", "PER SECOND"],
            Self::Certificates => &["DAYS LEFT", "FILE"],
        }
    }

    pub(super) const fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }

    pub(super) const fn previous(self) -> Self {
        Self::ALL[(self as usize + Self::ALL.len() - 1) % Self::ALL.len()]
    }
}

/// Order of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sort {
    /// Title of the column.
    pub(super) column: &'static str,
    pub(super) is_descending: bool,
}

impl Sort {
    /// Sorts names in alphabetical order, and numbers with the largest first.
    fn by(column: &'static str) -> Self {
        let is_text = matches!(
            column,
            "UPSTREAM" | "SERVER" | "STATE" | "CLIENT" | "SOURCE" | "OUTCOME" | "FILE"
        );
        Self {
            column,
            is_descending: !is_text && column != "DAYS LEFT",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) tab: Tab,
    pub(super) table: TableState,
    /// Whether keys go to the search field.
    pub(super) typing: bool,
    /// Whether the list of keys covers the table.
    pub(super) has_help: bool,
    /// The order of each table. Without one, the balancer's order applies.
    sorts: [Option<Sort>; Tab::ALL.len()],
    search: String,
    /// The last answers, and the time at which they arrived.
    pub(super) answers: Option<(Answers, Instant)>,
    /// The error of the last request, if it failed.
    pub(super) error: Option<String>,
    rates: Rates,
}

/// Connections per second between the last two answers.
#[derive(Debug, Default)]
struct Rates {
    clients: HashMap<String, f64>,
    servers: HashMap<(String, String), f64>,
    outcomes: HashMap<String, f64>,
}

impl View {
    pub(super) fn sort(&self) -> Option<Sort> {
        self.sorts[self.tab as usize]
    }

    /// Sorts by the next column. After the last column, restores the balancer's order.
    pub(super) fn sort_by_next(&mut self) {
        let columns = self.tab.sort_columns();
        let next = match self.sort() {
            None => 0,
            Some(sort) => {
                let current = columns.iter().position(|column| *column == sort.column);
                current.map_or(0, |current| current + 1)
            }
        };
        self.sorts[self.tab as usize] = columns.get(next).copied().map(Sort::by);
    }

    pub(super) fn reverse_sort(&mut self) {
        if let Some(sort) = &mut self.sorts[self.tab as usize] {
            sort.is_descending = !sort.is_descending;
        }
    }

    pub(super) fn search(&self) -> &str {
        &self.search
    }

    pub(super) fn search_for(&mut self, text: String) -> Action {
        self.search = text;
        self.table = TableState::default();
        Action::Fetch
    }

    pub(super) fn go_to(&mut self, tab: Tab) {
        if self.tab != tab {
            self.tab = tab;
            self.table = TableState::default();
        }
    }

    pub(super) fn update(&mut self, result: Result<Answers, String>, now: Instant) {
        match result {
            Ok(answers) => {
                let before = self.answers.take();
                self.rates = before.map_or_else(Rates::default, |(before, at)| {
                    let seconds = now.saturating_duration_since(at).as_secs_f64();
                    Rates::between(&before, &answers, seconds)
                });
                self.answers = Some((answers, now));
                self.error = None;
            }
            Err(error) => self.error = Some(error),
        }
    }

    pub(super) fn client_rate(&self, client: &str) -> Option<f64> {
        self.rates.clients.get(client).copied()
    }

    pub(super) fn server_rate(&self, upstream: &str, server: &str) -> Option<f64> {
        let key = (upstream.to_owned(), server.to_owned());
        self.rates.servers.get(&key).copied()
    }

    pub(super) fn outcome_rate(&self, outcome: &str) -> Option<f64> {
        self.rates.outcomes.get(outcome).copied()
    }
}

impl Rates {
    fn between(before: &Answers, now: &Answers, seconds: f64) -> Self {
        if before.status.pid != now.status.pid || seconds <= 0.0 {
            // The counters of two different processes cannot be compared.
            return Self::default();
        }
        fn rates<K: std::hash::Hash + Eq>(
            before: impl Iterator<Item = (K, u64)>,
            now: impl Iterator<Item = (K, u64)>,
            seconds: f64,
        ) -> HashMap<K, f64> {
            let before: HashMap<K, u64> = before.collect();
            now.filter_map(|(key, count)| {
                let increase = count.checked_sub(*before.get(&key)?)?;
                Some((key, increase as f64 / seconds))
            })
            .collect()
        }
        fn clients(answers: &Answers) -> impl Iterator<Item = (String, u64)> {
            let clients = answers.clients.clients.iter();
            clients.map(|client| (client.client.clone(), client.connections))
        }
        fn servers(answers: &Answers) -> impl Iterator<Item = ((String, String), u64)> {
            let servers = answers.servers.servers.iter();
            servers.map(|s| ((s.upstream.clone(), s.server.clone()), s.connections))
        }
        // An outcome that is missing from an answer has a count of 0.
        let outcomes = |answers: &Answers| {
            let all = ReasonCode::ALL.iter().map(|reason| {
                let count = answers.status.connections.outcomes.get(reason.as_str());
                (reason.as_str().to_owned(), count.copied().unwrap_or(0))
            });
            all.collect::<Vec<_>>().into_iter()
        };
        Self {
            clients: rates(clients(before), clients(now), seconds),
            servers: rates(servers(before), servers(now), seconds),
            outcomes: rates(outcomes(before), outcomes(now), seconds),
        }
    }
}
