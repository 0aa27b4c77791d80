//! Compact storage of all `[[client]]` tables of a configuration.
//!
//! A configuration may have 100,000 rules. All patterns are stored in one string, and a rule
//! consists of a few offsets into this string. A typical rule takes about 100 bytes. All
//! rules together need only a few large allocations: many small allocations would fragment
//! the heap.
//!
//! Optional values (expiry, shadow mode) are stored in separate lists and take no memory
//! for rules without them.
//!
//! The index in `clients/index.rs` finds the rules that may match a client, because
//! comparing the client with every rule would take milliseconds per connection.

mod allow;
mod client;
mod index;
mod key;

use std::{collections::HashMap, net::IpAddr, ops::Range, sync::Arc};

use jiff::Timestamp;
use leastconn::Limits;

use super::{cidr::IpNet, keyword::Mode};
pub use allow::{Allow, Granted};
pub use client::Client;
use index::{Candidates, Index};
pub use key::{MatchKey, Pattern};

/// All rules, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clients {
    /// The name of each rule, followed by its patterns in the order of [`MatchKey`].
    texts: String,
    /// The end of each text in `texts`. The next text starts there.
    ends: Vec<usize>,
    /// The key of each text in `texts`. `None`: the text is the name of a rule.
    keys: Vec<Option<MatchKey>>,
    sources: Vec<IpNet>,
    /// The `allow` lists of all rules, without duplicates.
    allows: Vec<Arc<[Allow]>>,
    /// The limits of all rules, without duplicates.
    limits: Vec<Limits>,
    rules: Vec<Packed>,
    /// Position and expiry of each rule that has an expiry, in the order of the file.
    expiries: Vec<(u32, Timestamp)>,
    /// Positions of the rules in shadow mode, in the order of the file.
    shadows: Vec<u32>,
    /// Positions of the rules with `rebalance`, in the order of the file.
    rebalanced: Vec<u32>,
    index: Index,
}

/// The offsets of one rule. `texts` and `sources` are the ends of the rule's ranges in
/// [`Clients::ends`] and [`Clients::sources`]. The ranges start where those of the
/// preceding rule end. `allow` and `limits` are indices into the lists of [`Clients`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Packed {
    texts: u32,
    sources: u32,
    allow: u32,
    limits: u32,
}

/// Converts an index. The index always fits, because a configuration file is at most 16 MiB long.
fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Builds [`Clients`] rule by rule.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    packed: Clients,
    allows: HashMap<Arc<[Allow]>, u32>,
    limits: HashMap<Limits, u32>,
}

impl Packer {
    pub(crate) fn add(&mut self, client: &Client) {
        let packed = &mut self.packed;
        packed.push(None, &client.name);
        for key in MatchKey::TEXTS {
            for text in client.texts(key) {
                packed.push(Some(key), text);
            }
        }
        packed.sources.extend_from_slice(&client.source);
        let allow = match self.allows.get(&*client.allow) {
            Some(&known) => known,
            None => {
                let allow: Arc<[Allow]> = client.allow.as_slice().into();
                let next = number(packed.allows.len());
                packed.allows.push(Arc::clone(&allow));
                self.allows.insert(allow, next);
                next
            }
        };
        let limits = *self.limits.entry(client.limits).or_insert_with(|| {
            packed.limits.push(client.limits);
            number(packed.limits.len() - 1)
        });
        let rule = number(packed.rules.len());
        packed
            .expiries
            .extend(client.expires.map(|expires| (rule, expires)));
        if client.mode == Mode::Shadow {
            packed.shadows.push(rule);
        }
        if client.rebalance {
            packed.rebalanced.push(rule);
        }
        packed.rules.push(Packed {
            texts: number(packed.ends.len()),
            sources: number(packed.sources.len()),
            allow,
            limits,
        });
    }

    pub(crate) fn finish(self) -> Clients {
        Clients {
            index: Index::of(&self.packed),
            ..self.packed
        }
    }
}

impl FromIterator<Client> for Clients {
    fn from_iter<I: IntoIterator<Item = Client>>(clients: I) -> Self {
        let mut packer = Packer::default();
        for client in clients {
            packer.add(&client);
        }
        packer.finish()
    }
}

