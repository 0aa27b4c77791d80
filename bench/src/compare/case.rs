//! What is measured.

use std::fmt;

use serde::Serialize;

use crate::load::{Mode, Spec};

/// With which protocol clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Mutual TLS 1.3, full handshakes.
    Mtls,
    /// Mutual TLS 1.3, sessions resumed.
    #[serde(rename = "mtls-resumed")]
    MtlsResumed,
    /// TCP alone.
    Plain,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mtls => "mtls",
            Self::MtlsResumed => "mtls-resumed",
            Self::Plain => "plain",
        })
    }
}

/// How it is measured.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// CPU and latency under this load.
    Load(Spec),
    /// Memory of connections that do nothing.
    Memory {
        /// How many.
        connections: usize,
    },
    /// Latency of echoes beside a stream.
    Fairness,
    /// Latency of somebody else's connections and echoes during an attack.
    Flood(Attack),
}

/// What a balancer is flooded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Good handshakes of two sources.
    Handshakes,
    /// Certificates with very many paths to try, which nobody trusts.
    Maze,
    /// ClientHellos of 250 sources, and nothing after them.
    Stalled,
}

impl Attack {
    /// The name of its case.
    pub const fn case(self) -> &'static str {
        match self {
            Self::Handshakes => "flood-mtls",
            Self::Maze => "flood-maze-mtls",
            Self::Stalled => "flood-stalled-mtls",
        }
    }

    /// All of them.
    pub const ALL: [Self; 3] = [Self::Handshakes, Self::Maze, Self::Stalled];
}

/// What the figure of a case counts; less is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Microseconds of CPU for each connection.
    #[serde(rename = "µs CPU/connection")]
    Connection,
    /// Microseconds of CPU for each echo.
    #[serde(rename = "µs CPU/echo")]
    Echo,
    /// Milliseconds until the first echo, the median.
    #[serde(rename = "ms, median")]
    FirstEcho,
    /// Nanoseconds of CPU for each KiB of payload.
    #[serde(rename = "ns CPU/KiB")]
    Stream,
    /// KiB of memory for each connection.
    #[serde(rename = "KiB/connection")]
    Memory,
    /// A ratio.
    #[serde(rename = "× p99")]
    Ratio,
    /// Milliseconds, the longest of all.
    #[serde(rename = "ms, longest")]
    Longest,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Connection => "µs CPU/connection",
            Self::Echo => "µs CPU/echo",
            Self::FirstEcho => "ms, median",
            Self::Stream => "ns CPU/KiB",
            Self::Memory => "KiB/connection",
            Self::Ratio => "× p99",
            Self::Longest => "ms, longest",
        })
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Case {
    /// What `--only` selects by.
    pub name: String,
    /// With or without TLS.
    pub transport: Transport,
    /// What is done.
    pub work: Work,
    /// Of leastconn alone: how cost grows from the first of its kind on.
    pub growth: Option<Growth>,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Servers of the upstream.
    Servers(usize),
    /// Client rules.
    Identities(usize),
    /// Open connections.
    Open(usize),
    /// Threads that do the work, all on the same two CPUs.
    Workers(usize),
}

impl Growth {
    /// The same kind?
    pub const fn is_like(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Servers(_), Self::Servers(_))
                | (Self::Identities(_), Self::Identities(_))
                | (Self::Open(_), Self::Open(_))
                | (Self::Workers(_), Self::Workers(_))
        )
    }
}

impl Case {
    /// What its figure counts.
    pub const fn unit(&self) -> Unit {
        match self.work {
            Work::Load(spec) => match spec.mode {
                Mode::Connect | Mode::Refused | Mode::Stall => Unit::Connection,
                Mode::FirstEcho => Unit::FirstEcho,
                Mode::Echo | Mode::Idle => Unit::Echo,
                Mode::Download | Mode::Background | Mode::Upload => Unit::Stream,
            },
            Work::Memory { .. } => Unit::Memory,
            Work::Fairness => Unit::Ratio,
            Work::Flood(_) => Unit::Longest,
        }
    }

    /// In a process of its own that has done nothing before.
    pub const fn fresh(&self) -> bool {
        matches!(self.work, Work::Memory { .. }) || self.growth.is_some()
    }
}

/// Clients that connect at the same time.
const CONNECTING: usize = 16;

/// Echoes at the same time, where open connections grow.
const BUSY: usize = 64;

const fn load(mode: Mode, connections: usize) -> Spec {
    Spec {
        mode,
        connections,
        busy: connections,
        size: 64,
        rate: None,
        pause: None,
        count: None,
    }
}

