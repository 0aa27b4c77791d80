//! All `[[client]]` tables of a configuration, packed.
//!
//! There may be a hundred thousand of them, so they are not a hundred thousand
//! structures of lists of strings: all texts stand one after another in one
//! string, and a rule is a handful of numbers. A usual rule takes some 100 bytes,
//! and what lasts is a few large blocks. Those the allocator takes from the
//! system for themselves; small ones would lie scattered among what reading the
//! file has freed, and hold on to all of it.

use std::{collections::HashMap, sync::Arc};

use leastconn::Limits;

use super::{
    cidr::IpNet,
    model::{Allow, Client},
    pattern::{CnPattern, DnsPattern},
};

/// All rules, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clients {
    /// Of each rule its name, then its common names, then its DNS names.
    texts: String,
    /// Where in `texts` each of them ends, and the next begins.
    ends: Vec<usize>,
    sources: Vec<IpNet>,
    /// Each once, however many rules have it.
    allows: Vec<Arc<[Allow]>>,
    /// The same.
    limits: Vec<Limits>,
    rules: Vec<Packed>,
}

/// Where the parts of a rule end: numbers of `ends` and `sources`. The first of
/// each begins where the rule before ends.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Packed {
    cn: usize,
    dns: usize,
    sources: usize,
    allow: usize,
    limits: usize,
}

/// Adds one rule after another.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    packed: Clients,
    allows: HashMap<Arc<[Allow]>, usize>,
    limits: HashMap<Limits, usize>,
}

impl Packer {
    pub(crate) fn add(&mut self, client: &Client) {
        let packed = &mut self.packed;
        packed.push(&client.name);
        client.cn.iter().for_each(|cn| packed.push(cn.as_str()));
        let cn = packed.ends.len();
        client.dns.iter().for_each(|dns| packed.push(dns.as_str()));
        packed.sources.extend_from_slice(&client.source);
        let allow = match self.allows.get(&*client.allow) {
            Some(&known) => known,
            None => {
                let allow: Arc<[Allow]> = client.allow.as_slice().into();
                packed.allows.push(Arc::clone(&allow));
                self.allows.insert(allow, packed.allows.len() - 1);
                packed.allows.len() - 1
            }
        };
        let limits = *self.limits.entry(client.limits).or_insert_with(|| {
            packed.limits.push(client.limits);
            packed.limits.len() - 1
        });
        packed.rules.push(Packed {
            cn,
            dns: packed.ends.len(),
            sources: packed.sources.len(),
            allow,
            limits,
        });
    }

    pub(crate) fn finish(self) -> Clients {
        self.packed
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
            before: before.unwrap_or_default(),
            packed: self.rules[number],
        }
    }

    /// The different lists that clients may reach: [`Rule::allow_number`] counts
    /// them.
    pub fn allows(&self) -> &[Arc<[Allow]>] {
        &self.allows
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

    fn push(&mut self, text: &str) {
        self.texts.push_str(text);
        self.ends.push(self.texts.len());
    }

    fn text(&self, number: usize) -> &str {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[start..self.ends[number]]
    }
}

/// One `[[client]]`: whom it is about, what it may reach, and how much of it.
///
/// Of `cn`, `dns` and `sources` every list that is not empty must hold, and one
/// of its entries is enough for that; at least one list is not empty.
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    all: &'a Clients,
    before: Packed,
    packed: Packed,
}

impl<'a> Rule<'a> {
    /// Its name in logs and metrics.
    pub fn name(&self) -> &'a str {
        self.all.text(self.before.dns)
    }

    /// The subject's common name.
    pub fn cn(&self) -> impl ExactSizeIterator<Item = CnPattern<&'a str>> + use<'a> {
        let all = self.all;
        (self.before.dns + 1..self.packed.cn).map(|number| CnPattern::parsed(all.text(number)))
    }

    /// A DNS name among the subject alternative names.
    pub fn dns(&self) -> impl ExactSizeIterator<Item = DnsPattern<&'a str>> + use<'a> {
        let all = self.all;
        (self.packed.cn..self.packed.dns).map(|number| DnsPattern::parsed(all.text(number)))
    }

    /// The address the client connects from.
    pub fn sources(&self) -> &'a [IpNet] {
        &self.all.sources[self.before.sources..self.packed.sources]
    }

    /// What it may reach. Empty: nothing.
    pub fn allow(&self) -> &'a [Allow] {
        &self.all.allows[self.packed.allow]
    }

    /// Which of [`Clients::allows`] it is.
    pub const fn allow_number(&self) -> usize {
        self.packed.allow
    }

    /// Its limits, with `[defaults.client]` filled in.
    pub fn limits(&self) -> &'a Limits {
        &self.all.limits[self.packed.limits]
    }

    /// Whether the rule can only hold for a client that shows a certificate.
    pub fn needs_certificate(&self) -> bool {
        self.packed.dns > self.before.dns + 1
    }

    /// The names by which the rule can be found, if it asks for names and all
    /// of one kind are without `*`.
    pub fn exact(&self) -> Option<Exact> {
        if self.cn().len() > 0 && !self.cn().any(|cn| cn.is_wildcard()) {
            Some(Exact::Cn)
        } else if self.dns().len() > 0 && !self.dns().any(|dns| dns.is_wildcard()) {
            Some(Exact::Dns)
        } else {
            None
        }
    }

    /// Whether this rule holds whenever `later` does.
    pub fn covers(&self, later: &Self) -> bool {
        fn all<T>(
            wide: impl ExactSizeIterator<Item = T> + Clone,
            mut narrow: impl ExactSizeIterator<Item = T>,
            covers: impl Fn(&T, &T) -> bool,
        ) -> bool {
            wide.len() == 0
                || (narrow.len() > 0
                    && narrow.all(|narrow| wide.clone().any(|wide| covers(&wide, &narrow))))
        }
        let cn: Vec<_> = self.cn().collect();
        let dns: Vec<_> = self.dns().collect();
        all(cn.into_iter(), later.cn(), |a, b| a.covers(b))
            && all(dns.into_iter(), later.dns(), |a, b| a.covers(b))
            && all(self.sources().iter(), later.sources().iter(), |a, b| {
                a.covers(b)
            })
    }
}

/// Names by which a rule can be found: without one of them it does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exact {
    /// One of its `cn` is the common name.
    Cn,
    /// One of its `dns` is among the DNS names.
    Dns,
}