impl Clients {
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = Rule<'_>> {
        (0..self.len()).map(|number| self.rule(number))
    }

    /// The rule at position `number`, counted from 0.
    ///
    /// # Panics
    /// If there is no such rule.
    pub fn rule(&self, number: usize) -> Rule<'_> {
        let before = number.checked_sub(1).map(|before| self.rules[before]);
        Rule {
            all: self,
            number,
            before: before.unwrap_or_default(),
            packed: self.rules[number],
        }
    }

    /// The distinct `allow` lists, indexed by [`Rule::allow_number`].
    pub fn allows(&self) -> &[Arc<[Allow]>] {
        &self.allows
    }

    /// The expiry times of all rules that have one.
    pub fn expiries(&self) -> impl Iterator<Item = Timestamp> {
        self.expiries.iter().map(|&(_, expires)| expires)
    }

    /// The names of the rules with `rebalance`.
    pub fn rebalanced(&self) -> impl Iterator<Item = &str> {
        let rules = self.rebalanced.iter();
        rules.map(|&rule| self.rule(rule as usize).name())
    }

    /// Whether any rule is in shadow mode.
    pub const fn has_shadows(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// A copy without spare capacity that shares no allocation with the original.
    pub(crate) fn copy(&self) -> Self {
        let copied = |allow: &Allow| Allow {
            upstream: allow.upstream.as_str().into(),
            server: allow.server.as_ref().map(|id| id.as_str().into()),
        };
        let allows = self.allows.iter();
        Self {
            allows: allows
                .map(|list| list.iter().map(copied).collect())
                .collect(),
            ..self.clone()
        }
    }

    /// The rules, in order, that may match a client with the values of `certificate` and
    /// the address `source`. No other rule can match this client.
    pub fn may_match<'t>(
        &self,
        certificate: impl Iterator<Item = (MatchKey, &'t str)>,
        source: IpAddr,
    ) -> impl Iterator<Item = usize> {
        self.index
            .candidates(self, certificate, Some(IpNet::only(source)))
    }

    /// The rules, in order, that may cover `rule`, including `rule` itself. No other rule
    /// can cover it.
    pub fn may_cover(&self, rule: &Rule<'_>) -> Candidates<'_> {
        // A rule that covers `rule` covers all patterns that `rule` has under a key, including the
        // first.
        let firsts = MatchKey::TEXTS.into_iter();
        let firsts = firsts.filter_map(|key| Some((key, rule.texts(key).next()?)));
        self.index
            .candidates(self, firsts, rule.sources().first().copied())
    }

    /// The key and pattern at a position from [`Rule::numbers`].
    fn pattern(&self, number: u32) -> (Option<MatchKey>, &str) {
        let number = number as usize;
        (self.keys[number], self.text(number))
    }

    fn push(&mut self, key: Option<MatchKey>, text: &str) {
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
        self.keys.push(key);
    }

    fn text(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[start..self.ends[number]]
    }
}

/// One rule of [`Clients`].
///
/// A rule has at least one key. It matches a client if, under each key of the rule, at
/// least one pattern matches.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    all: &'a Clients,
    number: usize,
    before: Packed,
    packed: Packed,
}

impl<'a> Rule<'a> {
    /// The position of this rule among all rules, counted from 0.
    pub const fn number(&self) -> usize {
        self.number
    }

    pub fn name(&self) -> &'a str {
        self.all.text(self.before.texts as usize)
    }

    /// The patterns of this rule under `key`, in their normal form.
    pub fn texts(&self, key: MatchKey) -> impl ExactSizeIterator<Item = &'a str> + Clone + use<'a> {
        let all = self.all;
        self.numbers(key).map(|number| all.text(number))
    }

    /// The positions of the patterns of `key` in [`Clients::keys`].
    fn numbers(&self, key: MatchKey) -> Range<usize> {
        let first = self.before.texts as usize + 1;
        let keys = &self.all.keys[first..self.packed.texts as usize];
        let start = keys.partition_point(|&other| other < Some(key));
        let count = keys[start..].partition_point(|&other| other == Some(key));
        first + start..first + start + count
    }

    /// Networks for the client's address. If there are any, one must contain the address.
    pub fn sources(&self) -> &'a [IpNet] {
        &self.all.sources[self.source_numbers()]
    }

    /// The positions of the rule's networks in [`Clients::sources`].
    const fn source_numbers(&self) -> Range<usize> {
        self.before.sources as usize..self.packed.sources as usize
    }

    /// Upstreams and servers that the client may reach. Empty: the client is refused at
    /// every listener.
    pub fn allow(&self) -> &'a [Allow] {
        &self.all.allows[self.packed.allow as usize]
    }

    /// The index of [`Self::allow`] in [`Clients::allows`].
    pub const fn allow_number(&self) -> usize {
        self.packed.allow as usize
    }

    /// Limits of the rule, completed with the defaults of `[defaults.client]`.
    pub fn limits(&self) -> &'a Limits {
        &self.all.limits[self.packed.limits as usize]
    }

    /// The time at which the rule expires. From then on it matches no client.
    pub fn expires(&self) -> Option<Timestamp> {
        let expiries = &self.all.expiries;
        let found = expiries.binary_search_by_key(&number(self.number), |&(rule, _)| rule);
        found.ok().map(|at| expiries[at].1)
    }

    pub fn mode(&self) -> Mode {
        match self.all.shadows.binary_search(&number(self.number)) {
            Ok(_) => Mode::Shadow,
            Err(_) => Mode::Enforce,
        }
    }

    /// Whether the rule can match only clients that have a certificate.
    pub const fn needs_certificate(&self) -> bool {
        self.packed.texts > self.before.texts + 1
    }

    /// Whether this rule shadows `later` completely: it matches every client that `later`
    /// matches, and does not expire earlier. A rule in shadow mode never shadows an
    /// enforced rule.
    pub fn covers(&self, later: &Self) -> bool {
        let lasts = match (self.expires(), later.expires()) {
            (None, _) => true,
            (Some(first), Some(last)) => last <= first,
            (Some(_), None) => false,
        };
        let decides = self.mode() == Mode::Enforce || later.mode() == Mode::Shadow;
        lasts && decides && self.matches_all_of(later)
    }

    fn matches_all_of(&self, later: &Self) -> bool {
        fn all<T>(
            wide: impl ExactSizeIterator<Item = T> + Clone,
            mut narrow: impl ExactSizeIterator<Item = T>,
            covers: impl Fn(&T, &T) -> bool,
        ) -> bool {
            wide.len() == 0
                || (narrow.len() > 0
                    && narrow.all(|narrow| wide.clone().any(|wide| covers(&wide, &narrow))))
        }
        MatchKey::TEXTS
            .into_iter()
            .all(|key| all(self.texts(key), later.texts(key), |a, b| key.covers(a, b)))
            && all(self.sources().iter(), later.sources().iter(), |a, b| {
                a.covers(b)
            })
    }
}
