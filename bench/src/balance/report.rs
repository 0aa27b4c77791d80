//! The table of results.

use std::fmt;

use serde::Serialize;

use super::situation::Situation;
use crate::{
    compare::program::{Kind, Program},
    machine::Machine,
};

#[derive(Debug, Serialize)]
pub(super) struct Report {
    date: String,
    machine: Machine,
    programs: Vec<Program>,
    seed: u64,
    rows: Vec<Row>,
}

/// One value of one situation, for all balancers.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    situation: &'static str,
    summary: &'static str,
    value: &'static str,
    /// The target for `value`.
    reach: &'static str,
    results: Vec<Cell>,
}

#[derive(Debug, Serialize)]
struct Cell {
    balancer: Kind,
    /// `None`: not supported or failed.
    value: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The values of a situation for one balancer, or an error.
pub(super) type Results = [(Kind, Result<Vec<f64>, String>)];

pub(super) fn rows(situation: &Situation, results: &Results) -> Vec<Row> {
    let values = situation.values.iter().enumerate();
    values
        .map(|(position, &(value, reach))| Row {
            situation: situation.name,
            summary: situation.summary,
            value,
            reach,
            results: results
                .iter()
                .map(|(kind, result)| Cell {
                    balancer: *kind,
                    value: result.as_ref().ok().map(|values| values[position]),
                    error: result.as_ref().err().cloned(),
                })
                .collect(),
        })
        .collect()
}

impl Report {
    pub(super) fn new(programs: Vec<Program>, seed: u64, rows: Vec<Row>) -> Self {
        Self {
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%d %H:%M UTC")
                .to_string(),
            machine: Machine::detect(),
            programs,
            seed,
            rows,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(
            f,
            "{}; {}, {} CPUs, Linux {}",
            self.date, machine.cpu, machine.cores, machine.kernel
        )?;
        for program in &self.programs {
            writeln!(f, "{}: {}", program.kind, program.version)?;
        }
        let mut situation = "";
        for row in &self.rows {
            if row.situation != situation {
                situation = row.situation;
                writeln!(f, "\n{}: {}", row.situation, row.summary)?;
                write!(f, "  {:<24}", "")?;
                for program in &self.programs {
                    write!(f, "{:>11}", program.kind.to_string())?;
                }
                writeln!(f, "   reach")?;
            }
            write!(f, "  {:<24}", row.value)?;
            for cell in &row.results {
                let text = cell.value.map_or_else(|| "-".to_owned(), format_value);
                write!(f, "{text:>11}")?;
            }
            writeln!(f, "   {}", row.reach)?;
        }
        let failed = self.rows.iter().flat_map(|row| &row.results);
        let errors: Vec<String> = failed
            .filter_map(|cell| Some(format!("{}: {}", cell.balancer, cell.error.as_ref()?)))
            .filter(|error| !error.ends_with("unsupported"))
            .collect();
        for error in errors {
            writeln!(f, "\n{error}")?;
        }
        Ok(())
    }
}

/// Formats small values with three decimals, large values with one, and integers with none.
fn format_value(value: f64) -> String {
    if value.fract() == 0.0 {
        format!("{value:.0}")
    } else if value < 10.0 {
        format!("{value:.3}")
    } else {
        format!("{value:.1}")
    }
}
