//! What the process of an upgrade is told by its environment: the names of the variables,
//! and those of the descriptors, for who writes them and who reads them.

pub(crate) use leastconn_config::confinement::UPGRADE;

/// What was set by hand in that process, as JSON.
pub(crate) const BY_HAND: &str = "LEASTCONN_BY_HAND";
pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
pub(crate) const LISTEN_PID: &str = "LISTEN_PID";
pub(crate) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";

/// The name of the admin side's sockets. No listener can have a name like these.
pub(crate) const ADMIN: &str = "@admin";
/// The name of an admin socket whose file is somebody else's, who made it: systemd's.
pub(crate) const ADMIN_KEPT: &str = "@admin-kept";
/// The name of a listener's UNIX socket.
pub(crate) const UNIX: &str = "@unix";
/// The name of one whose file is somebody else's.
pub(crate) const UNIX_KEPT: &str = "@unix-kept";
/// The name of the socket by which the old process and the new one talk.
pub(crate) const OLD: &str = "@old";
/// The name of each socket to a process whose place the old one, or one before it, took.
pub(crate) const EARLIER: &str = "@earlier";
/// The name of the socket to the first process of a container.
pub const FIRST: &str = "@first";