/// All cases, or the few of a quick run. No more than `most` connections, and where
/// all are compared, no more than HAProxy can: see [`with_pipes`].
pub fn all(quick: bool, most: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, transport, work, growth| {
        cases.push(Case {
            name,
            transport,
            work,
            growth,
        });
    };
    let (echoes, streams, idle): (&[usize], &[usize], usize) = if quick {
        (&[32], &[4], 500)
    } else {
        (&[1, 32, 512], &[1, 4, 64], 5_000)
    };
    let common = with_pipes(most);
    for transport in [Transport::Mtls, Transport::Plain] {
        add(
            format!("connect-{transport}"),
            transport,
            Work::Load(load(Mode::Connect, CONNECTING)),
            None,
        );
        for (mode, name, numbers) in [
            (Mode::Echo, "echo", echoes),
            (Mode::Download, "download", streams),
            (Mode::Upload, "upload", streams),
        ] {
            for &number in numbers {
                add(
                    format!("{name}-{transport}-{number}"),
                    transport,
                    Work::Load(load(mode, number.min(common))),
                    None,
                );
            }
        }
        let connections = idle.min(common);
        add(
            format!("memory-{transport}-{connections}"),
            transport,
            Work::Memory { connections },
            None,
        );
    }
    add(
        format!("connect-{}", Transport::MtlsResumed),
        Transport::MtlsResumed,
        Work::Load(load(Mode::Connect, CONNECTING)),
        None,
    );
    for transport in [Transport::Mtls, Transport::Plain] {
        // One client at a time: it is the latency of an idle balancer.
        let work = Work::Load(load(Mode::FirstEcho, 1));
        add(format!("first-message-{transport}"), transport, work, None);
    }
    // Their streams and floods run only when nobody else wants the CPU, which on a busy
    // machine may be never.
    if !quick {
        let name = "fairness-mtls".to_owned();
        add(name, Transport::Mtls, Work::Fairness, None);
        for attack in Attack::ALL {
            let name = attack.case().to_owned();
            add(name, Transport::Mtls, Work::Flood(attack), None);
        }
    }

    let connect = || Work::Load(load(Mode::Connect, CONNECTING));
    let (servers, identities, open): (&[usize], &[usize], &[usize]) = if quick {
        (&[4, 100], &[1, 1_000], &[100, 500])
    } else {
        (&[4, 100, 1_000], &[1, 1_000, 100_000], &[100, 1_000, 8_000])
    };
    for &number in servers {
        let name = format!("growth-servers-{number}");
        add(
            name,
            Transport::Mtls,
            connect(),
            Some(Growth::Servers(number)),
        );
    }
    for &number in identities {
        let name = format!("growth-identities-{number}");
        add(
            name,
            Transport::Mtls,
            connect(),
            Some(Growth::Identities(number)),
        );
    }
    for &number in open {
        let spec = Spec {
            busy: BUSY,
            ..load(Mode::Echo, number.min(most))
        };
        let name = format!("growth-open-{}", spec.connections);
        let growth = Growth::Open(spec.connections);
        add(name, Transport::Mtls, Work::Load(spec), Some(growth));
    }
    for (mode, name, connections) in [
        (Mode::Connect, "connect", CONNECTING),
        (Mode::Echo, "echo", BUSY),
        (Mode::Download, "download", 4),
    ] {
        for workers in [1, 2] {
            let work = Work::Load(load(mode, connections.min(most)));
            let name = format!("workers-{name}-{workers}");
            let growth = Some(Growth::Workers(workers));
            add(name, Transport::Mtls, work, growth);
        }
    }
    cases
}

/// HAProxy wants half a pipe for each connection, each of two descriptors, and does
/// not start without.
pub fn with_pipes(most: usize) -> usize {
    most / 5 * 4
}

/// Those whose name contains one of the words; all, if there are no words.
pub fn select(cases: Vec<Case>, words: &[String]) -> Vec<Case> {
    let wanted = |case: &Case| words.is_empty() || words.iter().any(|w| case.name.contains(w));
    cases.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn case_names_are_unique_and_selectable() {
        for quick in [false, true] {
            let cases = all(quick, 9_000);
            let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
            assert_eq!(names.len(), cases.len());
        }
        let some = select(all(false, 9_000), &["echo-mtls".into(), "memory".into()]);
        let names: Vec<&str> = some.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "echo-mtls-1",
                "echo-mtls-32",
                "echo-mtls-512",
                "memory-mtls-5000",
                "memory-plain-5000"
            ]
        );
    }

    #[test]
    fn file_limit_caps_and_renames_cases() {
        let cases = all(false, 450);
        assert!(cases.iter().any(|case| case.name == "memory-mtls-360"));
        for case in cases {
            match case.work {
                Work::Load(spec) => assert!(spec.connections <= 450),
                Work::Memory { connections } => assert!(connections <= 360),
                Work::Fairness | Work::Flood(_) => {}
            }
        }
    }
}
