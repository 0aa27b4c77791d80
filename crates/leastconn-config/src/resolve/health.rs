//! `health_check` and `passive` of `[[upstream]]`.

use std::{num::NonZeroU32, ops::Range, time::Duration};

use leastconn::health::{ActivePolicy, PassivePolicy, Ratio};

use super::{Resolver, Zero};
use crate::{
    defaults,
    model::{AgentCheck, HealthCheck, ProbeKind, SourceKind, StatusSet, Upstream},
    raw::{HealthCheckType, RawHealthCheck, RawPassive, RawUpstream, value::At},
};

/// The default port of MySQL and MariaDB.
const MYSQL: u16 = 3306;

impl Resolver<'_> {
    pub(super) fn passive(&mut self, raw: Option<&RawPassive>) -> PassivePolicy {
        let fail_timeout = raw.and_then(|raw| raw.fail_timeout.as_ref());
        let mut passive = PassivePolicy::default();
        passive.max_fails = raw
            .and_then(|raw| raw.max_fails.as_ref())
            .map_or(defaults::MAX_FAILS, |at| at.value);
        let default = match passive.max_fails {
            // Before `max_early` existed, `max_fails = 0` disabled ejection completely.
            0 => 0,
            _ => defaults::MAX_EARLY,
        };
        passive.max_early = raw
            .and_then(|raw| raw.max_early.as_ref())
            .map_or(default, |at| at.value);
        passive.fail_timeout = self.duration(
            "fail_timeout",
            fail_timeout,
            defaults::FAIL_TIMEOUT,
            Zero::Refused,
        );
        let part = raw
            .and_then(|raw| raw.max_ejected.as_ref())
            .map_or(defaults::MAX_EJECTED, |at| at.value);
        // The schema check has already rejected values outside the range 0 to 1.
        passive.max_ejected = Ratio::new(part).unwrap_or(Ratio::HALF);
        passive
    }

    pub(super) fn health_check(
        &mut self,
        raw: &RawHealthCheck,
        span: &Range<usize>,
    ) -> Option<HealthCheck> {
        let kind = raw
            .kind
            .as_ref()
            .map_or(HealthCheckType::Tcp, |at| at.value);
        self.check_probe_keys(raw, kind);
        let interval = self.duration(
            "interval",
            raw.interval.as_ref(),
            defaults::HEALTH_INTERVAL,
            Zero::Refused,
        );
        let timeout = self.duration(
            "timeout",
            raw.timeout.as_ref(),
            defaults::HEALTH_TIMEOUT,
            Zero::Refused,
        );
        if kind != HealthCheckType::None && timeout > interval {
            let place = raw.timeout.as_ref().map_or(span, |at| &at.span);
            self.problems
                .warning("`timeout` of the health check is longer than its `interval`")
                .at(place.clone())
                .note("a probe starts only when the previous one has ended");
        }
        if interval < Duration::from_millis(100)
            && let Some(at) = &raw.interval
        {
            self.problems
                .warning("each server will be probed more than ten times a second")
                .at(at.span.clone());
        }
        let text = |at: &Option<At<String>>| at.as_ref().map(|at| at.value.clone().into_bytes());
        let kind = match kind {
            HealthCheckType::None | HealthCheckType::Agent => return None,
            HealthCheckType::Tcp => ProbeKind::Tcp {
                send: text(&raw.send),
                expect: text(&raw.expect),
            },
            HealthCheckType::Http => ProbeKind::Http {
                path: self.request_target(raw.path.as_ref()),
                status: raw.status.as_ref().map_or(StatusSet::Success, |at| {
                    StatusSet::OneOf(at.value.0.clone())
                }),
            },
            HealthCheckType::Mysql => ProbeKind::Mysql {
                user: self.probe_user(raw.user.as_ref()),
            },
            HealthCheckType::Postgres => ProbeKind::Postgres {
                user: self.probe_user(raw.user.as_ref()),
            },
            HealthCheckType::Redis => ProbeKind::Redis,
        };
        let streak = |at: &Option<At<u32>>, default: u32| {
            at.as_ref()
                .and_then(|at| NonZeroU32::new(at.value))
                .or(NonZeroU32::new(default))
                .unwrap_or(NonZeroU32::MIN)
        };
        Some(HealthCheck {
            kind,
            port: raw.port.as_ref().map(|at| at.value),
            interval,
            timeout,
            policy: ActivePolicy::new(
                streak(&raw.rise, defaults::RISE),
                streak(&raw.fall, defaults::FALL),
            ),
        })
    }

    /// Reports keys that belong to another kind of probe.
    fn check_probe_keys(&mut self, raw: &RawHealthCheck, kind: HealthCheckType) {
        let place = |at: &Option<At<String>>| at.as_ref().map(|at| at.span.clone());
        let is_agent = kind == HealthCheckType::Agent;
        let keys = [
            (
                "send",
                "tcp",
                HealthCheckType::Tcp,
                place(&raw.send).filter(|_| !is_agent),
            ),
            ("expect", "tcp", HealthCheckType::Tcp, place(&raw.expect)),
            ("path", "http", HealthCheckType::Http, place(&raw.path)),
            (
                "status",
                "http",
                HealthCheckType::Http,
                raw.status.as_ref().map(|at| at.span.clone()),
            ),
        ];
        for (key, word, wanted, span) in keys {
            if let Some(span) = span
                && kind != wanted
            {
                self.problems
                    .error(format!("`{key}` belongs to health checks of type {word:?}"))
                    .at(span)
                    .help(format!("write `type = {word:?}`, or remove `{key}`"));
            }
        }
        if let Some(At { span, .. }) = &raw.user
            && !matches!(kind, HealthCheckType::Mysql | HealthCheckType::Postgres)
        {
            self.problems
                .error("`user` belongs to health checks of type \"mysql\" or \"postgres\"")
                .at(span.clone())
                .help("write `type = \"mysql\"` or `type = \"postgres\"`, or remove `user`");
        }
        for (key, text) in [("send", &raw.send), ("expect", &raw.expect)] {
            if let Some(at) = text
                && at.value.is_empty()
            {
                self.problems
                    .error(format!("`{key}` is empty"))
                    .at(at.span.clone());
            }
        }
        if let Some(at) = &raw.status
            && at.value.0.is_empty()
            && !self.pruned(&at.span)
        {
            self.problems
                .error("`status` is empty: no answer would be accepted")
                .at(at.span.clone());
        }
    }

    /// Resolves `agent_check`, or `health_check` of type "agent".
    pub(super) fn agent_check(&mut self, raw: &RawUpstream) -> Option<AgentCheck> {
        let health = raw.health_check.as_ref().filter(|health| {
            let kind = health.value.kind.as_ref();
            kind.is_some_and(|kind| kind.value == HealthCheckType::Agent)
        });
        let (port, send, interval, timeout) = match (&raw.agent_check, health) {
            (None, None) => return None,
            (Some(_), Some(health)) => {
                self.problems
                    .error("`agent_check` and a health check of type \"agent\" are both set")
                    .at(health.span.clone())
                    .help("remove one of them");
                return None;
            }
            (Some(agent), None) => (&agent.port, &agent.send, &agent.interval, &agent.timeout),
            (None, Some(At { value, span })) => {
                if value.port.is_none() {
                    self.problems
                        .error("`port` is missing: an agent check needs the port of the agent")
                        .at(span.clone())
                        .help("write `health_check = { type = \"agent\", port = 9999 }`");
                }
                for (key, at) in [("rise", &value.rise), ("fall", &value.fall)] {
                    if let Some(at) = at {
                        self.problems
                            .error(format!("`{key}` has no meaning for agent checks"))
                            .at(at.span.clone())
                            .help("one report of the agent is enough");
                    }
                }
                (&value.port, &value.send, &value.interval, &value.timeout)
            }
        };
        let interval = self.duration(
            "interval",
            interval.as_ref(),
            defaults::HEALTH_INTERVAL,
            Zero::Refused,
        );
        let timeout = self.duration(
            "timeout",
            timeout.as_ref(),
            defaults::HEALTH_TIMEOUT,
            Zero::Refused,
        );
        Some(AgentCheck {
            port: port.as_ref()?.value,
            send: send.as_ref().map(|at| at.value.clone().into_bytes()),
            interval,
            timeout,
        })
    }

    /// Warns if a server has no port, so that its agent cannot be queried.
    pub(super) fn check_agent_ports(&mut self, raw: &RawUpstream, upstream: &Upstream) {
        let mut servers = upstream.servers.iter();
        let without_port = servers.find(|server| server.address.port().is_none());
        if let (Some(_), Some(server), Some(list)) =
            (&upstream.agent_check, without_port, &raw.servers)
        {
            self.problems
                .warning(format!(
                    "the agent of server `{}` is not asked: the server is a UNIX socket",
                    server.id
                ))
                .at(list.span.clone());
        }
    }

    fn probe_user(&mut self, user: Option<&At<String>>) -> String {
        let Some(At { value, span }) = user else {
            return defaults::HEALTH_USER.to_owned();
        };
        // The protocols terminate the user name with a NUL byte.
        if value.is_empty() || value.contains('\0') || value.len() > 63 {
            self.problems
                .error(format!("{value:?} is not the name of a database user"))
                .at(span.clone())
                .help("a user name has 1 to 63 bytes and no NUL");
        }
        value.clone()
    }

    /// Warns if a MySQL server would block this host because the probes do not log in.
    pub(super) fn check_mysql(&mut self, raw: &RawUpstream, upstream: &Upstream) {
        let Some(check) = &upstream.health_check else {
            return;
        };
        let has_no_login = matches!(
            check.kind,
            ProbeKind::Tcp { send: None, .. } | ProbeKind::Http { .. }
        );
        let discovered = upstream.sources.iter().map(|source| match source.kind {
            SourceKind::Dns { port, .. } => Some(port),
            SourceKind::Srv(_) | SourceKind::File(_) => None,
        });
        let listed = upstream.servers.iter().map(|server| server.address.port());
        let mut ports = listed.chain(discovered);
        let is_mysql = match check.port {
            Some(port) => port == MYSQL,
            None => ports.any(|port| port == Some(MYSQL)),
        };
        if !has_no_login || !is_mysql {
            return;
        }
        let of_check = raw.health_check.as_ref().map(|at| &at.span);
        let place = of_check.or(raw.servers.as_ref().map(|at| &at.span));
        let problem = self
            .problems
            .warning("MySQL and MariaDB count each of these health checks as an error of this host, and block it after `max_connect_errors`");
        if let Some(place) = place {
            problem
                .at(place.clone())
                .note("a server has port 3306")
                .help("write `health_check = { type = \"mysql\" }`");
        }
    }

    fn request_target(&mut self, path: Option<&At<String>>) -> String {
        let Some(At { value, span }) = path else {
            return defaults::HEALTH_PATH.to_owned();
        };
        // A space or a line break ends the request target in HTTP.
        let clean = value.bytes().all(|b| b.is_ascii_graphic());
        if !clean || !value.starts_with('/') || value.len() > 1024 {
            self.problems
                .error(format!("{value:?} is not a request path"))
                .at(span.clone())
                .help("a path starts with `/` and consists of ASCII characters without spaces");
        }
        value.clone()
    }
}
