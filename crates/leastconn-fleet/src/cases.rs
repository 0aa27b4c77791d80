//! Test cases for the behaviour of a store. The in-memory store and real servers must pass all
//! of them.

mod bench;
mod clients;
mod members;
mod operators;
mod servers;

pub(crate) use bench::{Bench, Executor, MEMBERS, settings};

pub(crate) type Case = fn(&mut Bench);

/// All cases with their names.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, Case)> {
    let groups = [
        members::CASES,
        clients::CASES,
        servers::CASES,
        operators::CASES,
    ];
    groups.into_iter().flatten().copied()
}
