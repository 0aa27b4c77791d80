//! Keys of the file format that this version does not act on yet.
//!
//! Each is refused with a clear word rather than ignored: a limit or a check
//! that was written down and does nothing is worse than none. Values that ask
//! for nothing are accepted. The list is meant to become empty.

use super::duration;

/// A key, by its path, and the values of it that ask for nothing more than what
/// there is.
pub(crate) struct Planned {
    pub(crate) key: &'static str,
    pub(crate) accepted: &'static [&'static str],
}

/// Nothing at the moment.
pub(crate) const PLANNED: &[Planned] = &[];

// For what comes next.
#[allow(dead_code)]
const fn planned(key: &'static str, accepted: &'static [&'static str]) -> Planned {
    Planned { key, accepted }
}

/// The entry for a key, if it has one.
pub(crate) fn find(key: &str) -> Option<&'static Planned> {
    PLANNED.iter().find(|planned| planned.key == key)
}

impl Planned {
    /// Whether a value asks for nothing more than what there is.
    pub(crate) fn accepts(&self, value: &str) -> bool {
        self.accepted.iter().any(|accepted| {
            *accepted == value
                || duration::parse(accepted)
                    .is_ok_and(|accepted| duration::parse(value) == Ok(accepted))
        })
    }

    /// What to do about the key.
    pub(crate) fn advice(&self) -> String {
        match self.accepted {
            [] => "remove it".to_owned(),
            accepted => {
                let list: Vec<_> = accepted.iter().map(|value| format!("{value:?}")).collect();
                format!("remove it, or set it to {}", list.join(" or "))
            }
        }
    }
}
