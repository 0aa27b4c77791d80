//! The process confines itself with Landlock after it has read its configuration. From then
//! on it can only read and write the files that the configuration names and that system
//! libraries need, even as root. An attacker who takes over the process cannot read other
//! files, write elsewhere, or signal other processes.
//!
//! **When.** `landlock_restrict_self` applies to the calling thread and to threads that it
//! starts later. So the process calls it while it has only one thread: after reading the
//! configuration, but before resolving host names, opening logs, and starting the runtime,
//! the admin API and the log writer. Linux 7.0 can confine running threads, but this order
//! works on all kernels.
//!
//! **Allowed paths** are *directories*, not files. A rule for a file applies only to the file
//! that exists when the rule is added, but files such as certificates, `/etc/resolv.conf` and
//! this program are replaced by renaming. If the path to a file contains a symbolic link, the
//! directory that contains the link's target is allowed, too (`sandbox/trail.rs`). The link can
//! then be changed to another target there, as Kubernetes does. There are two limits:
//! - The root directory is never allowed, because that would allow everything. Files directly
//!   in it are allowed one by one, and can no longer be read once they have been replaced.
//! - A directory that has itself been replaced by renaming is no longer allowed.
//!
//! The process can read:
//! - the directories of the configuration and of all files that it names
//! - `/etc` and `/usr`: name resolution reads files and loads libraries there at any time, and
//!   package managers and DHCP clients replace these files. Root could read the secrets in
//!   `/etc`, so a process running as root can read only certain files there.
//! - `/proc`: a rule for `/proc/self` would be lost when the kernel drops its inode, and would
//!   not apply to a successor process. Landlock forbids tracing unconfined processes, so their
//!   environment, memory and open files in `/proc` stay unreadable.
//!
//! The process can write:
//! - the directory of the access log: create and write files, but not remove them
//! - the directory of the admin socket: create sockets, remove files, and open the directory to
//!   lock it
//! - the directory that the service manager created (`RUNTIME_DIRECTORY`)
//!
//! The process can execute files in the directories of this program and of the dynamic loader,
//! for an upgrade. The new program inherits all restrictions.
//!
//! **Sockets** of unused families and types are forbidden by a seccomp filter
//! (`sandbox/sockets.rs`).
//!
//! **Not restricted** are:
//! - TCP and UDP, because a reload may add listeners and servers with other ports
//! - connecting to UNIX sockets with a path, because name services and service managers use
//!   them; kernels before 7.1 cannot forbid it
//! - operations that Landlock does not cover, such as reading the size and date of any file
//!
//! **Signals and abstract sockets** are limited to processes in the same or a nested
//! sandbox, which includes a successor. If the service manager listens at an abstract
//! socket (`NOTIFY_SOCKET=@…`), abstract sockets are not restricted.
//!
//! **Core files** are disabled, because they would contain private keys. The process stays
//! traceable by its own user (`PR_SET_DUMPABLE`): otherwise `/proc/PID` would belong to root,
//! and operators and monitoring could not count the open files of the process. That user can
//! read the key files anyway.
//!
//! **Upgrades.** A successor starts within this sandbox and adds its own layer. The kernel
//! allows sixteen layers. The seventeenth process in a row cannot add a layer (`E2BIG`), and
//! continues with the sixteen layers that it has inherited.
//!
//! **Without Landlock** in the kernel, the process logs a warning, shows it in the status, and
//! runs with the seccomp filter only. With `sandbox = "on"` in the configuration it does not start.

mod allowed;
mod kernel;
mod sockets;
#[cfg(test)]
mod tests;
mod trail;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use allowed::Allowed;
use leastconn_config::{
    Config, Sandbox,
    confinement::{self, Confinement},
};

/// `sandbox = "on"` is set, but no sandbox is available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`sandbox = \"on\"` in `[process]` is not possible: {0}; remove the key to start without a sandbox in this case"
)]
pub struct Unmet(String);

/// Confines this thread, and all threads started later, to what `config` needs. Call it
/// before starting threads.
///
/// # Errors
/// With `sandbox = "on"`, if the kernel has no Landlock or no seccomp.
pub fn confine(config: &Config) -> Result<(), Unmet> {
    if config.process.sandbox == Some(Sandbox::Off) {
        return Ok(());
    }
    forbid_core_files();
    let mut done = kernel::apply(&Allowed::by(config), reach_abstract_sockets());
    if let Err(error) = sockets::restrict() {
        if config.process.sandbox == Some(Sandbox::On) {
            return Err(Unmet(format!("no seccomp filter: {error}")));
        }
        if let Confinement::Confined { missing, .. } = &mut done {
            missing.push("opening sockets of other families");
        }
    }
    if let (Confinement::Unavailable(why), Some(Sandbox::On)) = (&done, config.process.sandbox) {
        return Err(Unmet(why.clone()));
    }
    confinement::set(done);
    Ok(())
}

/// Returns whether the service manager listens at an abstract socket. If so, a successor must also
/// be able to reach it.
fn reach_abstract_sockets() -> bool {
    use std::os::unix::ffi::OsStrExt;
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| socket.as_bytes().starts_with(b"@"))
}

/// Disables core files. Operators can raise the limit again with `prlimit --core`.
fn forbid_core_files() {
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    // Lowering a limit cannot fail.
    let _ = setrlimit(Resource::Core, none);
}
