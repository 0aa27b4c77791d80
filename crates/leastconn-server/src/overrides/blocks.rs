//! Blocking clients. A block refuses new connections of a client and closes its open ones. It
//! survives reloads and upgrades, until it expires or is removed.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use leastconn::net;
use leastconn_fleet::{BlockTarget, OperatorState};
use serde::{Deserialize, Serialize};

use super::{Forward, Origin, Overrides, Replaced, parse_time};
use crate::{
    blocks::{BlockList, Blocks, Expiry},
    reason_code::ReasonCode,
    registry::{ConnectionHandle, Registry},
};

/// Number of blocks from which no further client can be blocked. Rules in the configuration are the
/// place for more. Members that block clients at the same time may exceed it: all blocks of the
/// fleet apply.
const MAX_BLOCKS: usize = 10_000;

/// The blocks that operators have set. A target can be blocked both here and in the fleet, and
/// stays blocked until both blocks are gone.
#[derive(Debug, Default)]
pub(super) struct ActiveBlocks {
    here: BTreeMap<BlockTarget, SetBlock>,
    fleet: BTreeMap<BlockTarget, SetBlock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SetBlock {
    since: Timestamp,
    expiry: Option<Expiry>,
}

impl SetBlock {
    fn is_in_force(&self, now: Instant) -> bool {
        self.expiry.is_none_or(|expiry| !expiry.is_over(now))
    }

    /// The time at which the block expires, by the system clock.
    fn until(&self) -> Option<Timestamp> {
        self.expiry.map(|expiry| expiry.until())
    }

    /// Whether both expire at the same time, as far as different clocks can tell.
    fn expires_with(&self, other: &Self) -> bool {
        match (self.expiry, other.expiry) {
            (Some(one), Some(other)) => one.is_about(&other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// One block that lasts as long as both.
    fn join(self, other: Self) -> Self {
        Self {
            since: self.since.min(other.since),
            expiry: later(self.expiry, other.expiry),
        }
    }
}

/// The later of two expiry times.
fn later(one: Option<Expiry>, other: Option<Expiry>) -> Option<Expiry> {
    one.zip(other).map(|(one, other)| one.max(other))
}

/// A block in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub target: BlockTarget,
    pub since: Timestamp,
    pub until: Option<Timestamp>,
    pub origin: Origin,
}

/// A block as sent to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockHandover {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<String>,
    since: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    fleet: bool,
}

/// Why a client could not be blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// There are too many blocks.
    TooMany,
    Replaced,
}

impl From<Replaced> for BlockError {
    fn from(Replaced: Replaced) -> Self {
        Self::Replaced
    }
}

/// The result of [`Overrides::block`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockChange {
    pub block: Block,
    /// The number of connections that were closed.
    pub killed: usize,
}

impl Overrides {
    /// Blocks a client on this balancer, for `duration` or until it is unblocked, and closes its
    /// connections. An earlier block of the same target is replaced.
    ///
    /// # Errors
    /// If there are too many blocks, or a successor has replaced this process.
    pub fn block(
        &self,
        target: BlockTarget,
        duration: Option<Duration>,
    ) -> Result<BlockChange, BlockError> {
        let mut active = self.lock();
        active.ensure_active()?;
        let blocks = &mut active.blocks;
        blocks.remove_expired(net::now());
        let earlier = blocks.here.get(&target);
        let is_new = earlier.is_none() && !blocks.fleet.contains_key(&target);
        if is_new && blocks.count() >= MAX_BLOCKS {
            return Err(BlockError::TooMany);
        }
        let set = SetBlock {
            since: earlier.map_or_else(Timestamp::now, |earlier| earlier.since),
            expiry: duration.map(Expiry::after),
        };
        blocks.here.insert(target.clone(), set);
        let killed = self.publish_blocks(&active.blocks);
        Ok(BlockChange {
            block: Block {
                target,
                since: set.since,
                until: set.until(),
                origin: Origin::Here,
            },
            killed,
        })
    }

