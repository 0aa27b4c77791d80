//! Where a name leads: the directories that a file of that name may be looked for in,
//! now and after links were pointed elsewhere.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
};

/// As many as the kernel follows.
const MOST_LINKS: usize = 40;

/// The way from a name to a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trail {
    /// Where the name itself is, and where links lead that have it. Files are made and
    /// renamed here.
    pub(super) places: Vec<PathBuf>,
    /// Where the directories are that links on the way lead to. Their neighbours are
    /// what the links may lead to next.
    pub(super) siblings: Vec<PathBuf>,
    /// It leads through `/proc`, as `/dev/stdout` does: to something that is open, and
    /// has no place.
    pub(super) through_proc: bool,
}

impl Trail {
    /// From `path`, which need not exist. All directories are without links, and none is
    /// the root directory.
    pub(super) fn of(path: &Path) -> Self {
        let mut trail = Self::default();
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut left: VecDeque<OsString> = parts(&absolute).collect();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop_front() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(part);
            let target = fs::read_link(&next).ok().filter(|_| links < MOST_LINKS);
            if left.is_empty() {
                push(&mut trail.places, &at);
            }
            let Some(target) = target else {
                at = next;
                continue;
            };
            links += 1;
            trail.through_proc |= at.starts_with("/proc");
            // What links in the root directory lead to (`/lib`, `/home`) is the system's.
            if !left.is_empty() && at != Path::new("/") {
                let sibling = at.join(&target);
                let parent = sibling
                    .parent()
                    .and_then(|parent| parent.canonicalize().ok());
                if let Some(parent) = parent {
                    push(&mut trail.siblings, &parent);
                }
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for part in parts(&target).rev() {
                left.push_front(part);
            }
        }
        trail
    }
}

fn push(list: &mut Vec<PathBuf>, directory: &Path) {
    if directory != Path::new("/") && !list.iter().any(|known| known == directory) {
        list.push(directory.to_owned());
    }
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}
