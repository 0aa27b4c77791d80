//! Checks whether the host names of servers can be resolved.
//!
//! This check is separate from loading the file, because it takes time and its result may
//! change at any time. A running balancer resolves names when it connects to a server.

use std::{collections::HashMap, net::ToSocketAddrs, sync::Arc, thread, time::Duration};

use leastconn::Address;
use parking_lot::{Condvar, Mutex};

use super::{
    Problems, Severity,
    resolve::{AddressUse, SourceUse},
};

/// Time limit for all names, which are resolved in parallel.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of concurrent look-ups.
const THREADS: usize = 32;

/// Reports servers whose names cannot be resolved, with the given severity.
pub fn check(addresses: &[AddressUse], severity: Severity, problems: &mut Problems) {
    let mut names: Vec<_> = addresses
        .iter()
        .filter_map(|used| name(&used.address))
        .collect();
    names.sort_unstable();
    names.dedup();
    let answers = resolve_all(&names, TIMEOUT);
    for used in addresses {
        let Some((host, port)) = name(&used.address) else {
            continue;
        };
        let trouble = match answers.get(&(Arc::clone(&host), port)) {
            Some(Ok(())) => continue,
            Some(Err(error)) => error.clone(),
            None => format!("no answer within {} s", TIMEOUT.as_secs()),
        };
        problems
            .add(severity, format!("`{host}` cannot be resolved: {trouble}"))
            .at(used.span.clone())
            .note(format!(
                "it is the address of server `{}` of upstream `{}`",
                used.server, used.upstream
            ));
    }
    problems.sort();
}

/// Warns that the last look-up of a source of servers failed, or that its answer is incomplete.
pub fn report_source(source: &SourceUse, has_servers: bool, error: &str, problems: &mut Problems) {
    let effect = if has_servers {
        "may lack servers"
    } else {
        "finds no servers"
    };
    problems
        .warning(format!("`{}` {effect}: {error}", source.kind))
        .at(source.span.clone())
        .note(format!("it is a source of upstream `{}`", source.upstream));
    problems.sort();
}

fn name(address: &Address) -> Option<(Arc<str>, u16)> {
    match address {
        Address::Ip(_) | Address::Unix(_) => None,
        Address::Name { host, port } => Some((Arc::clone(host), *port)),
    }
}

type Answers = HashMap<(Arc<str>, u16), Result<(), String>>;

/// Resolves all names in parallel. Look-ups cannot be cancelled. After `limit`, the function
/// returns without waiting for the remaining threads.
fn resolve_all(names: &[(Arc<str>, u16)], limit: Duration) -> Answers {
    let shared = Arc::new((Mutex::new(Answers::new()), Condvar::new()));
    let share = names.len().div_ceil(THREADS).max(1);
    for part in names.chunks(share) {
        let part = part.to_vec();
        let shared = Arc::clone(&shared);
        thread::spawn(move || {
            for (host, port) in part {
                let answer = match (&*host, port).to_socket_addrs() {
                    Err(error) => Err(error.to_string()),
                    Ok(mut addresses) => match addresses.next() {
                        Some(_) => Ok(()),
                        None => Err("it has no address".to_owned()),
                    },
                };
                shared.0.lock().insert((host, port), answer);
                shared.1.notify_one();
            }
        });
    }
    let mut answers = shared.0.lock();
    shared
        .1
        .wait_while_for(&mut answers, |answers| answers.len() < names.len(), limit);
    answers.clone()
}
