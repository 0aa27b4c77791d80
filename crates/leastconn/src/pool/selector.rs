//! The servers that a client may use, regardless of the current members.

use std::collections::HashSet;

use arc_swap::ArcSwapOption;

use super::{Candidates, membership::Membership, pick::PickRules};
use crate::{spec::ServerId, sync::Arc};

/// The servers that a client may use: all servers of a pool, or only those with certain names.
///
/// A selector follows the membership of the pool: when a server joins under a selected name, it is
/// included from the next connection on. Create one selector per client or rule and keep it. Clones
/// are cheap, and the candidates are computed only once per membership.
///
/// ```
/// use leastconn::{Address, Pool, Selector, ServerSpec};
///
/// let server = |name: &str, address: &str| {
///     Ok::<_, leastconn::AddressError>(ServerSpec::new(name, address.parse::<Address>()?))
/// };
/// let pool = Pool::builder("web").server(server("a", "10.0.0.1:80")?).build()?;
/// let selector = Selector::named(["b"]);
/// assert!(pool.candidates(&selector).is_empty());
///
/// pool.update([server("a", "10.0.0.1:80")?, server("b", "10.0.0.2:80")?])?;
/// assert_eq!(pool.candidates(&selector).members().len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Selector(Kind);

#[derive(Clone, Debug)]
enum Kind {
    All,
    Named(Arc<Named>),
    Fixed(Candidates),
}

#[derive(Debug)]
struct Named {
    names: HashSet<ServerId>,
    resolved: ArcSwapOption<Resolved>,
}

/// The candidates, and the membership for which they were computed.
#[derive(Debug)]
struct Resolved {
    membership: Arc<Membership>,
    candidates: Candidates,
}

impl Selector {
    /// Selects all servers of the pool.
    pub const fn all() -> Self {
        Self(Kind::All)
    }

    /// Selects the servers with these names, whether they are members now or join later.
    pub fn named<N: Into<ServerId>>(names: impl IntoIterator<Item = N>) -> Self {
        Self(Kind::Named(Arc::new(Named {
            names: names.into_iter().map(Into::into).collect(),
            resolved: ArcSwapOption::empty(),
        })))
    }

    /// Whether a server with this name is selected.
    pub fn selects(&self, server: &ServerId) -> bool {
        match &self.0 {
            Kind::All => true,
            Kind::Named(named) => named.names.contains(server),
            Kind::Fixed(candidates) => {
                let mut members = candidates.members().iter();
                members.any(|member| member.server.id() == server)
            }
        }
    }

    /// Whether the selector includes servers that are not among its current `candidates` but may
    /// join later.
    #[cfg(feature = "tokio")]
    pub(super) fn has_absent_servers(&self, candidates: &Candidates) -> bool {
        match &self.0 {
            Kind::All => candidates.is_empty(),
            Kind::Named(named) => named.names.len() > candidates.members().len(),
            Kind::Fixed(_) => false,
        }
    }

    pub(super) fn resolve(&self, membership: &Arc<Membership>, rules: &PickRules) -> Candidates {
        match &self.0 {
            Kind::All => membership.all.clone(),
            Kind::Named(named) => named.resolve(membership, rules),
            Kind::Fixed(candidates) => candidates.clone(),
        }
    }

    /// Returns a key that distinguishes the selector from all others that currently exist.
    pub(super) fn key(&self) -> SelectorKey {
        SelectorKey(match &self.0 {
            Kind::All => 0,
            Kind::Named(named) => Arc::as_ptr(named).addr(),
            Kind::Fixed(candidates) => candidates.addr(),
        })
    }
}

/// Equal for all clones of a selector: the address of their shared state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct SelectorKey(usize);

impl Named {
    fn resolve(&self, membership: &Arc<Membership>, rules: &PickRules) -> Candidates {
        if let Some(resolved) = &*self.resolved.load()
            && Arc::ptr_eq(&resolved.membership, membership)
        {
            return resolved.candidates.clone();
        }
        let candidates = membership.subset(rules, |server| self.names.contains(server.id()));
        // A concurrent call may overwrite this value with the candidates of an older membership.
        // The next call then computes them again.
        self.resolved.store(Some(Arc::new(Resolved {
            membership: Arc::clone(membership),
            candidates: candidates.clone(),
        })));
        candidates
    }
}

/// Selects exactly these candidates, even if the pool's membership changes.
impl From<Candidates> for Selector {
    fn from(candidates: Candidates) -> Self {
        Self(Kind::Fixed(candidates))
    }
}
