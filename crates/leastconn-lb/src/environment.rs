//! What the process of an upgrade is told by its environment: the names of the variables,
//! and those of the descriptors, for who writes them and who reads them.

/// The ID of the process that started this one in its place.
pub(crate) const UPGRADE: &str = "LEASTCONN_UPGRADE";
/// What was set by hand in that process, as JSON.
pub(crate) const BY_HAND: &str = "LEASTCONN_BY_HAND";
pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
pub(crate) const LISTEN_PID: &str = "LISTEN_PID";
pub(crate) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";

/// The name of the admin address's socket. No listener can have a name like these.
pub(crate) const ADMIN: &str = "@admin";
/// The name of the socket by which the old process and the new one talk.
pub(crate) const OLD: &str = "@old";
/// The name of the socket to the first process of a container.
pub(crate) const FIRST: &str = "@first";
