//! What the tables mean together: who can get where.

use std::collections::BTreeSet;

use super::{Resolver, client::Place};
use crate::config::{
    clients::{Clients, Rule},
    model::{Listener, Mode},
    raw::value::At,
    tls::ClientAuth,
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
        let Listener {
            name,
            routes,
            upstream,
            ..
        } = &listener.value;
        if upstream.is_some() || !routes.is_empty() {
            return;
        }
        for (client, place) in clients.iter().zip(places) {
            let upstreams = upstreams(&client);
            if upstreams.len() < 2 || !can_connect(&client, &listener.value) {
                continue;
            }
            let names: Vec<_> = upstreams.iter().map(|name| format!("`{name}`")).collect();
            self.problems
                .error(format!(
                    "where connections of client `{}` at listener `{name}` go is not said",
                    client.name()
                ))
                .at(place.allow.clone())
                .related(
                    listener.span.clone(),
                    "the listener has neither `routes` nor `upstream`",
                )
                .note(format!(
                    "then `allow` must name servers of exactly one upstream, and it names {}",
                    names.join(", ")
                ))
                .help(format!(
                    "give the listener `upstream` or `routes`, or narrow `allow` of `{}`",
                    client.name()
                ));
        }
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
        .is_some_and(|tls| tls.client_auth == ClientAuth::Required);
    certificates || !client.needs_certificate()
}

fn upstreams<'a>(client: &Rule<'a>) -> BTreeSet<&'a str> {
    client
        .allow()
        .iter()
        .map(|allow| allow.upstream.as_str())
        .collect()
}

fn offers(listener: &Listener, upstreams: &BTreeSet<&str>) -> bool {
    let mut targets = listener
        .routes
        .iter()
        .map(|route| &route.upstream)
        .chain(&listener.upstream)
        .peekable();
    targets.peek().is_none() || targets.any(|target| upstreams.contains(target.as_str()))
}
