//! Summarizes samples for the table, the JSON file and the chart.

use std::fmt::Write;

use serde::Serialize;

use super::{
    case::{Attack, Case},
    measure::{
        Fairness, Flood, Sample, bytes_per_identity,
        flood::{
            CONCURRENT_HANDSHAKES, MAZE_HANDSHAKES_PER_SECOND, NEWCOMERS_PER_SECOND,
            STALLED_HANDSHAKES_PER_SECOND,
        },
    },
    program::{Kind, Program},
    stats::Spread,
};
use crate::{load::work::STALLED_SOURCES, machine::Machine};

#[derive(Debug, Serialize)]
pub struct Report {
    /// Start time of the run in UTC.
    pub date: String,
    pub command: String,
    pub machine: Machine,
    pub programs: Vec<Program>,
    pub rounds: usize,
    /// Worker threads of each balancer.
    pub workers: usize,
    /// Notes that readers need to interpret the results.
    pub notes: Vec<String>,
    /// One line per case.
    pub lines: Vec<Line>,
    /// Results of the cases that are measured with leastconn only.
    pub growth: Vec<GrowthLine>,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub case: String,
    pub unit: String,
    pub cost: Vec<(Kind, Option<Spread>)>,
    pub p50_ms: Vec<(Kind, Option<Spread>)>,
    pub p99_ms: Vec<(Kind, Option<Spread>)>,
    pub p999_ms: Vec<(Kind, Option<Spread>)>,
    /// Operations or MiB per second.
    pub throughput: Vec<(Kind, Option<Spread>)>,
    /// Ratio of leastconn's cost to the cost of the best peer.
    pub cost_ratio: Option<Ratio>,
    /// Ratio of leastconn's p99 to the p99 of the best peer.
    pub p99_ratio: Option<Ratio>,
}

/// Ratio to the best peer, that is, the peer with the smallest median.
#[derive(Debug, Serialize)]
pub struct Ratio {
    pub peer: Kind,
    /// Spread of the per-round ratios.
    pub ratio: Spread,
}

/// Results of one growth case.
#[derive(Debug, Serialize)]
pub struct GrowthLine {
    pub case: String,
    pub unit: String,
    pub cost: Option<Spread>,
    /// Ratio of the cost to the cost of the smallest case of the same kind.
    pub ratio: Option<Spread>,
    /// Proportional set size while connections were open.
    pub memory_mib: Option<Spread>,
    /// Bytes of memory per additional client rule.
    pub bytes_per_identity: Option<Spread>,
    /// Ratio of the CPU time of the busiest worker to the mean of all workers.
    pub worker_balance: Option<Spread>,
}

/// Summarizes the samples of each case with peers.
pub fn lines(cases: &[Case], kinds: &[Kind], samples: &[Sample]) -> Vec<Line> {
    let compared = cases.iter().filter(|case| case.growth.is_none());
    compared
        .map(|case| {
            let of_case: Vec<&Sample> = samples.iter().filter(|s| s.case == case.name).collect();
            let each = |value: fn(&Sample) -> Option<f64>| {
                let spread = |kind: &Kind| {
                    let own = of_case.iter().filter(|s| s.balancer == *kind);
                    (*kind, Spread::of(own.filter_map(|s| value(s))))
                };
                kinds.iter().map(spread).collect::<Vec<_>>()
            };
            let (cost, p99_ms) = (each(|s| s.cost), each(p99));
            Line {
                case: case.name.clone(),
                unit: case.unit().to_string(),
                p50_ms: each(|s| s.latency_ns.map(|l| l.p50 as f64 / 1e6)),
                p999_ms: each(|s| s.latency_ns.map(|l| l.p999 as f64 / 1e6)),
                throughput: each(|s| s.mib_per_second.or(s.operations_per_second)),
                cost_ratio: ratio(&of_case, &cost, |s| s.cost),
                p99_ratio: ratio(&of_case, &p99_ms, p99),
                cost,
                p99_ms,
            }
        })
        .collect()
}

fn p99(sample: &Sample) -> Option<f64> {
    sample.latency_ns.map(|latency| latency.p99 as f64 / 1e6)
}

