//! Several `server` blocks with one address: `server_name` selects the block of a client.
//!
//! nginx prefers exact names to wildcards, long wildcards to short ones, and wildcards to expressions.
//! The default block has the clients whose server name no block has.

use std::cmp::Reverse;

use super::{
    super::{
        access::{
            Key, List, Predicate, SNI_NEEDS_TLS, TooMany, Verdict, always, chain, first_of,
            intersection,
        },
        model::{Place, Service, Table},
        regex::{self, Pattern},
    },
    parser::Directive,
};

/// The translation of a `server` block for one of its addresses.
pub(super) struct Block {
    pub(super) names: Vec<String>,
    pub(super) place: Place,
    /// Whether `ssl_preread` is on.
    pub(super) reads_name: bool,
    pub(super) service: Service,
    /// The decisions of `allow` and `deny`.
    pub(super) passes: List,
}

/// The order in which nginx compares the names of all blocks with one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Exact,
    Leading(Reverse<usize>),
    Trailing(Reverse<usize>),
    /// In the order of the file.
    Expression,
}

/// Clients with some server names.
struct Case {
    order: Order,
    predicate: Predicate,
    access: List,
}

impl Case {
    /// Whether a client can match both cases.
    fn overlaps(&self, other: &Self) -> bool {
        let names = |case: &Self| case.predicate.get(Key::Sni).map(<[String]>::to_vec);
        let (Some(own), Some(others)) = (names(self), names(other)) else {
            return true;
        };
        let mut own = own.iter();
        own.any(|a| others.iter().any(|b| intersection(a, b).is_some()))
    }
}

/// Returns the names in `server_name` of a `server` block. An empty name selects no block.
pub(super) fn of(block: &Directive) -> Vec<String> {
    let lines = block.children().iter();
    let lines = lines.filter(|line| line.name() == "server_name");
    let names = lines.flat_map(Directive::arguments);
    names.filter(|name| !name.is_empty()).cloned().collect()
}

/// Returns the listener for an address with these `server` blocks, which are in the order of the
/// file. `base` is the index of the default block.
pub(super) fn combined(mut blocks: Vec<Block>, base: usize) -> Result<Option<Service>, String> {
    let Some(default) = blocks.get(base) else {
        return Ok(None);
    };
    let mut service = default.service.clone();
    if blocks.len() == 1 {
        return Ok(Some(service));
    }
    let (reads_name, passes) = (default.reads_name, default.passes.clone());
    let unreachable = if service.tls.is_some() {
        None
    } else if service.binds.is_empty() {
        Some("the default `server` block of this address was not translated")
    } else if reads_name && blocks.iter().any(|block| !block.names.is_empty()) {
        service.refused.push(SNI_NEEDS_TLS.to_owned());
        Some(SNI_NEEDS_TLS)
    } else {
        Some(
            "no client reaches this block: without TLS and `ssl_preread`, nginx does not read server \
             names",
        )
    };
    let rest = service.access.clone();
    let has_expression = |block: &Block| block.names.iter().any(|name| name.starts_with('~'));
    let last_expression = blocks.iter().rposition(has_expression);
    let mut cases = Vec::new();
    for (number, block) in blocks.iter_mut().enumerate() {
        let is_last = last_expression.is_none_or(|last| last <= number);
        if number == base {
            if unreachable.is_none() {
                add_names(&mut service, block, &rest, &rest, is_last, &mut cases);
            }
            continue;
        }
        let unreachable = if block.names.is_empty() {
            Some("no client reaches this block: another block has the same address and no name")
        } else {
            unreachable
        };
        if let Some(reason) = unreachable {
            service.table.note(block.place.left_out(reason));
            continue;
        }
        let access = access(&mut service, block, &passes)
            .map_err(|TooMany| format!("{}: too many rules", block.place.file))?;
        service.table.notes.append(&mut block.service.table.notes);
        let tls = block.service.tls.take();
        let notes = tls.into_iter().flat_map(|tls| tls.notes);
        service.table.notes.extend(notes);
        add_names(&mut service, block, &access, &rest, is_last, &mut cases);
    }
    cases.sort_by_key(|case| case.order);
    let is_needed = |at: usize| {
        let mut later = cases[at + 1..].iter();
        cases[at].access != rest
            || later.any(|later| later.access != rest && later.overlaps(&cases[at]))
    };
    let needed: Vec<_> = (0..cases.len()).filter(|at| is_needed(*at)).collect();
    let cases: Vec<_> = needed
        .into_iter()
        .map(|at| (cases[at].predicate.clone(), cases[at].access.clone()))
        .collect();
    service.access = first_of(&cases, &rest).map_err(|TooMany| {
        let file = blocks.first().map_or("", |block| &*block.place.file);
        format!("{file}: too many server names")
    })?;
    Ok(Some(service))
}

