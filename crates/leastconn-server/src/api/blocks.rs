//! `GET /api/v1/blocks`, `POST /api/v1/blocks` and `POST /api/v1/blocks/remove`

use leastconn_config::text::escape;
use leastconn_fleet::BlockTarget;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ApiContext, FleetResult, SetFor, time};
use crate::{
    blocks::{BlockList, Expiry, display_serial, normalize_identity, normalize_serial},
    overrides,
};

/// Blocked clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Blocks {
    /// Identities first, then serial numbers.
    pub blocks: Vec<Block>,
}

/// A blocked client: its new connections are refused, and its open connections are closed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Block {
    /// Blocked identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Blocked serial number of a certificate, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Time at which the block was set.
    pub since: String,
    /// Time at which the block expires. Absent if it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// In a fleet: whether the block was set for this balancer or for the whole fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_for: Option<SetFor>,
}

/// `POST /api/v1/blocks`: refuses a client and closes its connections. Exactly one of `identity`
/// and `serial` is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetBlock {
    /// Identity as listed by `/connections`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Serial number of a certificate, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// How long the block lasts, such as `24h`; default: it does not expire.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,
    /// In a fleet: applies only to this balancer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
}

/// Result of blocking a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockSet {
    #[serde(flatten)]
    pub block: Block,
    /// Number of connections being closed on this balancer.
    pub killed: usize,
    /// Why the block applies to no client while the current rules are in force. Absent if a rule may
    /// give a client the blocked identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Result in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetResult>,
}

/// `POST /api/v1/blocks/remove`: admits a blocked client again. Exactly one of `identity` and
/// `serial` is required.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RemoveBlock {
    /// Blocked identity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Blocked serial number, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// In a fleet: removes only a block that was set for this balancer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub here: bool,
}

/// Result of unblocking a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BlockRemoved {
    /// Identity that is no longer blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Serial number that is no longer blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Result in the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetResult>,
}

impl Blocks {
    pub fn of(cx: &ApiContext) -> Self {
        let in_fleet = cx.context.snapshot().config.fleet.is_some();
        let blocks = cx.context.overrides.blocks();
        let blocks = blocks.into_iter().map(|block| Block::of(block, in_fleet));
        Self {
            blocks: blocks.collect(),
        }
    }
}

impl Block {
    pub(crate) fn of(block: overrides::Block, in_fleet: bool) -> Self {
        let (identity, serial) = texts(block.target);
        Self {
            identity,
            serial,
            since: time(block.since),
            until: block.until.map(time),
            set_for: in_fleet.then(|| block.origin.into()),
        }
    }
}

impl BlockRemoved {
    pub(crate) fn of(target: BlockTarget, fleet: Option<FleetResult>) -> Self {
        let (identity, serial) = texts(target);
        Self {
            identity,
            serial,
            fleet,
        }
    }
}

impl From<&Blocks> for BlockList {
    fn from(blocks: &Blocks) -> Self {
        let blocks = blocks.blocks.iter().filter_map(|block| {
            let target = target(block.identity.as_deref(), block.serial.as_deref()).ok()?;
            let until = block.until.as_deref().map(str::parse).transpose().ok()?;
            Some((target, until.map(Expiry::at)))
        });
        Self(blocks.collect())
    }
}

/// The target as `identity` and `serial`.
fn texts(target: BlockTarget) -> (Option<String>, Option<String>) {
    match target {
        BlockTarget::Identity(identity) => (Some(identity), None),
        BlockTarget::Serial(serial) => (None, Some(display_serial(&serial))),
    }
}

/// The target named by a request.
///
/// # Errors
/// Returns a message unless the request names exactly one identity or serial number that a client
/// can have.
pub(crate) fn target(identity: Option<&str>, serial: Option<&str>) -> Result<BlockTarget, String> {
    match (identity, serial) {
        (Some(identity), None) => normalize_identity(identity).map(BlockTarget::Identity),
        (None, Some(serial)) => normalize_serial(serial)
            .map(BlockTarget::Serial)
            .ok_or_else(|| {
                format!(
                    "invalid serial number {:?}: expected hexadecimal digits, as listed by `ctl \
                 connections`",
                    escape(serial)
                )
            }),
        (Some(_), Some(_)) => Err("name either `identity` or `serial`, not both".to_owned()),
        (None, None) => Err("name the client: `identity` or `serial`".to_owned()),
    }
}
