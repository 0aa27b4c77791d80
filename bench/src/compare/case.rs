//! The cases that are measured.

use std::fmt;

use serde::Serialize;

use crate::load::{Mode, Spec};

/// Protocol that the clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Mutual TLS 1.3 with full handshakes.
    Mtls,
    /// Mutual TLS 1.3 with resumed sessions.
    #[serde(rename = "mtls-resumed")]
    MtlsResumed,
    /// TCP without TLS.
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

/// The kind of a measurement.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// CPU time and latency under load.
    Load(Spec),
    /// As `Load`, while the balancer writes an access log.
    Logged(Spec),
    /// Memory of idle connections.
    Memory { connections: usize },
    /// Latency of echoes during a stream.
    Fairness,
    /// Latency of other clients' connections and echoes during an attack.
    Flood(Attack),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Valid handshakes from two sources.
    Handshakes,
    /// Untrusted certificates with a very large number of candidate paths.
    Maze,
    /// Handshakes from 250 sources that stall after the ClientHello.
    Stalled,
}

impl Attack {
    pub const fn case(self) -> &'static str {
        match self {
            Self::Handshakes => "flood-mtls",
            Self::Maze => "flood-maze-mtls",
            Self::Stalled => "flood-stalled-mtls",
        }
    }

    pub const ALL: [Self; 3] = [Self::Handshakes, Self::Maze, Self::Stalled];
}

/// Unit of a result. In all units, a lower result is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Microseconds of CPU time per connection.
    #[serde(rename = "µs CPU/connection")]
    Connection,
    /// Microseconds of CPU time per echo.
    #[serde(rename = "µs CPU/echo")]
    Echo,
    /// Median milliseconds until the first echo.
    #[serde(rename = "ms, median")]
    FirstEcho,
    /// Nanoseconds of CPU time per KiB of payload.
    #[serde(rename = "ns CPU/KiB")]
    Stream,
    /// KiB of memory per connection.
    #[serde(rename = "KiB/connection")]
    Memory,
    /// Ratio of two 99th percentiles.
    #[serde(rename = "× p99")]
    Ratio,
    /// Maximum latency in milliseconds.
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

/// One case, which is one line of the table.
#[derive(Clone, Debug)]
pub struct Case {
    /// Name of the case, in which `--only` searches for its arguments.
    pub name: String,
    pub transport: Transport,
    pub work: Work,
    /// Set for cases that only leastconn runs. The cost of such a case is compared with that of
    /// the first case with the same kind of growth, transport and unit.
    pub growth: Option<Growth>,
}

/// The quantity that grows from case to case, with its value in this case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Number of servers of the upstream.
    Servers(usize),
    Identities(usize),
    Open(usize),
    /// Number of worker threads, which all run on the same two CPUs.
    Workers(usize),
}

impl Growth {
    /// Whether `self` and `other` are of the same kind, regardless of their values.
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
    pub const fn unit(&self) -> Unit {
        match self.work {
            Work::Load(spec) | Work::Logged(spec) => match spec.mode {
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

    /// Whether the cases differ at most in what grows.
    pub fn is_same_work(&self, other: &Self) -> bool {
        self.transport == other.transport && self.unit() == other.unit()
    }

    /// Whether the case needs a newly started process.
    pub const fn needs_fresh_process(&self) -> bool {
        matches!(self.work, Work::Memory { .. }) || self.growth.is_some() || self.has_access_log()
    }

    pub const fn has_access_log(&self) -> bool {
        matches!(self.work, Work::Logged(_))
    }
}

/// Number of clients that connect concurrently.
const CONNECTING: usize = 16;

/// Number of concurrent echoes in the cases in which the number of open connections grows.
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

/// Returns all cases, or the cases of a quick run. No case has more than `most` connections. Cases
/// that peers also run have no more connections than HAProxy can handle; see [`with_pipes`].
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
        add(
            format!("connect-logged-{transport}"),
            transport,
            Work::Logged(load(Mode::Connect, CONNECTING)),
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
        // Use only one client, to measure the latency of an idle balancer.
        let work = Work::Load(load(Mode::FirstEcho, 1));
        add(format!("first-message-{transport}"), transport, work, None);
    }
    // Streams and floods run at the lowest priority, and may get no CPU time on a busy
    // machine.
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
    for (mode, transport, name, connections) in [
        (Mode::Connect, Transport::Mtls, "connect", CONNECTING),
        (Mode::Connect, Transport::Plain, "plain-connect", CONNECTING),
        (Mode::Echo, Transport::Mtls, "echo", BUSY),
        (Mode::Download, Transport::Mtls, "download", 4),
    ] {
        for workers in [1, 2] {
            let work = Work::Load(load(mode, connections.min(most)));
            let name = format!("workers-{name}-{workers}");
            let growth = Some(Growth::Workers(workers));
            add(name, transport, work, growth);
        }
    }
    cases
}

/// Returns how many connections HAProxy can handle if other balancers can handle `most`. HAProxy
/// reserves half a pipe per connection, and a pipe has two file descriptors. HAProxy does not
/// start if connections and pipes exceed the limit on open files.
pub fn with_pipes(most: usize) -> usize {
    most / 5 * 4
}

/// Selects the cases whose names contain one of `words`, or all cases if `words` is empty.
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
                Work::Load(spec) | Work::Logged(spec) => assert!(spec.connections <= 450),
                Work::Memory { connections } => assert!(connections <= 360),
                Work::Fairness | Work::Flood(_) => {}
            }
        }
    }
}
