//! An index that finds the rules that may match a client, or cover another rule.
//!
//! A rule matches only if one of its patterns matches for each of its keys, so indexing
//! one key per rule is sufficient. The index uses the key whose patterns are shared by the
//! fewest rules. For example, rules with the same organizational unit and different
//! addresses are indexed by address.
//!
//! A network is looked up once per distinct prefix length, and a text once per distinct
//! form of wildcard pattern. The result is a superset of the matching rules.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashSet},
};

use super::{Clients, MatchKey, number};
use crate::cidr::{IpNet, Prefixes};
use leastconn_tls::pattern::Form;

/// Takes 8 bytes per indexed pattern or network.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    /// Sorted by key and pattern, then by rule.
    texts: Vec<Entry>,
    /// Sorted by network, then by rule.
    nets: Vec<Entry>,
    /// The distinct forms of the wildcard patterns.
    forms: Vec<(MatchKey, Form)>,
    /// The distinct prefix lengths of the networks: IPv4, then IPv6.
    prefixes: [Vec<u8>; 2],
}

/// A pattern or network by which a rule is found.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    /// The position in [`Clients`].
    position: u32,
    rule: u32,
}

impl Index {
    pub(super) fn of(clients: &Clients) -> Self {
        let mut index = Self::default();
        for (rule, client) in clients.iter().enumerate() {
            let rule = number(rule);
            let entry = |position| Entry {
                position: number(position),
                rule,
            };
            let texts = MatchKey::TEXTS
                .into_iter()
                .flat_map(|key| client.numbers(key));
            index.texts.extend(texts.map(entry));
            index.nets.extend(client.source_numbers().map(entry));
        }
        // The sort is stable: rules with the same pattern stay in order.
        let text = |entry: &Entry| clients.pattern(entry.position);
        index.texts.sort_by(|a, b| text(a).cmp(&text(b)));
        let net = |entry: &Entry| clients.sources[entry.position as usize];
        index.nets.sort_by_key(net);

        let same = index.texts.chunk_by(|a, b| text(a) == text(b));
        let texts = count_equal(same, clients.keys.len());
        let same = index.nets.chunk_by(|a, b| net(a) == net(b));
        let nets = count_equal(same, clients.sources.len());
        let index_key: Vec<_> = (0..clients.len())
            .map(|rule| index_key(clients, rule, &texts, &nets))
            .collect();
        index.texts.retain(|entry| {
            let (key, _) = clients.pattern(entry.position);
            key.is_some() && key == index_key[entry.rule as usize]
        });
        index
            .nets
            .retain(|entry| index_key[entry.rule as usize] == Some(MatchKey::Source));
        index.texts.shrink_to_fit();
        index.nets.shrink_to_fit();

        let mut forms = HashSet::new();
        for entry in &index.texts {
            if let (Some(key), text) = clients.pattern(entry.position)
                && key.is_wildcard(text)
            {
                forms.insert((key, Form::of(text, key.separator())));
            }
        }
        index.forms = forms.into_iter().collect();
        index.forms.sort_unstable();
        let [v4, v6] = &mut index.prefixes;
        for net in index.nets.iter().map(net) {
            let prefixes = if net.is_ipv4() { &mut *v4 } else { &mut *v6 };
            if !prefixes.contains(&net.prefix()) {
                prefixes.push(net.prefix());
            }
        }
        index
    }