    /// Removes a block that was set on this balancer. Returns whether there was one.
    ///
    /// # Errors
    /// If a successor has replaced this process.
    pub fn unblock(&self, target: &BlockTarget) -> Result<bool, Replaced> {
        let mut active = self.lock();
        active.ensure_active()?;
        active.blocks.remove_expired(net::now());
        let was_blocked = active.blocks.here.remove(target).is_some();
        self.publish_blocks(&active.blocks);
        Ok(was_blocked)
    }

    /// The blocks in force, by target. If a target is blocked both here and in the fleet, the list
    /// has both blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut active = self.lock();
        self.drop_expired(&mut active.blocks);
        let of = |blocks: &BTreeMap<BlockTarget, SetBlock>, origin| {
            let blocks = blocks.iter().map(|(target, set)| Block {
                target: target.clone(),
                since: set.since,
                until: set.until(),
                origin,
            });
            blocks.collect::<Vec<_>>()
        };
        let mut all = of(&active.blocks.fleet, Origin::Fleet);
        all.extend(of(&active.blocks.here, Origin::Here));
        all.sort_by(|a, b| a.target.cmp(&b.target));
        all
    }

    /// The length of [`Self::blocks`].
    pub fn block_count(&self) -> usize {
        let mut active = self.lock();
        self.drop_expired(&mut active.blocks);
        active.blocks.count()
    }

    fn drop_expired(&self, blocks: &mut ActiveBlocks) {
        if blocks.remove_expired(net::now()) {
            // Authorization ignores expired blocks, but searches for them.
            let in_force = &self.snapshots.load().blocks;
            in_force.replace(blocks.list());
        }
    }

    /// Replaces the blocks by those of the newest process. For a predecessor, which still has
    /// connections.
    pub fn set_forwarded_blocks(&self, blocks: &[BlockHandover]) {
        let mut active = self.lock();
        active.blocks.import(blocks, true, false);
        let killed = self.publish_blocks(&active.blocks);
        if killed > 0 {
            tracing::info!(
                killed,
                "connections of blocked clients closed: command forwarded by the newest process"
            );
        }
    }

    /// Applies the blocks to authorization, closes connections of blocked clients, and forwards the
    /// blocks to predecessors. Returns the number of connections that were closed.
    ///
    /// A connection that is authorized at the same time is not missed: authorization reads the
    /// blocks under the lock of the connection's state, and the search below takes the same lock.
    /// If the connection is first, the search finds it. Otherwise it sees the new blocks.
    pub(super) fn publish_blocks(&self, blocks: &ActiveBlocks) -> usize {
        let list = blocks.list();
        let is_empty = list.0.is_empty();
        let in_force = &self.snapshots.load().blocks;
        in_force.replace(list);
        // An error only means that there is no predecessor.
        let _ = self.forwards.send(Forward::Blocks(blocks.export()));
        if is_empty {
            return 0;
        }
        close_blocked(&self.registry, in_force)
    }
}

/// Closes the open connections of blocked clients.
fn close_blocked(registry: &Registry, blocks: &Blocks) -> usize {
    let is_blocked = |handle: &ConnectionHandle| {
        let state = handle.state();
        // A connection without a generation is not authorized yet, and will see the blocks.
        let identity = state
            .current_identity()
            .filter(|_| state.generation.is_some());
        let certificate = handle.chain().map(|chain| &*chain.certificate);
        identity.is_some_and(|identity| blocks.find(identity, certificate, net::now).is_some())
    };
    let open = registry.list();
    let blocked = open.iter().filter(|handle| is_blocked(handle));
    blocked
        .filter(|handle| handle.stop(ReasonCode::Blocked))
        .count()
}

