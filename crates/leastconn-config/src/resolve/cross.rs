//! What the tables mean together: who can get where.

use std::collections::BTreeSet;

use leastconn_tls::settings::ClientAuth;

use super::{Resolver, client::Place};
use crate::{
    clients::{Clients, Rule},
    keyword::Mode,
    model::{Listener, Upstream},
    raw::{RawUpstream, value::At},
};

/// Of rules that may hide another, so many are compared with it. There are more where
/// very many ask for the same and none hides the next, as when each is to end later
/// than the one before; a missing warning then costs less than minutes.
const ENOUGH: usize = 256;

impl Resolver<'_> {
    /// `complete`: every listener and client of the file could be read.
    pub(super) fn check_together(
        &mut self,
        listeners: &[At<Listener>],
        clients: &Clients,
        places: &[Place],
        complete: bool,
    ) {
        for declared in self.upstreams.iter().filter(|declared| !declared.used) {
            self.problems
                .warning(format!("nothing leads to the upstream `{}`", declared.name))
                .at(declared.span.clone());
        }
        self.shadowed_rules(clients, places);
        // What could not be read may be just what is missing below.
        if !complete {
            return;
        }
        for listener in listeners {
            self.clients_decide(listener, clients, places);
            self.somebody_can_connect(listener, clients);
        }
        for (client, place) in clients.iter().zip(places) {
            self.leads_somewhere(&client, place, listeners);
        }
    }

    /// Protocols that a client can agree on with a listener and that the servers behind it
    /// are never offered: those connections cannot work, as both ends speak different
    /// protocols. An upstream without `alpn` may still know the protocol by its first bytes.
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
                if !routed.chain(&value.upstream).any(|id| *id == upstream.id) {
                    continue;
                }
                let offered = value.tls.iter().flat_map(|tls| tls.settings.alpn.names());
                for protocol in offered.filter(|protocol| !tls.settings.alpn.contains(protocol)) {
                    self.problems
                        .warning(format!(
                            "clients of listener `{}` can agree on {protocol:?}, which the \
                             servers of upstream `{}` are not offered",
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

    /// Rules that never decide, because an earlier one always does.
    fn shadowed_rules(&mut self, clients: &Clients, places: &[Place]) {
        for (position, client) in clients.iter().enumerate() {
            // In the file's order: the rule itself comes after all those before it.
            let covering = clients
                .may_cover(&client)
                .take_while(|&earlier| earlier < position)
                .take(ENOUGH)
                .find(|&earlier| clients.rule(earlier).covers(&client));
            if let Some(earlier) = covering {
                let does = match client.mode() {
                    Mode::Enforce => "decides",
                    Mode::Shadow => "says what it would decide",
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
                            "`{}` comes first and matches all of it",
                            clients.rule(earlier).name()
                        ),
                    );
            }
        }
    }

    /// A listener that says nothing of where its connections go leaves it to
    /// each client's `allow`, which then must say it.
    fn clients_decide(&mut self, listener: &At<Listener>, clients: &Clients, places: &[Place]) {
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
            self.routes_decide(listener, undecided);
            return;
        }
        for (client, place, upstreams) in undecided {
            self.problems
                .error(format!(
                    "where connections of client `{client}` at listener `{name}` go is not said",
                ))
                .at(place.allow.clone())
                .related(
                    listener.span.clone(),
                    "the listener has neither `routes` nor `upstream`",
                )
                .note(format!(
                    "then `allow` must name servers of exactly one upstream, and it names {}",
                    quoted(&upstreams)
                ))
                .help(format!(
                    "give the listener `upstream` or `routes`, or narrow `allow` of `{client}`",
                ));
        }
    }

    /// The same where there are routes: clients come in by them, and only what no route
    /// takes is left to `allow`. To have that refused may be just what is meant, so it
    /// is one warning for the listener.
    fn routes_decide<'a>(
        &mut self,
        listener: &At<Listener>,
        mut undecided: impl Iterator<Item = (&'a str, &'a Place, BTreeSet<&'a str>)>,
    ) {
        let Some((client, place, upstreams)) = undecided.next() else {
            return;
        };
        let others = match undecided.count() {
            0 => String::new(),
            1 => " (and those of another client)".to_owned(),
            more => format!(" (and those of {more} other clients)"),
        };
        self.problems
            .warning(format!(
                "connections of client `{client}`{others} at listener `{}` are refused if no \
                 route takes them",
                listener.value.name
            ))
            .at(listener.span.clone())
            .related(
                place.allow.clone(),
                format!("this names {}", quoted(&upstreams)),
            )
            .note(
                "the listener has no `upstream`, so `allow` decides where no route does, and must \
                 then name servers of exactly one upstream",
            )
            .help(
                "give the listener `upstream` for what its routes do not take, or narrow `allow`",
            );
    }

    fn somebody_can_connect(&mut self, listener: &At<Listener>, clients: &Clients) {
        let anybody = clients
            .iter()
            .any(|client| can_connect(&client, &listener.value));
        if clients.is_empty() || anybody {
            return;
        }
        let why = if listener.value.tls.is_some() {
            "it asks for no certificates"
        } else {
            "it has no `tls`"
        };
        self.problems
            .warning(format!(
                "nobody can connect to listener `{}`",
                listener.value.name
            ))
            .at(listener.span.clone())
            .note(format!(
                "{why}, so clients are told apart by `source` alone, and no client's `match` \
                 has only that"
            ));
    }

    fn leads_somewhere(&mut self, client: &Rule<'_>, place: &Place, listeners: &[At<Listener>]) {
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
                .warning(format!("client `{name}` can connect to no listener"))
                .at(place.r#match.clone())
                .note("its `match` is about certificates, and no listener asks for them");
        } else if !open.any(|listener| offers(&listener.value, &allowed)) {
            self.problems
                .warning(format!(
                    "no listener leads to what client `{name}` is allowed"
                ))
                .at(place.allow.clone());
        }
    }
}

/// Whether a client's rule can hold at a listener.
fn can_connect(client: &Rule<'_>, listener: &Listener) -> bool {
    let certificates = listener
        .tls
        .as_ref()
        .is_some_and(|tls| tls.settings.client_auth == ClientAuth::Required);
    certificates || !client.needs_certificate()
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
    let mut targets = routes.chain(&listener.upstream);
    // Where no route takes a connection and there is no upstream, `allow` says where to.
    let by_itself =
        listener.upstream.is_none() && (listener.routes.is_empty() || upstreams.len() == 1);
    by_itself || targets.any(|target| upstreams.contains(target.as_str()))
}