    /// The rules, in order, whose indexed pattern may match one of `texts` for its key, or
    /// whose indexed network contains `source`.
    pub(super) fn candidates<'a, 't>(
        &'a self,
        clients: &Clients,
        texts: impl Iterator<Item = (MatchKey, &'t str)>,
        source: Option<IpNet>,
    ) -> Candidates<'a> {
        let mut rows = Vec::new();
        for (key, text) in texts {
            rows.push(self.rules_with_text(clients, key, text));
            let forms = self.forms.iter().filter(|(of, _)| *of == key);
            for candidate in forms.filter_map(|(_, form)| form.candidate(text)) {
                // A text that already has this form was looked up above.
                if candidate != text {
                    rows.push(self.rules_with_text(clients, key, &candidate));
                }
            }
        }
        if let Some(net) = source {
            let [v4, v6] = &self.prefixes;
            let prefixes = if net.is_ipv4() { v4 } else { v6 };
            let wider = prefixes.iter().filter(|&&prefix| prefix <= net.prefix());
            rows.extend(wider.map(|&prefix| {
                let prefixes = Prefixes {
                    v4: prefix,
                    v6: prefix,
                };
                self.rules_with_net(clients, IpNet::of(net.address(), prefixes))
            }));
        }
        Candidates::new(rows)
    }

    fn rules_with_text(&self, clients: &Clients, key: MatchKey, text: &str) -> &[Entry] {
        equal(&self.texts, |entry| {
            clients.pattern(entry.position).cmp(&(Some(key), text))
        })
    }

    fn rules_with_net(&self, clients: &Clients, net: IpNet) -> &[Entry] {
        equal(&self.nets, |entry| {
            clients.sources[entry.position as usize].cmp(&net)
        })
    }
}

/// For each pattern or network: how many rules have an equal one.
fn count_equal<'a>(same: impl Iterator<Item = &'a [Entry]>, of: usize) -> Vec<u32> {
    let mut counts = vec![0; of];
    for same in same {
        for entry in same {
            counts[entry.position as usize] = number(same.len());
        }
    }
    counts
}

/// The key by which a rule is indexed: its least shared one, by the counts of
/// [`count_equal`]. `None` for a rule without keys, which does not exist.
fn index_key(clients: &Clients, rule: usize, texts: &[u32], nets: &[u32]) -> Option<MatchKey> {
    let rule = clients.rule(rule);
    let most = |counts: &[u32]| counts.iter().max().copied();
    let by_text = MatchKey::SELECTIVE.into_iter().filter_map(|key| {
        let wildcard = rule.texts(key).any(|text| key.is_wildcard(text));
        most(&texts[rule.numbers(key)]).map(|count| (count, wildcard, key))
    });
    let by_net = most(&nets[rule.source_numbers()]).map(|count| (count, true, MatchKey::Source));
    // `min_by_key` returns the first of equal candidates.
    let best = by_text.chain(by_net);
    best.min_by_key(|&(count, wildcard, _)| (count, wildcard))
        .map(|(_, _, key)| key)
}

fn equal(sorted: &[Entry], compare: impl Fn(&Entry) -> Ordering) -> &[Entry] {
    let start = sorted.partition_point(|entry| compare(entry) == Ordering::Less);
    let rest = &sorted[start..];
    &rest[..rest.partition_point(|entry| compare(entry) == Ordering::Equal)]
}

/// Merges sorted lists of rules and drops duplicates. Lazy, because usually one of the
/// first rules decides.
pub struct Candidates<'a> {
    rows: Vec<&'a [Entry]>,
    /// The next rule of each list.
    next: BinaryHeap<Reverse<(u32, usize)>>,
}

impl<'a> Candidates<'a> {
    fn new(mut rows: Vec<&'a [Entry]>) -> Self {
        rows.retain(|row| !row.is_empty());
        let firsts = rows.iter().enumerate();
        let firsts = firsts.filter_map(|(row, list)| Some(Reverse((list.first()?.rule, row))));
        Self {
            next: firsts.collect(),
            rows,
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let Reverse((rule, _)) = *self.next.peek()?;
        while let Some(mut top) = self.next.peek_mut() {
            let Reverse((first, row)) = *top;
            if first != rule {
                break;
            }
            let rest = &mut self.rows[row];
            // A rule may have the same pattern twice.
            let same = rest.iter().take_while(|entry| entry.rule == rule).count();
            *rest = &rest[same..];
            match rest.first() {
                Some(entry) => *top = Reverse((entry.rule, row)),
                None => drop(std::collections::binary_heap::PeekMut::pop(top)),
            }
        }
        Some(rule as usize)
    }
}
