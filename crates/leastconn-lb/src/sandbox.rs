//! The process confines itself once it has read its configuration, by Landlock: it may
//! read and write what that names and what the system's libraries need, and nothing
//! else, whoever it runs as. Somebody who gets hold of it finds no other files to read,
//! nowhere to write and no other process to signal.
//!
//! **When.** `landlock_restrict_self` holds for the thread that calls it and those that
//! it starts later. So it is called when there is no other: after the configuration was
//! read, and before host names are looked up, logs opened, and the runtime, the admin
//! side and the log's writer started. Linux 7.0 can confine threads that run already;
//! with this order nothing is left for it to do, and the order holds on all kernels.
//!
//! **What is allowed** is *directories*, never files by themselves: a rule sticks to the
//! file that was there, and files are replaced by renaming. Certificates are renewed so,
//! and so are `/etc/resolv.conf` and this program. Where a link is on the way to a file,
//! the directory that it leads to is allowed too (`sandbox/trail.rs`), so that links may be
//! pointed elsewhere, as Kubernetes does it. The root directory is never allowed: that
//! would be everything. What lies in it is allowed file by file, and not found again
//! once it was replaced. Nor is a directory that was itself replaced by renaming: its
//! parent would have to be allowed, with all else that is there.
//! - Reading: the directories of the configuration and of every file that it names;
//!   `/etc` and `/usr` whole, since name resolution reads this file here and loads that
//!   library there, late, and package managers and DHCP clients replace both; for root,
//!   which could read the secrets in it, only single files of `/etc`; `/proc`,
//!   since a rule for `/proc/self` alone is lost when the kernel forgets that it had
//!   looked it up, and is of no use to the next process of an upgrade. What is secret in
//!   it about other processes (environment, memory, open files) stays closed: Landlock
//!   forbids tracing those that are not confined as well.
//! - Writing: the directory of the access log (files are made and written, not removed),
//!   and of the admin socket (sockets are made; files are removed, and listed: it is locked
//!   meanwhile), as well as the one that the service manager made for it
//!   (`RUNTIME_DIRECTORY`).
//! - Executing: the directory of this program and that of the dynamic loader, so that an
//!   upgrade can start the file that took this one's place. It inherits everything that
//!   is forbidden here.
//!
//! **Sockets** of families and types that the balancer has no use for cannot be opened,
//! by a seccomp filter (`sandbox/sockets.rs`).
//!
//! **What is not restricted**: TCP and UDP, since a reload may add listeners and servers
//! with other ports; connecting to Unix sockets with a path, which name services and
//! service managers have (kernels before 7.1 could not forbid it); and whatever Landlock
//! does not look at, such as the size and date of any file.
//!
//! **Signals and abstract sockets**: only to processes that are confined with this one or
//! below it, which the next process of an upgrade is. Where the service manager listens
//! at an abstract socket (`NOTIFY_SOCKET=@…`), those are left alone.
//!
//! **No core files**, as keys are in memory. The process stays traceable by its own user
//! (`PR_SET_DUMPABLE`): without that, `/proc/PID` belongs to root, and operators and
//! monitoring cannot count its files any more; and whoever is that user can read the key
//! files themselves.
//!
//! **Upgrades.** The next process starts inside this one's walls and puts its own within
//! them; the kernel stands for sixteen layers. The seventeenth process in a row cannot
//! add any (`E2BIG`), and has no need to: it goes on with those that it was born with.
//!
//! **Where it cannot be done.** A kernel without Landlock is no reason not to serve: it
//! is warned of, and shown by the status, unless `sandbox = "on"` is written in the file.
//! Who asks for it does not get a process without.

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

/// It was asked for, and is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`sandbox = \"on\"` in `[process]` cannot be met: {0}; without the key, the process goes on unconfined where it must"
)]
pub struct Unmet(String);

/// Confines this thread, and all that are started from here on, to what `config` needs.
/// To be called before there are others.
///
/// # Errors
/// If the configuration insists on it, and the kernel cannot.
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
    // Only the first time, as everything of a process that there is once.
    confinement::set(done);
    Ok(())
}

/// The next process of an upgrade tells its manager of itself as this one did.
fn reach_abstract_sockets() -> bool {
    use std::os::unix::ffi::OsStrExt;
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| socket.as_bytes().starts_with(b"@"))
}

/// The limit can be raised again from outside (`prlimit --core`).
fn forbid_core_files() {
    let none = Rlimit {
        current: Some(0),
        ..getrlimit(Resource::Core)
    };
    // Lowering is always allowed.
    let _ = setrlimit(Resource::Core, none);
}
