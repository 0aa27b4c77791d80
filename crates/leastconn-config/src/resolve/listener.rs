//! `[[listener]]`: addresses, routes and TLS.

use std::{collections::HashMap, ops::Range, path::Path, sync::Arc, time::Duration};

use leastconn_tls::{alpn::Alpn, pattern::DnsPattern};

use super::{MAX_SOCKET_PATH, Reported, Resolver, Zero};
use crate::{
    Prefixes,
    cidr::IpNet,
    defaults,
    keyword::StartTls,
    model::{Listener, Route, SourceRateLimit, Target, Timeouts, TrustedProxies},
    raw::{
        ProxyProtocolIn, RawListener, RawSourceRateLimit,
        value::{At, UpstreamOrFalse},
    },
    tls,
};

impl Resolver<'_> {
    pub(super) fn all_listeners(&mut self, raw: &[At<RawListener>]) -> Vec<At<Listener>> {
        let mut seen = HashMap::new();
        let mut listeners = Vec::new();
        for table in raw {
            let name = self.name("listener", table.value.name.as_ref());
            if let Some(name) = &name {
                self.unique("listener", name.value.clone(), &name.span, &mut seen);
            }
            let listener = self.listener(table);
            if let (Some(name), Some(listener)) = (name, listener) {
                listeners.push(At {
                    value: Listener {
                        name: name.value,
                        ..listener
                    },
                    span: name.span,
                });
            }
        }
        listeners
    }

    /// Returns the listener with an empty name. Returns `None`, after reporting the problem, if the
    /// table is invalid.
    fn listener(&mut self, table: &At<RawListener>) -> Option<Listener> {
        let raw = &table.value;
        let timeouts = Timeouts {
            handshake: self.duration(
                "handshake_timeout",
                raw.handshake_timeout.as_ref(),
                defaults::HANDSHAKE_TIMEOUT,
                Zero::Refused,
            ),
            idle: self.duration(
                "idle_timeout",
                raw.idle_timeout.as_ref(),
                defaults::IDLE_TIMEOUT,
                Zero::Refused,
            ),
            half_close: self.duration(
                "half_close_timeout",
                raw.half_close_timeout.as_ref(),
                defaults::HALF_CLOSE_TIMEOUT,
                Zero::Refused,
            ),
        };
        let keepalive = self.keepalive(raw.keepalive.as_ref());
        let max_lifetime = self.duration(
            "max_lifetime",
            raw.max_lifetime.as_ref(),
            Duration::ZERO,
            Zero::Allowed,
        );
        let mut binds = Vec::new();
        let mut unix_binds = Vec::new();
        if let Some(bind) = &raw.bind {
            let texts = bind.each();
            if texts.is_empty() && !self.pruned(&bind.span) {
                self.problems
                    .error("`bind` is an empty list")
                    .at(bind.span.clone())
                    .help("write `bind = \"0.0.0.0:9443\"`");
            }
            for text in texts {
                match text.value.strip_prefix("unix:") {
                    Some(path) => unix_binds.extend(self.unix_bind(path, &text)),
                    None => binds.extend(self.bind(&text)),
                }
            }
        }
        let upstream = optional(raw.upstream.as_ref(), |at| self.target(at));
        let routes = self.routes(table);
        let starttls = self.starttls(table);
        let tls = optional(raw.tls.as_ref(), |at| {
            // PostgreSQL servers accept only the protocol `postgresql`.
            let default_alpn = match starttls {
                StartTls::Off => Alpn::default(),
                StartTls::Postgres => Alpn::postgresql(),
            };
            tls::listener::load(at, self.surroundings, default_alpn, self.problems)
        });
        let source_rate_limit = optional(raw.source_rate_limit.as_ref(), |at| {
            self.source_rate_limit(&at.value)
        });
        if let Some(max) = &raw.max_intermediates
            && raw.tls.is_none()
            && !self.pruned(&table.span)
        {
            self.problems
                .error(
                    "`max_intermediates` limits client certificates, but the listener has no `tls`",
                )
                .at(max.span.clone())
                .help("add `tls` to the listener, or remove the key");
        }
        let trusted_proxies = self.trusted_proxies(table);
        let (Some(routes), Ok(upstream), Ok(source_rate_limit), Ok(tls), Ok(trusted_proxies)) =
            (routes, upstream, source_rate_limit, tls, trusted_proxies)
        else {
            return None;
        };
        let bind_mode = self.bind_mode(table, !unix_binds.is_empty());
        if (binds.is_empty() && unix_binds.is_empty()) || self.pruned(&table.span) {
            return None;
        }
        Some(Listener {
            name: "".into(),
            binds,
            unix_binds,
            bind_mode,
            routes,
            upstream,
            timeouts,
            keepalive,
            max_lifetime: (!max_lifetime.is_zero()).then_some(max_lifetime),
            on_expiry: raw
                .on_expiry
                .as_ref()
                .map_or_else(Default::default, |at| at.value),
            on_truncation: raw
                .on_truncation
                .as_ref()
                .map_or_else(Default::default, |at| at.value),
            source_rate_limit,
            max_intermediates: raw
                .max_intermediates
                .as_ref()
                .map_or(defaults::MAX_INTERMEDIATES, |at| at.value)
                as usize,
            trusted_proxies,
            starttls,
            tls,
        })
    }

    fn unix_bind(&mut self, path: &str, text: &At<&str>) -> Option<Arc<Path>> {
        let path = self.path(path);
        let length = path.as_os_str().len();
        if text.value == "unix:" || length > MAX_SOCKET_PATH || text.value.contains('\0') {
            self.problems
                .error(format!(
                    "the path of a UNIX socket must have 1 to {MAX_SOCKET_PATH} bytes and no NUL"
                ))
                .at(text.span.clone());
            return None;
        }
        let earlier = self.unix_binds.iter().find(|(other, _)| **other == *path);
        if let Some((_, first)) = earlier {
            self.problems
                .error(format!("{} is used by two `bind` keys", text.value))
                .at(text.span.clone())
                .related(first.clone(), "the first");
            return None;
        }
        let path: Arc<Path> = path.into();
        self.unix_binds.push((Arc::clone(&path), text.span.clone()));
        Some(path)
    }

    /// The file mode of UNIX sockets. Default: access for the owner only.
    fn bind_mode(&mut self, table: &At<RawListener>, has_sockets: bool) -> u32 {
        const OWNER: u32 = 0o600;
        let Some(at) = &table.value.bind_mode else {
            return OWNER;
        };
        let digits = (3..=4).contains(&at.value.len());
        let mode = u32::from_str_radix(&at.value, 8).ok();
        let Some(mode) = mode.filter(|mode| digits && *mode <= 0o777) else {
            self.problems
                .error(format!("{:?} is not a file mode", at.value))
                .at(at.span.clone())
                .help("write it in octal: \"0600\" for the owner, \"0660\" for owner and group");
            return OWNER;
        };
        if !has_sockets && !self.pruned(&table.span) {
            self.problems
                .warning("`bind_mode` has no effect: `bind` has no UNIX socket")
                .at(at.span.clone());
        }
        mode
    }

    fn starttls(&mut self, table: &At<RawListener>) -> StartTls {
        let Some(at) = &table.value.starttls else {
            return StartTls::Off;
        };
        if at.value != StartTls::Off && table.value.tls.is_none() && !self.pruned(&table.span) {
            self.problems
                .error("`starttls` needs `tls`: without it, requests for TLS are declined")
                .at(at.span.clone())
                .help("add `tls` to the listener, or remove `starttls`");
        }
        let alpn = table
            .value
            .tls
            .as_ref()
            .and_then(|tls| tls.value.alpn.as_ref());
        if let Some(alpn) = alpn
            && at.value == StartTls::Postgres
            && !alpn.each().iter().any(|name| name.value == "postgresql")
        {
            self.problems
                .warning("`alpn` lacks \"postgresql\": clients with libpq 17 or newer are refused")
                .at(alpn.span.clone())
                .help("add it, or remove `alpn`: it is the default with `starttls = \"postgres\"`");
        }
        at.value
    }

    fn source_rate_limit(&mut self, raw: &RawSourceRateLimit) -> Option<SourceRateLimit> {
        let to_refuse = "to refuse all clients, remove the listener; for no limit, remove the key";
        let rate = self.rate(raw.rate.as_ref()?, raw.burst.as_ref(), Some(to_refuse))?;
        let length = |at: &Option<At<u32>>, default| {
            let written = at.as_ref().and_then(|at| u8::try_from(at.value).ok());
            written.unwrap_or(default)
        };
        let usual = Prefixes::default();
        Some(SourceRateLimit {
            rate,
            prefixes: Prefixes {
                v4: length(&raw.prefix_v4, usual.v4),
                v6: length(&raw.prefix_v6, usual.v6),
            },
        })
    }

    /// Converts the list of proxies that may send PROXY headers.
    fn trusted_proxies(
        &mut self,
        table: &At<RawListener>,
    ) -> Result<Option<TrustedProxies>, Reported> {
        let raw = &table.value;
        let from = raw.proxy_protocol_from.as_ref();
        let required = raw
            .proxy_protocol
            .as_ref()
            .filter(|at| matches!(at.value, ProxyProtocolIn::Required));
        let Some(required) = required else {
            if let Some(from) = from
                && !self.pruned(&table.span)
            {
                self.problems
                    .error("`proxy_protocol_from` has no effect: PROXY headers are not read")
                    .at(from.span.clone())
                    .help("add `proxy_protocol = \"required\"`, or remove the key");
            }
            return Ok(None);
        };
        if from.is_none() && !self.pruned(&table.span) {
            self.problems
                .warning("everyone who can reach this listener can claim any address")
                .at(required.span.clone())
                .note("`source` rules, limits and the access log use the address in the PROXY header")
                .help(
                    "name the proxies: `proxy_protocol_from = [\"10.0.0.0/8\"]`; if only proxies can \
                    connect, allow all: `[\"0.0.0.0/0\", \"::/0\"]`",
                );
        }
        let networks = self.patterns("proxy_protocol_from", from, IpNet::parse);
        let networks = networks.ok_or(Reported)?;
        Ok(Some(if networks.is_empty() {
            TrustedProxies::Anyone
        } else {
            TrustedProxies::Only(networks)
        }))
    }

    fn target(&mut self, at: &At<UpstreamOrFalse>) -> Option<Target> {
        match &at.value {
            UpstreamOrFalse::Name(name) => {
                self.upstream_named(name, &at.span).map(Target::Upstream)
            }
            UpstreamOrFalse::False => Some(Target::Refuse),
        }
    }

    /// Converts `routes`. Returns `None`, after reporting the problem, if a route is invalid.
    fn routes(&mut self, table: &At<RawListener>) -> Option<Vec<Route>> {
        let Some(raw) = &table.value.routes else {
            return Some(Vec::new());
        };
        if table.value.tls.is_none() && !self.pruned(&table.span) {
            self.problems
                .error("`routes` need the TLS server name, but the listener has no `tls`")
                .at(raw.span.clone())
                .help("use `upstream`, or add `tls` to the listener");
        }
        let mut routes: Vec<(Route, Range<usize>)> = Vec::new();
        let mut complete = true;
        for route in &raw.value {
            let upstream = route.value.upstream.as_ref().and_then(|at| self.target(at));
            let sni = route.value.sni.as_ref().and_then(|at| {
                DnsPattern::parse(&at.value)
                    .map_err(|error| {
                        self.problems
                            .error(format!("`sni`: {error}"))
                            .at(at.span.clone());
                    })
                    .ok()
                    .map(|pattern| (pattern, at.span.clone()))
            });
            let (Some(upstream), Some((sni, span))) = (upstream, sni) else {
                complete = false;
                continue;
            };
            if let Some((_, first)) = routes.iter().find(|(earlier, _)| earlier.sni.covers(&sni)) {
                self.problems
                    .warning(format!("the route for {sni} is never reached"))
                    .at(span.clone())
                    .related(
                        first.clone(),
                        "this route comes first and matches the same names",
                    );
            }
            routes.push((Route { sni, upstream }, span));
        }
        complete.then(|| routes.into_iter().map(|(route, _)| route).collect())
    }
}

/// Converts the value of an optional key. Returns an error, after reporting the problem, if the
/// value is invalid.
fn optional<T, U>(
    value: Option<&At<T>>,
    read: impl FnOnce(&At<T>) -> Option<U>,
) -> Result<Option<U>, Reported> {
    value.map(|at| read(at).ok_or(Reported)).transpose()
}