impl ActiveBlocks {
    /// Returns whether a block has expired.
    fn remove_expired(&mut self, now: Instant) -> bool {
        let before = self.count();
        self.here.retain(|_, set| set.is_in_force(now));
        self.fleet.retain(|_, set| set.is_in_force(now));
        self.count() < before
    }

    fn count(&self) -> usize {
        self.here.len() + self.fleet.len()
    }

    /// All blocks. A target with two blocks is blocked until the later of both times.
    fn list(&self) -> BlockList {
        let mut list = BTreeMap::new();
        for (target, set) in self.here.iter().chain(&self.fleet) {
            list.entry(target.clone())
                .and_modify(|expiry| *expiry = later(*expiry, set.expiry))
                .or_insert(set.expiry);
        }
        BlockList(list)
    }

    /// Replaces the blocks of the fleet. Returns whether they changed.
    pub(super) fn set_fleet(&mut self, state: &OperatorState) -> bool {
        let now = Timestamp::now();
        let blocks = state.blocks.iter().map(|block| {
            let earlier = self.fleet.get(&block.target);
            let set = SetBlock {
                since: earlier.map_or(now, |earlier| earlier.since),
                expiry: block.remaining.map(Expiry::after),
            };
            let unchanged = earlier.filter(|earlier| earlier.expires_with(&set));
            (block.target.clone(), *unchanged.unwrap_or(&set))
        });
        let blocks: BTreeMap<_, _> = blocks.collect();
        let has_changed = blocks != self.fleet;
        self.fleet = blocks;
        has_changed
    }

    /// Turns the blocks of the fleet into blocks of this balancer.
    pub(super) fn keep_fleet(&mut self) {
        for (target, set) in std::mem::take(&mut self.fleet) {
            add(&mut self.here, target, set);
        }
    }

    pub(super) fn export(&self) -> Vec<BlockHandover> {
        let here = self.here.iter().map(|(target, set)| (target, set, false));
        let fleet = self.fleet.iter().map(|(target, set)| (target, set, true));
        here.chain(fleet)
            .map(|(target, set, fleet)| {
                let (identity, serial) = match target {
                    BlockTarget::Identity(identity) => (Some(identity.clone()), None),
                    BlockTarget::Serial(serial) => (None, Some(serial.clone())),
                };
                BlockHandover {
                    identity,
                    serial,
                    since: set.since.to_string(),
                    until: set.until().map(|until| until.to_string()),
                    fleet,
                }
            })
            .collect()
    }

    /// Replaces the blocks by those of another process. `in_fleet`: whether this process is a
    /// member of a fleet; otherwise blocks of the fleet become blocks of this balancer.
    /// `keeps_fleet`: the blocks of the fleet stay as they are.
    pub(super) fn import(&mut self, blocks: &[BlockHandover], in_fleet: bool, keeps_fleet: bool) {
        self.here.clear();
        if !keeps_fleet {
            self.fleet.clear();
        }
        for block in blocks {
            let target = match (&block.identity, &block.serial) {
                (Some(identity), None) => BlockTarget::Identity(identity.clone()),
                (None, Some(serial)) => BlockTarget::Serial(serial.clone()),
                _ => {
                    tracing::warn!("block dropped: the predecessor sent an unknown kind of block");
                    continue;
                }
            };
            let set = SetBlock {
                since: parse_time(&block.since),
                expiry: block
                    .until
                    .as_deref()
                    .map(|until| Expiry::at(parse_time(until))),
            };
            let blocks = match block.fleet && in_fleet {
                true if keeps_fleet => continue,
                true => &mut self.fleet,
                false => &mut self.here,
            };
            add(blocks, target, set);
        }
    }
}

/// Adds a block. If the target is already blocked, it stays blocked until both blocks have expired.
fn add(blocks: &mut BTreeMap<BlockTarget, SetBlock>, target: BlockTarget, set: SetBlock) {
    blocks
        .entry(target)
        .and_modify(|earlier| *earlier = earlier.join(set))
        .or_insert(set);
}

#[cfg(test)]
mod tests;