fn ratio(
    samples: &[&Sample],
    spreads: &[(Kind, Option<Spread>)],
    value: fn(&Sample) -> Option<f64>,
) -> Option<Ratio> {
    let peers = spreads.iter().filter(|(kind, _)| *kind != Kind::Leastconn);
    let (peer, _) = peers
        .filter_map(|(kind, spread)| Some((*kind, spread.as_ref()?.median)))
        .min_by(|a, b| a.1.total_cmp(&b.1))?;
    let of = |kind: Kind, round: usize| {
        let mut found = samples
            .iter()
            .filter(|s| s.balancer == kind && s.round == round);
        found.next().and_then(|s| value(s))
    };
    let rounds = samples.iter().map(|s| s.round).max()?;
    let pairs =
        (1..=rounds).filter_map(|round| Some((of(Kind::Leastconn, round)?, of(peer, round)?)));
    Some(Ratio {
        peer,
        ratio: Spread::of_ratios(pairs)?,
    })
}

/// Summarizes the samples of the growth cases.
pub fn growth(cases: &[Case], samples: &[Sample]) -> Vec<GrowthLine> {
    let growing = cases.iter().filter_map(|case| Some((case, case.growth?)));
    growing
        .clone()
        .map(|(case, what)| {
            let smallest = growing
                .clone()
                .find(|(other, of)| of.is_like(what) && other.is_same_work(case));
            let of = |case: &Case| -> Vec<&Sample> {
                samples.iter().filter(|s| s.case == case.name).collect()
            };
            let own = of(case);
            let least = smallest.map_or(Vec::new(), |(case, _)| of(case));
            let least_of = smallest.map_or(what, |(_, what)| what);
            let pairs: Vec<(&Sample, &Sample)> = own
                .iter()
                .filter_map(|s| Some((*s, *least.iter().find(|l| l.round == s.round)?)))
                .collect();
            GrowthLine {
                case: case.name.clone(),
                unit: case.unit().to_string(),
                cost: Spread::of(own.iter().filter_map(|s| s.cost)),
                ratio: Spread::of_ratios(
                    pairs.iter().filter_map(|(s, l)| Some((s.cost?, l.cost?))),
                ),
                memory_mib: Spread::of(
                    own.iter()
                        .filter_map(|s| Some(s.memory? as f64 / 1_048_576.0)),
                ),
                bytes_per_identity: Spread::of(
                    pairs
                        .iter()
                        .filter_map(|(s, l)| bytes_per_identity(l, least_of, s, what)),
                ),
                worker_balance: Spread::of(own.iter().filter_map(|s| s.worker_balance())),
            }
        })
        .collect()
}

