//! What the running balancer reports: blocked clients and the state of the servers.

use std::time::Duration;

use leastconn::{Candidates, PanicPolicy, Pool, net::ConnectError};
use leastconn_server::{
    api::{Server, client::Client},
    blocks::BlockList,
    reason_code::ReasonCode,
    snapshot::Snapshot,
};

use super::runtime;
use crate::figures;

/// Reason code and detail.
pub(super) type Refusal = (ReasonCode, Option<String>);

/// Time limit for asking the running balancer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The servers of the running balancer.
#[derive(Debug)]
pub(super) struct RunningBalancer {
    servers: Vec<Server>,
}

/// Whether a server would get a connection now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Available,
    /// At `max_conns`.
    Full,
    /// Ejected or down, because connecting to it failed.
    Unreachable,
    /// Down, because it accepted connections, but failed its checks.
    Failing,
    /// In drain or maint, or with a weight of zero.
    OutOfService,
}

impl RunningBalancer {
    /// Asks the running balancer over the admin socket of this configuration, and applies its blocks.
    /// Returns `None` if no balancer answers.
    ///
    /// # Errors
    /// If the runtime cannot be started.
    pub(super) fn ask(snapshot: &Snapshot) -> Result<Option<Self>, String> {
        let admin = snapshot.config.admin.as_ref();
        let Some(socket) = admin.and_then(|admin| admin.socket.as_ref()) else {
            return Ok(None);
        };
        let client = Client::at_socket(socket).within(TIMEOUT);
        runtime()?.block_on(async {
            if let Ok(blocks) = client.blocks().await {
                snapshot.blocks.replace(BlockList::from(&blocks));
            }
            let servers = client.servers().await;
            Ok(servers.ok().map(|servers| Self {
                servers: servers.servers,
            }))
        })
    }

    /// The state of the server in the running balancer. Returns `None` if it has no such server, for
    /// example because the configuration was not reloaded yet.
    fn server(&self, upstream: &str, server: &leastconn::Server) -> Option<&Server> {
        self.servers.iter().find(|known| {
            known.upstream == upstream
                && known.server == server.id().as_str()
                && known.address == server.address().to_string()
        })
    }

    /// Describes the servers that would not get a connection now, with their names.
    pub(super) fn describe(&self, pool: &Pool, candidates: &Candidates) -> Vec<(String, String)> {
        let members = candidates.members().iter();
        let known = members.filter_map(|member| self.server(pool.id().as_str(), &member.server));
        let described = known.filter_map(|server| {
            let text = match state_of(server) {
                State::Available => return None,
                State::Full => format!(
                    "{}, at max_conns",
                    figures::count(server.active as usize, "connection")
                ),
                State::Unreachable | State::Failing => match &server.outage {
                    Some(outage) => format!("{}: {}", server.health, outage.reason),
                    None => server.health.clone(),
                },
                State::OutOfService if server.effective_weight == Some(0.0) => {
                    "weight 0".to_owned()
                }
                State::OutOfService => server.state_text(),
            };
            Some((server.server.clone(), text))
        });
        described.collect()
    }

    /// Returns why a connection would fail now, because none of its servers can get it. Otherwise
    /// returns what delays or endangers the connection.
    pub(super) fn check(
        &self,
        pool: &Pool,
        candidates: &Candidates,
    ) -> Result<Option<&'static str>, Refusal> {
        let members = candidates.members().iter();
        let states: Vec<_> = members
            .map(|member| {
                let server = self.server(pool.id().as_str(), &member.server);
                server.map_or(State::Available, state_of)
            })
            .collect();
        let count = |wanted: State| states.iter().filter(|state| **state == wanted).count();
        let refused =
            |error: ConnectError| Err((ReasonCode::NoServerAvailable, Some(error.to_string())));
        if count(State::Available) > 0 {
            return Ok(None);
        }
        let (failing, unreachable) = (count(State::Failing), count(State::Unreachable));
        match (count(State::Full), failing + unreachable) {
            (1.., _) if pool.queue_policy().size > 0 => Ok(Some(
                "it waits in the queue, because all allowed servers are at `max_conns`",
            )),
            (full @ 1.., _) => refused(ConnectError::AtMaxConns {
                full,
                selected: states.len(),
            }),
            (0, 1..) if pool.panic() == PanicPolicy::Dial && failing > 0 => Ok(Some(
                "none of the allowed servers is up, but they accept connections and are dialled \
                 (`panic = \"dial\"`)",
            )),
            (0, 1..) if pool.panic() == PanicPolicy::Dial => Err((
                ReasonCode::ConnectFailed,
                Some(
                    "none of the allowed servers is up. They are dialled nevertheless (`panic = \
                     \"dial\"`), so the connection succeeds if one of them accepts it"
                        .to_owned(),
                ),
            )),
            (0, _) => refused(ConnectError::NoServerAvailable),
        }
    }
}

fn state_of(server: &Server) -> State {
    let open = server.active + server.elsewhere.unwrap_or(0);
    if server.state_text() != "ready" || server.effective_weight == Some(0.0) {
        State::OutOfService
    } else if server.health != "up" {
        let reason = server.outage.as_ref().map(|outage| &*outage.reason);
        match reason {
            // The error of a system call.
            Some(reason) if !reason.contains("(os error") && !reason.contains("timed out") => {
                State::Failing
            }
            _ => State::Unreachable,
        }
    } else if server.max_conns.is_some_and(|max| open >= max) {
        State::Full
    } else {
        State::Available
    }
}
