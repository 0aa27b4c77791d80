//! What is on the screen, apart from how it looks.

use std::{collections::HashMap, time::Instant};

use ratatui::widgets::TableState;

use super::{Picture, keys::Then};

/// One of the tables.
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

    pub(super) const fn next(self) -> Self {
        Self::ALL[(self as usize + 1) % Self::ALL.len()]
    }

    pub(super) const fn previous(self) -> Self {
        Self::ALL[(self as usize + Self::ALL.len() - 1) % Self::ALL.len()]
    }
}

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) tab: Tab,
    pub(super) table: TableState,
    /// A search is being typed.
    pub(super) typing: bool,
    search: String,
    /// What was told last, and when.
    pub(super) picture: Option<(Picture, Instant)>,
    /// Why nothing newer was.
    pub(super) trouble: Option<String>,
    rates: Rates,
}

/// Connections a second, between the last two pictures.
#[derive(Debug, Default)]
struct Rates {
    clients: HashMap<String, f64>,
    servers: HashMap<(String, String), f64>,
    outcomes: HashMap<String, f64>,
}

impl View {
    pub(super) fn search(&self) -> &str {
        &self.search
    }

    pub(super) fn search_for(&mut self, text: String) -> Then {
        self.search = text;
        self.table = TableState::default();
        Then::Ask
    }

    pub(super) fn go_to(&mut self, tab: Tab) {
        if self.tab != tab {
            self.tab = tab;
            self.table = TableState::default();
        }
    }

    /// The balancer has answered, or has not.
    pub(super) fn told(&mut self, result: Result<Picture, String>, now: Instant) {
        match result {
            Ok(picture) => {
                let before = self.picture.take();
                self.rates = before.map_or_else(Rates::default, |(before, then)| {
                    let seconds = now.saturating_duration_since(then).as_secs_f64();
                    Rates::between(&before, &picture, seconds)
                });
                self.picture = Some((picture, now));
                self.trouble = None;
            }
            Err(why) => self.trouble = Some(why),
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
    fn between(before: &Picture, now: &Picture, seconds: f64) -> Self {
        if before.status.pid != now.status.pid || seconds <= 0.0 {
            // Another process counts from nothing.
            return Self::default();
        }
        fn rates<K: std::hash::Hash + Eq>(
            before: impl Iterator<Item = (K, u64)>,
            now: impl Iterator<Item = (K, u64)>,
            seconds: f64,
        ) -> HashMap<K, f64> {
            let before: HashMap<K, u64> = before.collect();
            now.filter_map(|(key, count)| {
                let grown = count.checked_sub(*before.get(&key)?)?;
                Some((key, grown as f64 / seconds))
            })
            .collect()
        }
        fn clients(of: &Picture) -> impl Iterator<Item = (String, u64)> {
            let clients = of.clients.clients.iter();
            clients.map(|client| (client.client.clone(), client.connections))
        }
        fn servers(of: &Picture) -> impl Iterator<Item = ((String, String), u64)> {
            let servers = of.servers.servers.iter();
            servers.map(|s| ((s.upstream.clone(), s.server.clone()), s.connections))
        }
        // Where there was none, there was: an outcome that is new began at 0.
        let outcomes = |of: &Picture| {
            let all = leastconn::Reason::ALL.iter().map(|reason| {
                let counted = of.status.connections.outcomes.get(reason.as_str());
                (reason.as_str().to_owned(), counted.copied().unwrap_or(0))
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