/// Returns the decisions of a block that is not the default block, and adds notes about settings that
/// a listener has once. `passes` are the decisions of `allow` and `deny` in the default block.
fn access(service: &mut Service, block: &mut Block, passes: &List) -> Result<List, TooMany> {
    let (place, other) = (&block.place, &mut block.service);
    let verification = ["client_auth", "client_ca", "crl"];
    let is_verified_alike = service.has_same_tls(other, &verification);
    let refused = if other.certificates && !is_verified_alike {
        Some("clients are verified in the same way for all server names")
    } else {
        other.refused.first().map(String::as_str)
    };
    if let Some(reason) = refused {
        let reason = format!("{reason}; the clients with these server names are refused");
        service.table.note(place.left_out(reason));
        return Ok(always(Verdict::Refuse));
    }
    let certificates = ["cert", "key"];
    if !service.has_same_tls(other, &certificates) {
        service.table.note(place.left_out(
            "a listener has one certificate: that of the default `server` block of this address",
        ));
    }
    let others = ["min_version", "ciphers", "groups", "alpn"];
    if !service.has_same_tls(other, &others) {
        service.table.note(place.differs(
            "TLS versions, cipher suites, groups and ALPN protocols are those of the default \
             `server` block of this address",
        ));
    }
    if service.certificates && !other.certificates {
        service.table.note(place.differs(
            "clients need a certificate as in the default `server` block of this address",
        ));
    }
    if service.limits != other.limits || !same_settings(&service.table, &other.table) {
        service.table.note(place.differs(
            "timeouts are those of the default `server` block of this address, and limits are the \
             strictest of these blocks",
        ));
        service.limits = service.limits.stricter(other.limits);
        service.limited_by.append(&mut other.limited_by);
    }
    if block.passes != *passes {
        service.table.note(place.differs(
            "`allow` and `deny` of this block and of the default `server` block of this address \
             apply: nginx compares only those of the default block, before it reads the server name",
        ));
    }
    chain(passes, &Verdict::Accept, &other.access)
}

/// Adds the names of a block to `cases`. `rest` are the decisions for clients without a matching name.
/// If an expression has no equivalent, its clients could match a later name, or none: they are refused.
/// `is_last` is set if no later block has an expression.
fn add_names(
    service: &mut Service,
    block: &Block,
    access: &List,
    rest: &List,
    is_last: bool,
    cases: &mut Vec<Case>,
) {
    let mut case = |order: Order, predicate: Predicate, access: &List| {
        cases.push(Case {
            order,
            predicate,
            access: access.clone(),
        });
    };
    for name in &block.names {
        let Some(patterns) = patterns(name) else {
            if access != rest || !is_last {
                let reason = format!(
                    "the server name {name:?} has no equivalent: clients that match no earlier name \
                     are refused"
                );
                service.table.note(block.place.left_out(reason));
                let refused = always(Verdict::Refuse);
                case(Order::Expression, Predicate::default(), &refused);
            }
            continue;
        };
        for (order, pattern) in patterns {
            let Some(names) = pattern.names(Key::Sni) else {
                let reason = format!("the server name {name:?} has no equivalent");
                service.table.note(block.place.left_out(reason));
                continue;
            };
            case(order, Predicate::new(Key::Sni, names), access);
            let is_narrower = matches!(pattern, Pattern::Below(_) | Pattern::After(_));
            if !is_narrower || access == rest {
                continue;
            }
            service.table.note(block.place.differs(format!(
                "{name:?} also matches names with more than three further labels: they are those of \
                 the default `server` block of this address"
            )));
        }
    }
}

/// Returns the patterns of a name with their order. `None` if an expression has no equivalent.
fn patterns(name: &str) -> Option<Vec<(Order, Pattern)>> {
    if let Some(expression) = name.strip_prefix('~') {
        let found = regex::patterns(expression)?;
        let has_names = |pattern: &Pattern| pattern.names(Key::Sni).is_some();
        let is_known = found.iter().all(has_names);
        let found = found
            .into_iter()
            .map(|pattern| (Order::Expression, pattern));
        return is_known.then(|| found.collect());
    }
    let below = |domain: &str| {
        let order = Order::Leading(Reverse(domain.len()));
        (order, Pattern::Below(domain.to_owned()))
    };
    let exact = |name: &str| (Order::Exact, Pattern::Exact(name.to_owned()));
    Some(if let Some(domain) = name.strip_prefix("*.") {
        vec![below(domain)]
    } else if let Some(domain) = name.strip_prefix('.') {
        vec![exact(domain), below(domain)]
    } else if let Some(start) = name.strip_suffix(".*") {
        let order = Order::Trailing(Reverse(start.len()));
        vec![(order, Pattern::After(start.to_owned()))]
    } else {
        vec![exact(name)]
    })
}

fn same_settings(a: &Table, b: &Table) -> bool {
    let has = |a: &Table, b: &Table| a.keys.iter().all(|(key, value)| b.get(key) == Some(value));
    has(a, b) && has(b, a)
}

#[cfg(test)]
mod tests;
