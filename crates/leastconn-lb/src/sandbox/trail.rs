//! Finds the directories that may contain the file at a path, now and after symbolic links have
//! been changed.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf},
};

/// Maximum number of symbolic links in a path. The kernel has the same limit.
const MOST_LINKS: usize = 40;

/// Directories on the way from a path to its file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Trail {
    /// Directories that contain the last component, at the path itself and at the targets of
    /// links. Files are created and renamed here.
    pub(super) places: Vec<PathBuf>,
    /// For each link to a directory on the way to the file: the parent of that directory. The link
    /// may later point to another directory in this parent.
    pub(super) siblings: Vec<PathBuf>,
    /// Whether the path leads through `/proc`, as `/dev/stdout` does. The file may then be a
    /// pipe or a socket, which is in no directory.
    pub(super) through_proc: bool,
}

impl Trail {
    /// Resolves `path`, which need not exist. The resulting directories are canonical, and
    /// never the root directory.
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
            // Links in the root directory (`/lib`, `/home`) are assumed never to change.
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
