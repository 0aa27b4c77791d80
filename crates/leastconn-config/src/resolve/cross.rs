//! Checks across tables: which clients can reach which upstreams.

use std::collections::BTreeSet;

use leastconn_tls::settings::ClientAuth;

use super::{Resolver, client::Place};
use crate::{
    clients::{Clients, Rule},
    keyword::Mode,
    model::{Listener, Target, Upstream},
    raw::{Raw, RawUpstream, ServerEntry, value::At},
    suggest,
};

/// Maximum number of earlier rules that a rule is compared with. If very many rules have the same
/// pattern but do not shadow each other, for example because each expires later than the rule
/// before it, comparing all pairs would take minutes. With this limit, some warnings are missing in
/// that case.
const MAX_COMPARED: usize = 256;

impl Resolver<'_> {
    /// Performs all checks across tables. `complete`: all listeners and clients in the file are
    /// valid.
    pub(super) fn check_across_tables(
        &mut self,
        listeners: &[At<Listener>],
        clients: &Clients,
        places: &[Place],
        complete: bool,
    ) {
        for declared in self.upstreams.iter().filter(|declared| !declared.used) {
            self.problems
                .warning(format!("the upstream `{}` is not used", declared.name))
                .at(declared.span.clone());
        }
        self.check_shadowed_rules(clients, places);
        // Skip the remaining checks if part of the file is invalid: they might report that part as
        // missing.
        if !complete {
            return;
        }
        for listener in listeners {
            self.check_allow_decides(listener, clients, places);
            self.check_listener_has_clients(listener, clients);
        }
        for (client, place) in clients.iter().zip(places) {
            self.check_client_reaches_upstream(&client, place, listeners);
            self.check_source_only(&client, place, listeners);
        }
    }

    /// Warns if the balancer's zone or the servers' zones have no effect.
    pub(super) fn check_zones(&mut self, raw: &Raw, upstreams: &[Upstream]) {
        let servers = upstreams.iter().flat_map(|upstream| &upstream.servers);
        let sources = upstreams.iter().flat_map(|upstream| &upstream.sources);
        let listed = servers.map(|server| &server.zone);
        let zones: BTreeSet<_> = listed
            .chain(sources.map(|source| &source.zone))
            .filter_map(|zone| Some(zone.as_ref()?.as_str()))
            .collect();
        let has_files = upstreams.iter().any(|u| u.server_files().next().is_some());
        let own = raw
            .process
            .as_ref()
            .and_then(|process| process.zone.as_ref());
        match own {
            // Servers listed in a file may have zones.
            Some(_) if has_files => {}
            Some(own) if !own.value.is_empty() && !zones.contains(&*own.value) => {
                let warning = self
                    .problems
                    .warning(format!("no server is in the zone `{}`", own.value))
                    .at(own.span.clone());
                match suggest::nearest(&own.value, zones) {
                    Some(zone) => warning.help(format!("did you mean `{zone}`?")),
                    None => warning.note("the zone has no effect"),
                };
            }
            None if !zones.is_empty() => {
                let tables = raw.upstream.as_deref().unwrap_or_default().iter();
                let mut servers = tables.flat_map(|table| &table.value.servers);
                let zone = servers.find_map(|list| {
                    list.value.iter().find_map(|entry| match &entry.value {
                        ServerEntry::Table(server) => server.zone.as_ref(),
                        ServerEntry::Address(_) => None,
                    })
                });
                if let Some(zone) = zone {
                    self.problems
                        .warning("`zone` has no effect: the zone of the balancer is not set")
                        .at(zone.span.clone())
                        .help("set `zone` in the `[process]` table");
                }
            }
            Some(_) | None => {}
        }
    }

    /// Warns if clients can negotiate a protocol with a listener, but its upstream does not
    /// offer this protocol to servers. Client and server would then speak different
    /// protocols. Upstreams without `alpn` are not checked, because their servers may
    /// detect the protocol.
    pub(super) fn check_protocols(
        &mut self,
        listeners: &[At<Listener>],
        upstreams: &[Upstream],
        raw: &[At<RawUpstream>],
    ) {
        for upstream in upstreams {
            let Some(tls) = upstream
                .tls
                .as_ref()
                .filter(|tls| !tls.settings.alpn.is_empty())
            else {
                continue;
            };
            let is_this = |raw: &&At<RawUpstream>| {
                let name = raw.value.name.as_ref();
                name.is_some_and(|name| name.value == upstream.id.as_str())
            };
            let raw_tls = raw
                .iter()
                .find(is_this)
                .and_then(|raw| raw.value.tls.as_ref());
            let Some(place) = raw_tls.and_then(|tls| tls.value.alpn.as_ref()) else {
                continue;
            };
            for At { value, span } in listeners {
                let routed = value.routes.iter().map(|route| &route.upstream);
                let mut targets = routed.chain(&value.upstream).filter_map(Target::upstream);
                if !targets.any(|id| *id == upstream.id) {
                    continue;
                }
                let offered = value.tls.iter().flat_map(|tls| tls.settings.alpn.names());
                for protocol in offered.filter(|protocol| !tls.settings.alpn.contains(protocol)) {
                    self.problems
                        .warning(format!(
                            "clients of listener `{}` can negotiate {protocol:?}, which is not \
                            offered to the servers of upstream `{}`",
                            value.name, upstream.id
                        ))
                        .at(place.span.clone())
                        .related(span.clone(), "the listener")
                        .help(format!(
                            "add {protocol:?} to this `alpn`, or remove it from the listener's"
                        ));
                }
            }
        }
    }

    /// Warns about rules that are shadowed by an earlier rule.
    fn check_shadowed_rules(&mut self, clients: &Clients, places: &[Place]) {
        for (position, client) in clients.iter().enumerate() {
            // Candidates are in the order of the file, so all earlier rules come first.
            let covering = clients
                .may_cover(&client)
                .take_while(|&earlier| earlier < position)
                .take(MAX_COMPARED)
                .find(|&earlier| clients.rule(earlier).covers(&client));
            if let Some(earlier) = covering {
                let does = match client.mode() {
                    Mode::Enforce => "decides",
                    Mode::Shadow => "logs a decision",
                };
                self.problems
                    .warning(format!(
                        "the rule of client `{}` never {does}",
                        client.name()
                    ))
                    .at(places[position].r#match.clone())
                    .related(
                        places[earlier].r#match.clone(),
                        format!(
                            "`{}` comes first and matches all its clients",
                            clients.rule(earlier).name()
                        ),
                    );
            }
        }
    }

    /// Checks that each client's `allow` names exactly one upstream, if the listener has
    /// neither `upstream` nor `routes`.
    fn check_allow_decides(
        &mut self,
        listener: &At<Listener>,
        clients: &Clients,
        places: &[Place],
    ) {
        let Listener { name, upstream, .. } = &listener.value;
        if upstream.is_some() {
            return;
        }
        let undecided = clients.iter().zip(places).filter_map(|(client, place)| {
            let upstreams = upstreams(&client);
            let undecided = upstreams.len() > 1 && can_connect(&client, &listener.value);
            undecided.then_some((client.name(), place, upstreams))
        });
        if !listener.value.routes.is_empty() {
            self.warn_of_unrouted(listener, undecided);
            return;
        }
        for (client, place, upstreams) in undecided {
            self.problems
                .error(format!(
                    "no upstream is set for connections of client `{client}` at listener `{name}`",
                ))
                .at(place.allow.clone())
                .related(
                    listener.span.clone(),
                    "the listener has neither `routes` nor `upstream`",
                )
                .note(format!(
                    "`allow` must then name servers of exactly one upstream, but it names {}",
                    quoted(&upstreams)
                ))
                .help(format!(
                    "add `upstream` or `routes` to the listener, or name one upstream in `allow` of `{client}`",
                ));
        }
    }

    /// Warns if a listener with `routes` and without `upstream` would refuse connections that
    /// match no route, because `allow` names several upstreams. The refusal may be intended,
    /// so there is only one warning per listener.
    fn warn_of_unrouted<'a>(
        &mut self,
        listener: &At<Listener>,
        mut undecided: impl Iterator<Item = (&'a str, &'a Place, BTreeSet<&'a str>)>,
    ) {
        let Some((client, place, upstreams)) = undecided.next() else {
            return;
        };
        let others = match undecided.count() {
            0 => String::new(),
            1 => " (and of one other client)".to_owned(),
            more => format!(" (and of {more} other clients)"),
        };
        self.problems
            .warning(format!(
                "connections of client `{client}`{others} at listener `{}` are refused if they \
                match no route",
                listener.value.name
            ))
            .at(listener.span.clone())
            .related(
                place.allow.clone(),
                format!("this names {}", quoted(&upstreams)),
            )
            .note(
                "the listener has no `upstream`, so `allow` decides for connections without a route, \
                and must then name servers of exactly one upstream",
            )
            .help(
                "add `upstream` to the listener for connections without a route, or name one upstream \
                in `allow`",
            );
    }

    fn check_listener_has_clients(&mut self, listener: &At<Listener>, clients: &Clients) {
        let anybody = clients
            .iter()
            .any(|client| can_connect(&client, &listener.value));
        if clients.is_empty() || anybody {
            return;
        }
        let why = if listener.value.tls.is_some() {
            "it does not request certificates"
        } else {
            "it has no `tls`"
        };
        self.problems
            .warning(format!(
                "no client can connect to listener `{}`",
                listener.value.name
            ))
            .at(listener.span.clone())
            .note(format!(
                "{why}, so clients are identified by `source` only, but the `match` of every client \
                needs a certificate"
            ));
    }

    fn check_client_reaches_upstream(
        &mut self,
        client: &Rule<'_>,
        place: &Place,
        listeners: &[At<Listener>],
    ) {
        let allowed = upstreams(client);
        if allowed.is_empty() || listeners.is_empty() {
            return;
        }
        let mut open = listeners
            .iter()
            .filter(|listener| can_connect(client, &listener.value))
            .peekable();
        let name = client.name();
        if open.peek().is_none() {
            self.problems
                .warning(format!("client `{name}` cannot connect to any listener"))
                .at(place.r#match.clone())
                .note("its `match` needs a certificate, and no listener requests one");
        } else if !open.any(|listener| offers(&listener.value, &allowed)) {
            self.problems
                .warning(format!(
                    "no listener leads to an upstream that client `{name}` may use"
                ))
                .at(place.allow.clone());
        }
    }

    /// Warns if a rule without a certificate key admits clients to a listener that requires
    /// certificates: every certificate of `client_ca` then matches.
    fn check_source_only(&mut self, client: &Rule<'_>, place: &Place, listeners: &[At<Listener>]) {
        let allowed = upstreams(client);
        if client.needs_certificate() || client.mode() != Mode::Enforce {
            return;
        }
        let mut open = listeners.iter().filter(|listener| {
            requires_certificate(&listener.value) && offers(&listener.value, &allowed)
        });
        let Some(first) = open.next() else {
            return;
        };
        // Clients of UNIX sockets count as loopback addresses, so such a rule is for them.
        let is_local = client
            .sources()
            .iter()
            .all(|network| network.address().is_loopback());
        let has_purpose = listeners.iter().any(|listener| {
            !requires_certificate(&listener.value) && offers(&listener.value, &allowed)
        });
        if is_local && has_purpose {
            return;
        }
        let others = match open.count() {
            0 => String::new(),
            1 => " and to one other listener".to_owned(),
            more => format!(" and to {more} other listeners"),
        };
        self.problems
            .warning(format!(
                "client `{}` is admitted to listener `{}`{others} with any certificate that \
                 it trusts",
                client.name(),
                first.value.name
            ))
            .at(place.r#match.clone())
            .related(first.span.clone(), "this listener requires certificates")
            .note("`match` has only `source`, so the names in the certificate do not matter")
            .help(
                "add `cn`, `dns` or `uri` to `match`, or `issuer_cn` to admit every certificate of \
                 one CA",
            );
    }
}

/// Whether a client rule can match connections at a listener.
fn can_connect(client: &Rule<'_>, listener: &Listener) -> bool {
    requires_certificate(listener) || !client.needs_certificate()
}

fn requires_certificate(listener: &Listener) -> bool {
    let tls = listener.tls.as_ref();
    tls.is_some_and(|tls| tls.settings.client_auth == ClientAuth::Required)
}

fn upstreams<'a>(client: &Rule<'a>) -> BTreeSet<&'a str> {
    client
        .allow()
        .iter()
        .map(|allow| allow.upstream.as_str())
        .collect()
}

fn quoted(names: &BTreeSet<&str>) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn offers(listener: &Listener, upstreams: &BTreeSet<&str>) -> bool {
    let routes = listener.routes.iter().map(|route| &route.upstream);
    let mut targets = routes
        .chain(&listener.upstream)
        .filter_map(Target::upstream);
    // If no route matches and the listener has no upstream, `allow` selects the upstream.
    let by_itself =
        listener.upstream.is_none() && (listener.routes.is_empty() || upstreams.len() == 1);
    by_itself || targets.any(|target| upstreams.contains(target.as_str()))
}
