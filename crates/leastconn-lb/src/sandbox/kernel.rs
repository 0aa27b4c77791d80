//! Applies the Landlock rules.

use landlock::{
    ABI, Access, AccessFs, LandlockStatus, PathBeneath, PathFd, RestrictSelfError,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    Scope,
};
use rustix::io::Errno;

use super::{Confinement, allowed::Allowed};

/// Version of the Landlock interface. The sandbox denies all rights of this version by
/// default. Rights of later versions stay unrestricted until they have been reviewed.
const RIGHTS: ABI = ABI::V5;

/// Confines this thread to `allowed`. Returns the result.
pub(super) fn apply(allowed: &Allowed, abstract_sockets: bool) -> Confinement {
    match restrict(allowed, abstract_sockets) {
        Ok(status) => confinement(&status),
        // The process already has sixteen layers, the maximum of the kernel.
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
        // Some paths exist only on other distributions. They are skipped.
        if let Ok(file) = PathFd::new(path) {
            // Adding a rule fails for files outside of a file system, such as anonymous
            // pipes, which are not restricted anyway.
            let _ = (&mut rules).add_rule(PathBeneath::new(file, rights));
        }
    }
    rules.restrict_self()
}

fn confinement(status: &RestrictionStatus) -> Confinement {
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
            "Landlock is disabled by a boot parameter of the kernel (`lsm=`)"
                .to_owned(),
        ),
        _ => Confinement::Unavailable(
            "no Landlock: the kernel is older than 5.13 or built without it, or a seccomp filter (systemd's, a container's) forbids it"
                .to_owned(),
        ),
    }
}

/// Restrictions that a kernel with this version of the Landlock interface lacks.
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
    fn missing_restrictions_of_old_kernels_are_listed() {
        assert_eq!(missing(ABI::V1).len(), 3);
        assert_eq!(
            missing(ABI::V4),
            ["commanding devices", "signalling other processes"]
        );
        assert_eq!(missing(ABI::V6), [""; 0]);
    }
}
