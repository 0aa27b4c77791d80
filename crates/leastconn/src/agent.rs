//! Reports that agents send about their servers, in the syntax of HAProxy's agent checks.

use std::num::NonZeroU32;

use crate::spec::AdminState;

/// A report from an agent: one line of words, separated by spaces, tabs or commas. A report changes
/// only the settings that it mentions.
///
/// | word | effect |
/// |---|---|
/// | `75%` | weight, relative to the configured weight |
/// | `maxconn:30` | maximum number of concurrent connections. 0: unlimited |
/// | `ready`, `drain`, `maint` | state, in addition to the state set by an operator |
/// | `down`, `fail`, `failed`, `stopped`, each optionally followed by `#reason` at the end of the line | the server is down |
/// | `up` | ends `down`; the server is up if its health checks also succeed |
///
/// Words are not case-sensitive, and unknown words are ignored. If words contradict each other, the
/// last one takes effect.
///
/// ```
/// use leastconn::AgentReport;
///
/// let report = AgentReport::parse("up 75%, maxconn:30");
/// assert_eq!((report.is_up, report.weight_percent), (Some(true), Some(75)));
///
/// let report = AgentReport::parse("down #disk full");
/// assert_eq!(report.reason.as_deref(), Some("down: disk full"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentReport {
    /// Whether the server is up.
    pub is_up: Option<bool>,
    /// Why the server is down: the word and the text after `#`.
    pub reason: Option<String>,
    /// The administrative state.
    pub admin: Option<AdminState>,
    /// The weight as a percentage of the configured weight.
    pub weight_percent: Option<u16>,
    /// The maximum number of concurrent connections. `Some(None)`: unlimited.
    pub max_conns: Option<Option<NonZeroU32>>,
}

impl AgentReport {
    /// Parses the line that an agent has sent. Any text is a valid report. A report without known
    /// words changes nothing.
    pub fn parse(line: &str) -> Self {
        let (words, reason) = match line.split_once('#') {
            Some((words, reason)) => (words, Some(reason.trim())),
            None => (line, None),
        };
        let mut report = Self::default();
        let is_separator = |c: char| c == ',' || c.is_ascii_whitespace();
        for word in words.split(is_separator).filter(|word| !word.is_empty()) {
            let word = word.to_ascii_lowercase();
            match &*word {
                "up" => {
                    report.is_up = Some(true);
                    report.reason = None;
                }
                "down" | "fail" | "failed" | "stopped" => {
                    report.is_up = Some(false);
                    report.reason = Some(match reason.filter(|reason| !reason.is_empty()) {
                        Some(reason) => format!("{word}: {reason}"),
                        None => word,
                    });
                }
                "ready" => report.admin = Some(AdminState::Ready),
                "drain" => report.admin = Some(AdminState::Drain),
                "maint" => report.admin = Some(AdminState::Maint),
                _ => report.parse_number(&word),
            }
        }
        report
    }

    fn parse_number(&mut self, word: &str) {
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if let Some(percent) = word.strip_suffix('%')
            && is_number(percent)
            && let Ok(percent) = percent.parse()
        {
            self.weight_percent = Some(percent);
        }
        if let Some(max) = word.strip_prefix("maxconn:")
            && is_number(max)
            && let Ok(max) = max.parse()
        {
            self.max_conns = Some(NonZeroU32::new(max));
        }
    }
}

/// What a server's agent has reported so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentState {
    /// Why the server is down, according to its agent.
    pub down: Option<String>,
    /// The administrative state, according to the agent.
    pub admin: AdminState,
    /// The weight as a percentage of the configured weight.
    pub weight_percent: Option<u16>,
    /// The maximum number of concurrent connections. `Some(None)`: unlimited.
    pub max_conns: Option<Option<NonZeroU32>>,
}

impl AgentState {
    /// Returns the state that results from applying `report`.
    pub(crate) fn after(&self, report: &AgentReport) -> Self {
        Self {
            down: match report.is_up {
                None => self.down.clone(),
                Some(true) => None,
                Some(false) => Some(report.reason.clone().unwrap_or_default()),
            },
            admin: report.admin.unwrap_or(self.admin),
            weight_percent: report.weight_percent.or(self.weight_percent),
            max_conns: report.max_conns.or(self.max_conns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_haproxy_is_known() {
        for (line, expected) in [
            (
                "ready up 100% maxconn:0\n",
                AgentReport {
                    is_up: Some(true),
                    admin: Some(AdminState::Ready),
                    weight_percent: Some(100),
                    max_conns: Some(None),
                    ..AgentReport::default()
                },
            ),
            (
                "DRAIN,50%\r\n",
                AgentReport {
                    admin: Some(AdminState::Drain),
                    weight_percent: Some(50),
                    ..AgentReport::default()
                },
            ),
            (
                "maint\tmaxconn:30",
                AgentReport {
                    admin: Some(AdminState::Maint),
                    max_conns: Some(NonZeroU32::new(30)),
                    ..AgentReport::default()
                },
            ),
        ] {
            assert_eq!(AgentReport::parse(line), expected, "{line:?}");
        }
        for (line, reason) in [
            ("down", "down"),
            ("fail #no disk, no memory", "fail: no disk, no memory"),
            ("stopped#", "stopped"),
            ("0% failed #up", "failed: up"),
        ] {
            let report = AgentReport::parse(line);
            assert_eq!(report.is_up, Some(false), "{line:?}");
            assert_eq!(report.reason.as_deref(), Some(reason));
        }
    }

    #[test]
    fn unknown_words_change_nothing() {
        for line in [
            "",
            "\n",
            "hello",
            "-5%",
            "1.5%",
            "%",
            "maxconn: 3",
            "maxconn:-1",
            "99999%",
        ] {
            assert_eq!(AgentReport::parse(line), AgentReport::default(), "{line:?}");
        }
        let state = AgentState::default().after(&AgentReport::parse("drain 20% down"));
        assert_eq!(state.after(&AgentReport::parse("nonsense")), state);
        let up = state.after(&AgentReport::parse("up"));
        assert_eq!((up.down, up.admin), (None, AdminState::Drain));
        assert_eq!(AgentReport::parse("down up").is_up, Some(true));
    }
}
