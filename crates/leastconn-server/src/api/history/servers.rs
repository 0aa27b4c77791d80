//! Readings of each server in the last five minutes.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::context::ServerContext;

/// A reading is taken with every third sample of the whole balancer.
pub(super) const SAMPLES: usize = 3;

/// Number of readings that are kept: five minutes.
const KEPT: usize = 50;

/// Readings of a server in the last five minutes, taken every six seconds, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerHistory {
    /// Open connections, including those being opened.
    pub open: Vec<u32>,
    /// Positions in `open` at which the server was ejected or down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub down: Vec<usize>,
}

/// The readings of all servers.
#[derive(Debug, Default)]
pub struct ServerHistories(Mutex<HashMap<String, VecDeque<Reading>>>);

#[derive(Clone, Copy, Debug)]
struct Reading {
    open: u32,
    is_up: bool,
}

impl ServerHistories {
    /// The readings of a server. `None` before the first reading.
    pub fn of(&self, upstream: &str, server: &str) -> Option<ServerHistory> {
        let histories = self.0.lock();
        let readings = histories.get(&key(upstream, server))?;
        let down = readings.iter().enumerate();
        let down = down.filter(|(_, reading)| !reading.is_up);
        Some(ServerHistory {
            open: readings.iter().map(|reading| reading.open).collect(),
            down: down.map(|(position, _)| position).collect(),
        })
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }

    /// Reads all servers, and forgets removed ones.
    pub(super) fn read(&self, context: &ServerContext) {
        let snapshot = context.snapshot();
        let mut histories = self.0.lock();
        let mut next = HashMap::with_capacity(histories.len());
        for pool in snapshot.pools() {
            for member in pool.members().iter() {
                let key = key(pool.id().as_str(), member.server.id().as_str());
                let status = member.server.status();
                let mut readings = histories.remove(&key).unwrap_or_default();
                if readings.len() == KEPT {
                    readings.pop_front();
                }
                readings.push_back(Reading {
                    open: status.in_flight,
                    is_up: status.is_up(),
                });
                next.insert(key, readings);
            }
        }
        *histories = next;
    }
}

fn key(upstream: &str, server: &str) -> String {
    format!("{upstream}/{server}")
}
