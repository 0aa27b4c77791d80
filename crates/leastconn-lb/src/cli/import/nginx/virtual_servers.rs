//! The addresses of a configuration, with the `server` blocks of each.

use super::{
    listen::{self, Listen},
    parser::Directive,
};

/// A `server` block at an address.
#[derive(Clone, Debug)]
pub(super) struct Member<'a> {
    pub(super) block: &'a Directive,
    pub(super) listen: Listen,
}

/// Addresses with the same `server` blocks.
#[derive(Clone, Debug)]
pub(super) struct Group<'a> {
    pub(super) addresses: Vec<String>,
    /// The blocks in the order of the file.
    pub(super) members: Vec<Member<'a>>,
}

impl Group<'_> {
    /// Returns the index of the block for clients whose server name no block has.
    pub(super) fn base(&self) -> usize {
        let mut members = self.members.iter();
        members
            .position(|member| member.listen.is_default)
            .unwrap_or(0)
    }

    fn has(&self, block: &Directive) -> bool {
        let mut members = self.members.iter();
        members.any(|member| std::ptr::eq(member.block, block))
    }

    fn same_members(&self, other: &Self) -> bool {
        let mut pairs = self.members.iter().zip(&other.members);
        self.members.len() == other.members.len()
            && self.base() == other.base()
            && pairs
                .all(|(a, b)| std::ptr::eq(a.block, b.block) && a.listen.same_settings(&b.listen))
    }
}

/// Returns the addresses of all `listen` lines. A line without a valid address has a group of its
/// own, or belongs to a group with the same blocks and settings.
pub(super) fn groups(stream: &[Directive]) -> Vec<Group<'_>> {
    let mut single: Vec<Group<'_>> = Vec::new();
    for block in stream.iter().filter(|line| line.name() == "server") {
        for line in block.children() {
            if line.name() != "listen" || listen::is_udp(line) {
                continue;
            }
            let listen = listen::listen(line);
            let member = Member { block, listen };
            if member.listen.addresses.is_empty() {
                single.push(Group {
                    addresses: Vec::new(),
                    members: vec![member.clone()],
                });
            }
            for address in &member.listen.addresses {
                let is_same = |group: &&mut Group<'_>| group.addresses.contains(address);
                match single.iter_mut().find(is_same) {
                    // nginx does not start with an address twice in a block.
                    Some(group) if group.has(block) => {}
                    Some(group) => group.members.push(member.clone()),
                    None => single.push(Group {
                        addresses: vec![address.clone()],
                        members: vec![member.clone()],
                    }),
                }
            }
        }
    }
    let mut groups: Vec<Group<'_>> = Vec::new();
    for group in single {
        match groups.iter_mut().find(|first| first.same_members(&group)) {
            Some(first) => {
                first.addresses.extend(group.addresses);
                for (member, other) in first.members.iter_mut().zip(group.members) {
                    member.listen.add(&other.listen);
                }
            }
            None => groups.push(group),
        }
    }
    groups
}
