//! Chooses the connections to close.

use std::{cmp::Reverse, collections::HashMap, time::Instant};

use leastconn::ServerId;
use leastconn_config::Rebalance;

/// The connections of one server.
#[derive(Clone, Debug)]
pub(super) struct ServerLoad {
    pub(super) server: ServerId,
    pub(super) connections: u32,
    /// Connections of other members of the fleet.
    pub(super) elsewhere: u32,
    pub(super) weight: f64,
    /// Whether the server can get new connections and is not a backup.
    pub(super) is_available: bool,
}

impl ServerLoad {
    fn total(&self) -> f64 {
        f64::from(self.connections) + f64::from(self.elsewhere)
    }
}

/// A connection that may be closed.
#[derive(Clone, Debug)]
pub(super) struct QuietConnection<C> {
    pub(super) server: ServerId,
    pub(super) opened: Instant,
    pub(super) connection: C,
}

/// Mean number of connections per unit of weight, over the available servers. `None` if there are
/// fewer than two such servers or no connections.
fn mean(servers: &[ServerLoad]) -> Option<f64> {
    let available = || servers.iter().filter(|server| server.is_available);
    let connections: f64 = available().map(ServerLoad::total).sum();
    let weight: f64 = available().map(|server| server.weight).sum();
    (available().count() > 1 && connections > 0.0).then(|| connections / weight)
}

/// Returns the available servers with more than `above` times the mean number of connections.
pub(super) fn overloaded(
    policy: &Rebalance,
    servers: &[ServerLoad],
) -> impl Iterator<Item = ServerId> {
    surplus(policy, servers).into_keys()
}

/// Returns how many connections each overloaded server has above the mean. In a fleet, this is the
/// part of this member: its part of the connections to the server.
fn surplus(policy: &Rebalance, servers: &[ServerLoad]) -> HashMap<ServerId, usize> {
    let Some(mean) = mean(servers) else {
        return HashMap::new();
    };
    let servers = servers.iter().filter(|server| server.is_available);
    let surplus = servers.filter_map(|server| {
        let (total, share) = (server.total(), mean * server.weight);
        let surplus = (total - share) * f64::from(server.connections) / total.max(1.0);
        // The cast saturates and rounds down, so that no server falls below the mean.
        let surplus = surplus as usize;
        let is_over = total > policy.above * share && surplus > 0;
        is_over.then(|| (server.server.clone(), surplus))
    });
    surplus.collect()
}

/// Chooses the connections to close, newest first: at most the fraction `most` of all connections
/// (but at least one connection), and no more than the surplus of each server.
pub(super) fn choose<C>(
    policy: &Rebalance,
    servers: &[ServerLoad],
    mut quiet: Vec<QuietConnection<C>>,
) -> Vec<C> {
    let mut surplus = surplus(policy, servers);
    let all: f64 = servers
        .iter()
        .map(|server| f64::from(server.connections))
        .sum();
    let most = ((all * policy.most.get()) as usize).max(1);
    quiet.sort_by_key(|connection| Reverse(connection.opened));
    let within_surplus = quiet.into_iter().filter(|connection| {
        let left = surplus.get_mut(&connection.server);
        left.is_some_and(|left| {
            let has_some = *left > 0;
            *left = left.saturating_sub(1);
            has_some
        })
    });
    within_surplus
        .take(most)
        .map(|connection| connection.connection)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use leastconn::health::Ratio;

    use super::*;

    fn policy(most: f64) -> Rebalance {
        Rebalance {
            above: 1.2,
            most: Ratio::new(most).unwrap(),
            quiet: Duration::from_secs(5),
        }
    }

    fn servers(loads: &[(&str, u32, f64)]) -> Vec<ServerLoad> {
        let server = |&(name, connections, weight): &(&str, u32, f64)| ServerLoad {
            server: name.into(),
            connections,
            elsewhere: 0,
            weight,
            is_available: true,
        };
        loads.iter().map(server).collect()
    }

    /// Connections to the server, numbered from the oldest to the newest.
    fn quiet(server: &str, count: u64) -> Vec<QuietConnection<(String, u64)>> {
        let now = leastconn::net::now();
        let connection = |number| QuietConnection {
            server: server.into(),
            opened: now + Duration::from_secs(number),
            connection: (server.to_owned(), number),
        };
        (0..count).map(connection).collect()
    }

    #[test]
    fn newest_connections_of_overloaded_servers_are_closed() {
        let servers = servers(&[("a", 200, 1.0), ("b", 100, 1.0), ("c", 0, 1.0)]);
        let both = [quiet("a", 200), quiet("b", 100)].concat();
        let chosen = choose(&policy(0.01), &servers, both);
        let expected = [199, 198, 197].map(|number| ("a".to_owned(), number));
        assert_eq!(chosen, expected, "1 % of 300, and b is at the mean");
    }

    #[test]
    fn no_server_falls_below_the_mean() {
        let loads = servers(&[("a", 13, 1.0), ("b", 7, 1.0)]);
        assert_eq!(choose(&policy(1.0), &loads, quiet("a", 13)).len(), 3);
        // 12 of 20 is not more than 1.2 times the mean.
        let loads = servers(&[("a", 12, 1.0), ("b", 8, 1.0)]);
        assert!(choose(&policy(1.0), &loads, quiet("a", 12)).is_empty());
        let one = servers(&[("a", 1, 1.0), ("b", 0, 1.0)]);
        assert!(choose(&policy(1.0), &one, quiet("a", 1)).is_empty());
    }

    #[test]
    fn load_is_relative_to_the_weight() {
        let loads = servers(&[("a", 30, 3.0), ("b", 10, 1.0)]);
        assert_eq!(overloaded(&policy(1.0), &loads).count(), 0);
        let loads = servers(&[("a", 30, 1.0), ("b", 10, 3.0)]);
        let over: Vec<_> = overloaded(&policy(1.0), &loads).collect();
        assert_eq!(over, ["a".into()]);
        assert_eq!(choose(&policy(1.0), &loads, quiet("a", 30)).len(), 20);
    }

    #[test]
    fn members_of_a_fleet_close_the_surplus_together() {
        // In total 120 and 40: 40 connections of `a` are surplus.
        let mut loads = servers(&[("a", 90, 1.0), ("b", 0, 1.0)]);
        (loads[0].elsewhere, loads[1].elsewhere) = (30, 40);
        assert_eq!(choose(&policy(1.0), &loads, quiet("a", 90)).len(), 30);
        (loads[0].connections, loads[0].elsewhere) = (30, 90);
        assert_eq!(choose(&policy(1.0), &loads, quiet("a", 30)).len(), 10);
        // Even in total, although this member has all its connections on one server.
        (loads[0].connections, loads[0].elsewhere) = (40, 0);
        assert!(choose(&policy(1.0), &loads, quiet("a", 40)).is_empty());
    }

    #[test]
    fn unavailable_servers_neither_give_nor_take() {
        let mut loads = servers(&[("a", 90, 1.0), ("b", 10, 1.0), ("c", 0, 1.0)]);
        loads[0].is_available = false;
        loads[2].is_available = false;
        assert_eq!(overloaded(&policy(1.0), &loads).count(), 0, "b is alone");
        loads[2].is_available = true;
        let over: Vec<_> = overloaded(&policy(1.0), &loads).collect();
        assert_eq!(over, ["b".into()]);
    }

    #[test]
    fn small_pool_closes_at_least_one_connection() {
        let loads = servers(&[("a", 4, 1.0), ("b", 0, 1.0)]);
        assert_eq!(choose(&policy(0.01), &loads, quiet("a", 4)).len(), 1);
    }
}
