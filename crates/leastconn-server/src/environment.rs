//! Environment variables and descriptor names that are passed to a successor process. They
//! must not change: predecessor and successor may have different versions.

/// PID of the predecessor.
pub(crate) use leastconn_config::confinement::UPGRADE;

/// Overrides, as JSON.
pub(crate) const OVERRIDES: &str = "LEASTCONN_BY_HAND";
/// Set if the overrides are too large for a variable. They are then the first message over [`OLD`].
pub(crate) const SENT_OVERRIDES: &str = "LEASTCONN_SENT_OVERRIDES";
/// Discovered servers, as JSON.
pub(crate) const DISCOVERED: &str = "LEASTCONN_DISCOVERED";
pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
pub(crate) const LISTEN_PID: &str = "LISTEN_PID";
pub(crate) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";

/// A socket of the admin side. Listener names cannot contain `@`, so the names below cannot clash
/// with them.
pub(crate) const ADMIN: &str = "@admin";
/// An admin UNIX socket whose file belongs to systemd.
pub(crate) const ADMIN_KEPT: &str = "@admin-kept";
/// A UNIX socket of a listener.
pub(crate) const UNIX: &str = "@unix";
/// A UNIX socket of a listener whose file belongs to systemd.
pub(crate) const UNIX_KEPT: &str = "@unix-kept";
/// Socket to the direct predecessor.
pub(crate) const OLD: &str = "@old";
/// Socket to an older predecessor.
pub(crate) const PREDECESSOR: &str = "@earlier";
/// Socket to PID 1 of a container.
pub const PID1: &str = "@first";