impl Report {
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_table(&mut text);
        text
    }

    fn write_table(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "\n{}", self.date)?;
        writeln!(out, "{}", self.command)?;
        let Machine {
            cpu,
            cores,
            kernel,
            congestion_control,
        } = &self.machine;
        writeln!(
            out,
            "{cpu}, {cores} CPUs, Linux {kernel}, {congestion_control}"
        )?;
        for program in &self.programs {
            writeln!(out, "{} {}", program.kind, program.version)?;
        }
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        if !self.lines.is_empty() {
            self.section(
                out,
                "Cost of the balancer (median; less is better)",
                |line| (&line.unit, &line.cost, line.cost_ratio.as_ref()),
            )?;
            self.section(out, "Latency, p99 (ms; less is better)", |line| {
                ("ms", &line.p99_ms, line.p99_ratio.as_ref())
            })?;
            self.section(
                out,
                "Throughput (operations/s; streams and fairness: MiB/s)",
                |line| ("/s", &line.throughput, None),
            )?;
        }
        if !self.growth.is_empty() {
            writeln!(out, "\nGrowth of leastconn")?;
            let head = [
                "case",
                "unit",
                "cost",
                "to the first",
                "MiB",
                "B/identity",
                "busiest worker/mean",
            ];
            writeln!(
                out,
                "{:<26} {:<18} {:>8} {:>20} {:>8} {:>11} {:>20}",
                head[0], head[1], head[2], head[3], head[4], head[5], head[6]
            )?;
        }
        for line in &self.growth {
            writeln!(
                out,
                "{:<26} {:<18} {:>8} {:>20} {:>8} {:>11} {:>20}",
                line.case,
                line.unit,
                median(line.cost.as_ref()),
                spread(line.ratio.as_ref()),
                median(line.memory_mib.as_ref()),
                median(line.bytes_per_identity.as_ref()),
                spread(line.worker_balance.as_ref()),
            )?;
        }
        self.write_fairness(out)?;
        for attack in Attack::ALL {
            self.write_flood(attack, out)?;
        }
        for sample in self.samples.iter().filter(|s| !s.errors.is_empty()) {
            let errors: Vec<String> = sample
                .errors
                .iter()
                .map(|(kind, count)| format!("{count} × {kind}"))
                .collect();
            writeln!(
                out,
                "errors: {}, {}, round {}: {}",
                sample.balancer,
                sample.case,
                sample.round,
                errors.join("; ")
            )?;
        }
        Ok(())
    }

    fn write_fairness(&self, out: &mut String) -> std::fmt::Result {
        let measured: Vec<(Kind, Fairness)> = self
            .samples
            .iter()
            .filter_map(|s| Some((s.balancer, s.fairness?)))
            .collect();
        if measured.is_empty() {
            return Ok(());
        }
        writeln!(out, "\nFairness: p99 of the echoes (ms)")?;
        writeln!(
            out,
            "{:<20} {:>10} {:>24} {:>24}",
            "", "alone", "with a stream", "stream bypasses it"
        )?;
        for program in &self.programs {
            let of = |value: fn(Fairness) -> u64| {
                let own = measured.iter().filter(|(kind, _)| *kind == program.kind);
                Spread::of(own.map(|(_, fairness)| value(*fairness) as f64 / 1e6))
            };
            writeln!(
                out,
                "{:<20} {:>10} {:>24} {:>24}",
                program.kind,
                median(of(|f| f.p99_alone_ns).as_ref()),
                spread(of(|f| f.p99_beside_ns).as_ref()),
                spread(of(|f| f.p99_beside_straight_ns).as_ref()),
            )?;
        }
        Ok(())
    }

    fn write_flood(&self, attack: Attack, out: &mut String) -> std::fmt::Result {
        let measured: Vec<(Kind, Flood)> = self
            .samples
            .iter()
            .filter(|s| s.case == attack.case())
            .filter_map(|s| Some((s.balancer, s.flood?)))
            .collect();
        if measured.is_empty() {
            return Ok(());
        }
        let title = match attack {
            Attack::Handshakes => {
                format!("Flood: two sources, {CONCURRENT_HANDSHAKES} handshakes each")
            }
            Attack::Maze => {
                format!("Flood: path-building maze, {MAZE_HANDSHAKES_PER_SECOND} handshakes/s")
            }
            Attack::Stalled => format!(
                "Flood: {STALLED_HANDSHAKES_PER_SECOND} stalled handshakes/s from \
                 {STALLED_SOURCES} sources"
            ),
        };
        writeln!(
            out,
            "\n{title}; a newcomer connects {NEWCOMERS_PER_SECOND} times/s (ms)"
        )?;
        writeln!(
            out,
            "{:<20} {:>10} {:>24} {:>12} {:>10} {:>24} {:>10} {:>18}",
            "", "p50", "longest", "flood, conn/s", "CPU", "echo p99", "quiet", "to quiet"
        )?;
        for program in &self.programs {
            let of = |value: fn(Flood) -> f64| {
                let own = measured.iter().filter(|(kind, _)| *kind == program.kind);
                Spread::of(own.map(|(_, flood)| value(*flood)))
            };
            writeln!(
                out,
                "{:<20} {:>10} {:>24} {:>12} {:>10} {:>24} {:>10} {:>18}",
                program.kind,
                median(of(|f| f.newcomer_p50_ns as f64 / 1e6).as_ref()),
                spread(of(|f| f.newcomer_longest_ns as f64 / 1e6).as_ref()),
                median(of(|f| f.flood_per_second).as_ref()),
                median(of(|f| f.cpu_busy).as_ref()),
                spread(of(|f| f.echo_p99_ns as f64 / 1e6).as_ref()),
                median(of(|f| f.echo_p99_quiet_ns as f64 / 1e6).as_ref()),
                spread(of(|f| f.echo_p99_ns as f64 / f.echo_p99_quiet_ns as f64).as_ref()),
            )?;
        }
        Ok(())
    }

    fn section<'a>(
        &'a self,
        out: &mut String,
        title: &str,
        values: impl Fn(&'a Line) -> (&'a str, &'a Vec<(Kind, Option<Spread>)>, Option<&'a Ratio>),
    ) -> std::fmt::Result {
        writeln!(out, "\n{title}")?;
        write!(out, "{:<20} {:<18}", "case", "unit")?;
        for program in &self.programs {
            write!(out, " {:>10}", program.kind)?;
        }
        writeln!(out, "   leastconn / best peer (min–max)")?;
        for line in &self.lines {
            let (unit, spreads, ratio) = values(line);
            if spreads.iter().all(|(_, spread)| spread.is_none()) {
                continue;
            }
            write!(out, "{:<20} {unit:<18}", line.case)?;
            for (_, spread) in spreads {
                write!(out, " {:>10}", median(spread.as_ref()))?;
            }
            match ratio {
                Some(Ratio { peer, ratio }) => {
                    writeln!(out, "   {} {peer}", spread(Some(ratio)))?;
                }
                None => writeln!(out)?,
            }
        }
        Ok(())
    }

    /// Number of measurements of leastconn that had errors. Unless `errors_only` is set,
    /// measurements without a result are counted too.
    pub fn errors_of_leastconn(&self, errors_only: bool) -> usize {
        let own = self
            .samples
            .iter()
            .filter(|s| s.balancer == Kind::Leastconn);
        own.filter(|s| !s.errors.is_empty() || (s.cost.is_none() && !errors_only))
            .count()
    }
}

