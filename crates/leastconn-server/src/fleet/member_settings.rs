use std::{num::NonZeroU32, sync::Arc, time::Duration};

#[derive(Clone, Debug)]
pub struct MemberSettings {
    /// The name of the fleet.
    pub fleet: Arc<str>,
    /// The name of this member.
    pub name: Arc<str>,
    /// Members to assume until the store has answered.
    pub size: NonZeroU32,
    /// Age at which the counts of other members are forgotten.
    pub gone_after: Duration,
    /// The configured address of the store.
    pub store: String,
}
