//! An index that finds the rules that may match a client, or cover another rule.
//!
//! A rule matches a client only if a pattern matches under each key of the rule. It is
//! therefore sufficient to index each rule by one of its keys. The index uses the key whose
//! patterns are shared by the fewest rules. For example, rules with the same organizational
//! unit and different addresses are indexed by address.
//!
//! An address is looked up once for each prefix length that occurs in the rules, and a text
//! once for each form of wildcard pattern that occurs. The result contains all rules that
//! match, and may contain rules that do not.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashSet},
};

use super::{Clients, MatchKey, number};
use crate::cidr::{IpNet, Prefixes};
use leastconn_tls::pattern::Form;

/// The index. It takes 8 bytes per indexed pattern or network.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    /// Indexed patterns, sorted by key and pattern, then by rule.
    texts: Vec<Entry>,
    /// Indexed networks, sorted by network, then by rule.
    nets: Vec<Entry>,
    /// The forms of wildcard patterns that occur, without duplicates.
    forms: Vec<(MatchKey, Form)>,
    /// The prefix lengths of networks that occur, without duplicates. First those of IPv4, then
    /// those of IPv6.
    prefixes: [Vec<u8>; 2],
}

/// An indexed pattern or network, and its rule.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Entry {
    /// Position of the pattern or network among all patterns or networks of [`Clients`].
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
        // The sort is stable, so that rules with the same pattern stay in the order of the
        // file.
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
                // If the text already has this form, it was looked up above.
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

/// Returns, for each pattern or network, how many rules have an equal pattern or network.
fn count_equal<'a>(same: impl Iterator<Item = &'a [Entry]>, of: usize) -> Vec<u32> {
    let mut counts = vec![0; of];
    for same in same {
        for entry in same {
            counts[entry.position as usize] = number(same.len());
        }
    }
    counts
}

/// The key by which a rule is indexed: the key whose values occur in the fewest rules,
/// according to the counts from [`count_equal`]. `None` only if the rule has no keys, but a
/// rule has at least one key.
fn index_key(clients: &Clients, rule: usize, texts: &[u32], nets: &[u32]) -> Option<MatchKey> {
    let rule = clients.rule(rule);
    let most = |counts: &[u32]| counts.iter().max().copied();
    let by_text = MatchKey::SELECTIVE.into_iter().filter_map(|key| {
        let wildcard = rule.texts(key).any(|text| key.is_wildcard(text));
        most(&texts[rule.numbers(key)]).map(|count| (count, wildcard, key))
    });
    let by_net = most(&nets[rule.source_numbers()]).map(|count| (count, true, MatchKey::Source));
    // If several keys are equally rare, `min_by_key` returns the first, which is the most
    // selective.
    let best = by_text.chain(by_net);
    best.min_by_key(|&(count, wildcard, _)| (count, wildcard))
        .map(|(_, _, key)| key)
}

fn equal(sorted: &[Entry], compare: impl Fn(&Entry) -> Ordering) -> &[Entry] {
    let start = sorted.partition_point(|entry| compare(entry) == Ordering::Less);
    let rest = &sorted[start..];
    &rest[..rest.partition_point(|entry| compare(entry) == Ordering::Equal)]
}

/// Merges sorted lists of rules and drops duplicates. The iterator is lazy, because usually
/// one of the first candidates matches and the rest is not needed.
pub struct Candidates<'a> {
    rows: Vec<&'a [Entry]>,
    /// The next rule of each list, and the number of the list.
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
            // Skip duplicates, because a rule may have the same pattern twice.
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
