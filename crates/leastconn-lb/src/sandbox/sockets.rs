//! A seccomp filter for the kinds of sockets that a confined process can open.
//!
//! Landlock only covers TCP and abstract UNIX sockets. With packet sockets, a process running as
//! root could read all of the machine's traffic, and kernel code for rarely used protocol families
//! has many bugs. The filter allows only the sockets that the balancer and name resolution use:
//! UNIX, IPv4 and IPv6 streams and datagrams, and netlink for routing and socket diagnosis. It
//! denies `io_uring`, which can open sockets without passing the filter.
//!
//! A successor process inherits the filter and adds its own.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

/// Obsolete socket type that receives all traffic. It is deprecated in `libc`, but the
/// kernel still supports it.
const SOCK_PACKET: i32 = 10;

/// Mask for the socket type. The same argument also contains the flags `SOCK_NONBLOCK` and
/// `SOCK_CLOEXEC`.
const TYPE: u64 = 0xf;

/// The flag in the number of a system call that selects the x32 ABI of x86-64
/// (`__X32_SYSCALL_BIT`).
const X32: libc::c_long = 0x4000_0000;

/// Applies the filter to this thread and to all threads started later.
///
/// # Errors
/// If the kernel has no seccomp, or the filter does not support this architecture.
pub(super) fn restrict() -> Result<(), String> {
    let arch = std::env::consts::ARCH;
    let arch = TargetArch::try_from(arch).map_err(|error| error.to_string())?;
    let program = filter(arch).map_err(|error| error.to_string())?;
    apply_filter(&program).map_err(|error| error.to_string())
}

fn filter(arch: TargetArch) -> Result<BpfProgram, BackendError> {
    let family = |op, value: i32| condition(0, op, value);
    let protocol = |op, value: i32| condition(2, op, value);
    let is_type = |value: i32| condition(1, SeccompCmpOp::MaskedEq(TYPE), value);
    use SeccompCmpOp::{Eq, Ne};
    let denied = vec![
        SeccompRule::new(vec![
            family(Ne, libc::AF_UNIX)?,
            family(Ne, libc::AF_INET)?,
            family(Ne, libc::AF_INET6)?,
            family(Ne, libc::AF_NETLINK)?,
        ])?,
        SeccompRule::new(vec![family(Eq, libc::AF_INET)?, is_type(libc::SOCK_RAW)?])?,
        SeccompRule::new(vec![family(Eq, libc::AF_INET6)?, is_type(libc::SOCK_RAW)?])?,
        SeccompRule::new(vec![family(Eq, libc::AF_INET)?, is_type(SOCK_PACKET)?])?,
        SeccompRule::new(vec![
            family(Eq, libc::AF_NETLINK)?,
            protocol(Ne, libc::NETLINK_ROUTE)?,
            protocol(Ne, libc::NETLINK_SOCK_DIAG)?,
        ])?,
    ];
    // An empty list of conditions denies the call in all cases.
    let mut rules = BTreeMap::from([
        (libc::SYS_socket, denied),
        (libc::SYS_io_uring_setup, Vec::new()),
    ]);
    if arch == TargetArch::x86_64 {
        // A process can make the same calls through the x32 ABI, which the balancer never uses.
        rules.insert(libc::SYS_socket | X32, Vec::new());
        rules.insert(libc::SYS_io_uring_setup | X32, Vec::new());
    }
    let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?.try_into()
}

fn condition(argument: u8, op: SeccompCmpOp, value: i32) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, Dword, op, value.unsigned_abs().into())
}
