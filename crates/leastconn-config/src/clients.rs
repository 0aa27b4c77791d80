//! All `[[client]]` tables of a configuration, packed.
//!
//! There may be a hundred thousand of them, so they are not a hundred thousand
//! structures of lists of strings: all texts stand one after another in one
//! string, and a rule is a handful of numbers. A usual rule takes some 100 bytes,
//! and what lasts is a few large blocks. Those the allocator takes from the
//! system for themselves; small ones would lie scattered among what reading the
//! file has freed, and hold on to all of it.
//!
//! A few more numbers, in `clients/index.rs`, find the rules that may match: to try all
//! of them for each client would take milliseconds.
//!
//! What few rules have costs the others nothing: each text says which key it is
//! for, and expiry and mode are kept beside, for those that have them.

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
use index::{Index, Near};
pub use key::MatchKey;

/// All rules, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clients {
    /// Of each rule its name, then what it asks for in the order of [`MatchKey`].
    texts: String,
    /// Where in `texts` each of them ends, and the next begins.
    ends: Vec<usize>,
    /// What each of them is; `None`: a rule's name.
    keys: Vec<Option<MatchKey>>,
    sources: Vec<IpNet>,
    /// Each once, however many rules have it.
    allows: Vec<Arc<[Allow]>>,
    /// The same.
    limits: Vec<Limits>,
    rules: Vec<Packed>,
    /// Rules that end at some time, in order.
    expiries: Vec<(u32, Timestamp)>,
    /// Rules that decide nothing, in order.
    shadows: Vec<u32>,
    index: Index,
}

/// Where the parts of a rule end: numbers of `ends` and `sources`. The first of
/// each begins where the rule before ends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Packed {
    texts: u32,
    sources: u32,
    allow: u32,
    limits: u32,
}

/// A file has 16 MiB at most, so there are never more of anything.
fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Adds one rule after another.
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
            client.each(key, |text| packed.push(Some(key), text));
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
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Rule<'_>> {
        (0..self.len()).map(|number| self.rule(number))
    }

    /// The rule of this number, from 0 on.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn rule(&self, number: usize) -> Rule<'_> {
        let before = number.checked_sub(1).map(|before| self.rules[before]);
        Rule {
            all: self,
            number,
            before: before.unwrap_or_default(),
            packed: self.rules[number],
        }
    }

    /// The different lists that clients may reach: [`Rule::allow_number`] counts
    /// them.
    pub fn allows(&self) -> &[Arc<[Allow]>] {
        &self.allows
    }

    /// When rules end that do.
    pub fn expiries(&self) -> impl Iterator<Item = Timestamp> {
        self.expiries.iter().map(|&(_, expires)| expires)
    }

    /// Whether any rule decides nothing.
    pub const fn has_shadows(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// A copy that is as small as can be, and shares nothing with what it is of.
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

    /// The rules, in order, that may match a client of whom the texts of `certificate`
    /// and `source` are known. All others do not.
    pub fn may_match<'t>(
        &self,
        certificate: impl Iterator<Item = (MatchKey, &'t str)>,
        source: IpAddr,
    ) -> impl Iterator<Item = usize> {
        self.index
            .near(self, certificate, Some(IpNet::only(source)))
    }

    /// The rules, in order, that may cover `rule`, itself among them. All others do
    /// not.
    pub fn may_cover(&self, rule: &Rule<'_>) -> Near<'_> {
        // One that covers has all texts of a key that it asks for, so also the first.
        let firsts = MatchKey::TEXTS.into_iter();
        let firsts = firsts.filter_map(|key| Some((key, rule.texts(key).next()?)));
        self.index
            .near(self, firsts, rule.sources().first().copied())
    }

    /// What one of [`Rule::numbers`] asks for: the key, and the pattern.
    fn asked(&self, number: u32) -> (Option<MatchKey>, &str) {
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

/// One `[[client]]`: whom it is about, what it may reach, and how much of it.
///
/// For every key that it asks for, one of the texts it has for that key must hold;
/// it asks for at least one.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    all: &'a Clients,
    number: usize,
    before: Packed,
    packed: Packed,
}

impl<'a> Rule<'a> {
    /// Its position among the rules of the file, from 0.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Its name in logs and metrics.
    pub fn name(&self) -> &'a str {
        self.all.text(self.before.texts as usize)
    }

    /// What it asks for under a key, if anything: patterns that were checked.
    pub fn texts(&self, key: MatchKey) -> impl ExactSizeIterator<Item = &'a str> + Clone + use<'a> {
        let all = self.all;
        self.numbers(key).map(|number| all.text(number))
    }

    /// The numbers of these texts among all rules'.
    fn numbers(&self, key: MatchKey) -> Range<usize> {
        let first = self.before.texts as usize + 1;
        let keys = &self.all.keys[first..self.packed.texts as usize];
        let start = keys.partition_point(|&other| other < Some(key));
        let count = keys[start..].partition_point(|&other| other == Some(key));
        first + start..first + start + count
    }

    /// The address the client connects from.
    pub fn sources(&self) -> &'a [IpNet] {
        &self.all.sources[self.source_numbers()]
    }

    /// The numbers of these among all rules'.
    const fn source_numbers(&self) -> Range<usize> {
        self.before.sources as usize..self.packed.sources as usize
    }

    /// What it may reach. Empty: nothing.
    pub fn allow(&self) -> &'a [Allow] {
        &self.all.allows[self.packed.allow as usize]
    }

    /// Which of [`Clients::allows`] it is.
    pub const fn allow_number(&self) -> usize {
        self.packed.allow as usize
    }

    /// Its limits, with `[defaults.client]` filled in.
    pub fn limits(&self) -> &'a Limits {
        &self.all.limits[self.packed.limits as usize]
    }

    /// From when on it matches nobody.
    pub fn expires(&self) -> Option<Timestamp> {
        let expiries = &self.all.expiries;
        let found = expiries.binary_search_by_key(&number(self.number), |&(rule, _)| rule);
        found.ok().map(|at| expiries[at].1)
    }

    /// Whether it decides.
    pub fn mode(&self) -> Mode {
        match self.all.shadows.binary_search(&number(self.number)) {
            Ok(_) => Mode::Shadow,
            Err(_) => Mode::Enforce,
        }
    }

    /// Whether the rule can only hold for a client that shows a certificate.
    pub const fn needs_certificate(&self) -> bool {
        self.packed.texts > self.before.texts + 1
    }

    /// Whether this rule decides, or speaks for those that do not, whenever `later`
    /// would.
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
