//! What the kernel is told.

use landlock::{
    ABI, Access, AccessFs, LandlockStatus, PathBeneath, PathFd, RestrictSelfError,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};
use rustix::io::Errno;

use super::{Confinement, allowed::Allowed};

/// The newest rights that are denied where they are not allowed. What later kernels
/// can deny beyond is not, until somebody has thought about it.
const RIGHTS: ABI = ABI::V5;

/// Confines this thread to what is `allowed`. Returns how far that went.
pub(super) fn apply(allowed: &Allowed, abstract_sockets: bool) -> Confinement {
    match restrict(allowed, abstract_sockets) {
        Ok(status) => judge(&status),
        // There are sixteen around this process already.
        Err(RulesetError::RestrictSelf(RestrictSelfError::RestrictSelfCall { source, .. }))
            if source.raw_os_error() == Some(Errno::TOOBIG.raw_os_error()) =>
        {
            Confinement::Inherited
        }
        Err(error) => Confinement::Unavailable(error.to_string()),
    }
}

fn restrict(allowed: &Allowed, abstract_sockets: bool) -> Result<RestrictionStatus, RulesetError> {
    let mut scope = Scope::from_all(ABI::V6);
    if abstract_sockets {
        scope.remove(Scope::AbstractUnixSocket);
    }
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(RIGHTS))?
        .scope(scope)?
        .create()?;
    for (path, rights) in allowed.iter() {
        // Most of what is missing is some other system's.
        if let Ok(file) = PathFd::new(path) {
            // Fails for what is in no file system, such as a pipe without a name, which
            // is not denied either.
            let _ = (&mut rules).add_rule(PathBeneath::new(file, rights));
        }
    }
    rules.restrict_self()
}

fn judge(status: &RestrictionStatus) -> Confinement {
    match (&status.ruleset, &status.landlock) {
        (
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
            LandlockStatus::Available {
                effective_abi,
                kernel_abi,
            },
        ) => Confinement::Confined {
            abi: kernel_abi.unwrap_or(*effective_abi as i32),
            missing: missing(*effective_abi),
        },
        (_, LandlockStatus::NotEnabled) => Confinement::Unavailable(
            "Landlock is in this kernel, but switched off (`lsm=` among its boot parameters)"
                .to_owned(),
        ),
        _ => Confinement::Unavailable(
            "this kernel has no Landlock (Linux has since 5.13), or a filter of system calls (systemd's, a container's) forbids it"
                .to_owned(),
        ),
    }
}

/// What a kernel of this interface cannot keep a process from.
fn missing(abi: ABI) -> Vec<&'static str> {
    [
        (ABI::V3, "truncating files"),
        (ABI::V5, "commanding devices"),
        (ABI::V6, "signalling other processes"),
    ]
    .into_iter()
    .filter_map(|(since, what)| (abi < since).then_some(what))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_said_to_lack_what_it_lacks() {
        assert_eq!(missing(ABI::V1).len(), 3);
        assert_eq!(
            missing(ABI::V4),
            ["commanding devices", "signalling other processes"]
        );
        assert_eq!(missing(ABI::V6), [""; 0]);
    }
}
