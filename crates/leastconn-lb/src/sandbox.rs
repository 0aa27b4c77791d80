//! The process confines itself by Landlock after it has read its configuration. From then on
//! it can only read and write the files that the configuration names and that system
//! libraries need, even as root. An attacker who takes over the process cannot read other
//! files, write elsewhere, or signal other processes.
//!
//! **When.** `landlock_restrict_self` applies to the calling thread and to threads that it
//! starts later. So it is called while there is only one thread: after reading the
//! configuration, before resolving host names, opening logs, and starting the runtime, the
//! admin side and the log writer. Linux 7.0 can confine running threads, but this order
//! works on all kernels.
//!
//! **Allowed paths** are *directories*, not files: a rule is bound to the file that exists at
//! the time, and files such as certificates, `/etc/resolv.conf` and this program are
//! replaced by renaming. If a symbolic link is on the path to a file, the directory that it
//! points to is allowed too (`sandbox/trail.rs`), so that links can be changed, as
//! Kubernetes does. The root directory is never allowed, as that would allow everything:
//! files in it are allowed one by one, and no longer found once they are replaced. Neither
//! is a directory that was itself replaced by renaming.
//! - Reading: the directories of the configuration and of all files that it names; `/etc`
//!   and `/usr`, because name resolution reads files and loads libraries late, and package
//!   managers and DHCP clients replace them. Root can read the secrets in `/etc`, so for
//!   root only single files of it are allowed. `/proc`, because a rule for `/proc/self` is
//!   lost when the kernel drops its inode, and does not apply to a successor process.
//!   Landlock forbids tracing unconfined processes, so their environment, memory and open
//!   files in `/proc` stay unreadable.
//! - Writing: the directory of the access log (create and write files, not remove them), of
//!   the admin socket (create sockets, remove files, and list, for the lock on the
//!   directory), and the one that the service manager created (`RUNTIME_DIRECTORY`).
//! - Executing: the directories of this program and of the dynamic loader, for an upgrade.
//!   The new program inherits all restrictions.
//!
//! **Sockets** of unused families and types are forbidden by a seccomp filter
//! (`sandbox/sockets.rs`).
//!
//! **Not restricted** are TCP and UDP, because a reload may add listeners and servers with
//! other ports; connecting to UNIX sockets with a path, which name services and service
//! managers use (kernels before 7.1 cannot forbid it); and what Landlock does not cover,
//! such as size and date of any file.
//!
//! **Signals and abstract sockets** are limited to processes in the same or a nested
//! sandbox, which includes a successor. If the service manager listens at an abstract
//! socket (`NOTIFY_SOCKET=@…`), abstract sockets are not restricted.
//!
//! **Core files** are disabled, as keys are in memory. The process stays traceable by its own
//! user (`PR_SET_DUMPABLE`): otherwise `/proc/PID` would belong to root, and operators and
//! monitoring could not count its files. That user can read the key files anyway.
//!
//! **Upgrades.** A successor starts within this sandbox and adds its own layer. The kernel
//! allows sixteen. The seventeenth process in a row cannot add one (`E2BIG`), and continues
//! with those that it has.
//!
//! **Without Landlock** in the kernel, the process logs a warning, shows it in the status, and
//! runs unconfined. With `sandbox = "on"` in the configuration it does not start.

mod allowed;
mod kernel;
mod sockets;
#[cfg(test)]
mod tests;
mod trail;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use allowed::Allowed;
use leastconn_server::{
    config::{Config, Sandbox},
    confinement::{self, Confinement},
};

/// `sandbox = "on"`, but no sandbox is available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`sandbox = \"on\"` in `[process]` is not possible: {0}; without the key, the process runs without a sandbox if there is none"
)]
pub struct Unmet(String);

/// Confines this thread, and all threads started later, to what `config` needs. Call it
/// before starting threads.
///
/// # Errors
/// With `sandbox = "on"`, if the kernel has no Landlock.
pub fn confine(config: &Config) -> Result<(), Unmet> {
    if config.process.sandbox == Some(Sandbox::Off) {
        return Ok(());
    }
    forbid_core_files();
    let mut done = kernel::apply(&Allowed::by(config), reach_abstract_sockets());
    if let (Err(_), Confinement::Confined { missing, .. }) = (sockets::restrict(), &mut done) {
        missing.push("opening sockets of other families");
    }
    if let (Confinement::Unavailable(why), Some(Sandbox::On)) = (&done, config.process.sandbox) {
        return Err(Unmet(why.clone()));
    }
    confinement::set(done);
    Ok(())
}

/// Whether the service manager listens at an abstract socket. A successor needs it, too.
fn reach_abstract_sockets() -> bool {
    use std::os::unix::ffi::OsStrExt;
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| socket.as_bytes().starts_with(b"@"))
}

/// Operators can raise the limit again with `prlimit --core`.
fn forbid_core_files() {
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    // Lowering a limit cannot fail.
    let _ = setrlimit(Resource::Core, none);
}