/// Formats a number with three significant digits.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn median(spread: Option<&Spread>) -> String {
    spread.map_or_else(|| "–".to_owned(), |spread| short(spread.median))
}

fn spread(spread: Option<&Spread>) -> String {
    match spread {
        Some(Spread { median, min, max }) => format!("{median:.2} ({min:.2}–{max:.2})"),
        None => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::compare::case::{self, Unit};

    fn sample(case: &str, balancer: Kind, round: usize, cost: f64) -> Sample {
        Sample {
            case: case.to_owned(),
            balancer,
            round,
            cost: Some(cost),
            unit: Unit::Echo,
            seconds: 1.0,
            cpu_busy: None,
            cpu_coarse: false,
            operations_per_second: None,
            mib_per_second: None,
            latency_ns: None,
            memory_before: None,
            memory: None,
            connections: 0,
            negotiated: String::new(),
            resumed: None,
            errors: BTreeMap::new(),
            worker_cpu_ns: Vec::new(),
            fairness: None,
            flood: None,
        }
    }

    #[test]
    fn ratio_uses_the_best_peer() {
        let cases = case::select(case::all(false, 9_000), &["echo-mtls-32".into()]);
        let kinds = [Kind::Leastconn, Kind::Haproxy, Kind::Envoy];
        let of = |kind, costs: [f64; 3]| {
            let rounds = costs.into_iter().enumerate();
            rounds.map(move |(n, cost)| sample("echo-mtls-32", kind, n + 1, cost))
        };
        let samples: Vec<Sample> = of(Kind::Leastconn, [8.0, 9.0, 16.0])
            .chain(of(Kind::Haproxy, [10.0, 10.0, 20.0]))
            // Envoy has the smallest single value, but not the smallest median.
            .chain(of(Kind::Envoy, [5.0, 30.0, 30.0]))
            .collect();
        let line = &lines(&cases, &kinds, &samples)[0];
        let Ratio { peer, ratio } = line.cost_ratio.as_ref().unwrap();
        assert_eq!(*peer, Kind::Haproxy);
        let expected = Spread {
            median: 0.8,
            min: 0.8,
            max: 0.9,
        };
        assert_eq!(*ratio, expected);
        assert!(line.p99_ratio.is_none());
    }

    #[test]
    fn no_peers_means_no_ratio() {
        let cases = case::select(case::all(false, 9_000), &["echo-mtls-32".into()]);
        let samples = [sample("echo-mtls-32", Kind::Leastconn, 1, 1.0)];
        let line = &lines(&cases, &[Kind::Leastconn], &samples)[0];
        assert!(line.cost_ratio.is_none());
    }

    #[test]
    fn growth_is_relative_to_the_smallest_case() {
        let cases = case::select(case::all(false, 9_000), &["growth-identities".into()]);
        let mut samples = vec![
            sample("growth-identities-1", Kind::Leastconn, 1, 100.0),
            sample("growth-identities-100000", Kind::Leastconn, 1, 110.0),
        ];
        samples[0].memory_before = Some(1_000_000);
        samples[1].memory_before = Some(1_000_000 + 200 * 99_999);
        let lines = growth(&cases, &samples);
        assert_eq!(lines[0].ratio.unwrap().median, 1.0);
        assert!(lines[0].bytes_per_identity.is_none());
        assert!(lines[1].cost.is_none());
        assert_eq!(lines[2].ratio.unwrap().median, 1.1);
        assert_eq!(lines[2].bytes_per_identity.unwrap().median, 200.0);
    }

    #[test]
    fn worker_scaling_compares_the_same_load() {
        let cases = case::select(case::all(false, 9_000), &["workers-".into()]);
        let mut samples = [
            sample("workers-connect-1", Kind::Leastconn, 1, 100.0),
            sample("workers-connect-2", Kind::Leastconn, 1, 105.0),
            sample("workers-echo-1", Kind::Leastconn, 1, 10.0),
            sample("workers-echo-2", Kind::Leastconn, 1, 12.0),
            sample("workers-plain-connect-1", Kind::Leastconn, 1, 50.0),
            sample("workers-plain-connect-2", Kind::Leastconn, 1, 60.0),
        ];
        samples[3].worker_cpu_ns = vec![600, 400];
        let lines = growth(&cases, &samples);
        let of = |name: &str| lines.iter().find(|line| line.case == name).unwrap();
        assert_eq!(of("workers-connect-2").ratio.unwrap().median, 1.05);
        assert_eq!(of("workers-echo-2").ratio.unwrap().median, 1.2);
        assert_eq!(of("workers-plain-connect-2").ratio.unwrap().median, 1.2);
        assert_eq!(of("workers-echo-2").worker_balance.unwrap().median, 1.2);
        assert!(of("workers-connect-2").worker_balance.is_none());
    }

    #[test]
    fn missing_figures_and_errors_fail_the_case() {
        let mut report = Report {
            date: String::new(),
            command: String::new(),
            machine: Machine::detect(),
            programs: Vec::new(),
            rounds: 1,
            workers: 1,
            notes: Vec::new(),
            lines: Vec::new(),
            growth: Vec::new(),
            samples: vec![sample("x", Kind::Leastconn, 1, 1.0)],
        };
        assert_eq!(report.errors_of_leastconn(false), 0);
        report.samples[0].errors.insert("echo: reset".to_owned(), 3);
        report.samples.push(sample("x", Kind::Envoy, 1, 1.0));
        report.samples[1].cost = None;
        assert_eq!(report.errors_of_leastconn(true), 1);
        report.samples.push(sample("x", Kind::Leastconn, 1, 1.0));
        report.samples[2].cost = None;
        assert_eq!(report.errors_of_leastconn(true), 1);
        assert_eq!(report.errors_of_leastconn(false), 2);
        assert!(report.table().contains("3 × echo: reset"));
    }

    #[test]
    fn numbers_have_three_significant_digits() {
        let texts = [1234.5, 123.45, 12.345, 1.2345, 0.12345].map(short);
        assert_eq!(texts, ["1234", "123", "12.3", "1.23", "0.123"]);
    }
}
