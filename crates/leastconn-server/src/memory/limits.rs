//! What limits the memory of the process.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use rustix::process::{Resource, getrlimit};

use crate::config::MemoryLimit;

/// What is used of what there is, in percent, before connections are refused.
const PART: u64 = 80;

/// cgroup v1 says so where there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// How many areas malloc divides its memory into.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Read before the sandbox is closed.
static CGROUP: OnceLock<Option<u64>> = OnceLock::new();

/// A limit, and what counts against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) measure: Measure,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// `RLIMIT_AS`
    AddressSpace,
    /// Of the cgroup, and what is configured.
    Resident,
    /// `RLIMIT_DATA`
    Data,
}

/// The limits that hold.
pub(super) fn limits(configured: MemoryLimit) -> Vec<Limit> {
    let resident = match configured {
        MemoryLimit::Off => return Vec::new(),
        MemoryLimit::Bytes(bytes) => Some(bytes),
        MemoryLimit::Auto => CGROUP.get().copied().flatten().map(part),
    };
    let of = |resource| getrlimit(resource).current.map(part);
    let all = [
        (Measure::Resident, resident),
        (Measure::AddressSpace, of(Resource::As)),
        (Measure::Data, of(Resource::Data)),
    ];
    let all = all.into_iter();
    all.filter_map(|(measure, bytes)| {
        Some(Limit {
            measure,
            bytes: bytes?,
        })
    })
    .collect()
}

fn part(bytes: u64) -> u64 {
    bytes / 100 * PART
}

/// Reads the limit of the cgroup, before the process is confined.
pub fn read_cgroup() {
    let _ = CGROUP.get_or_init(|| {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        cgroup(&groups, Path::new("/sys/fs/cgroup"))
    });
}

/// The smallest limit of the groups that `groups` names (`/proc/self/cgroup`) and of
/// those above them.
fn cgroup(groups: &str, root: &Path) -> Option<u64> {
    let files = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            Some((root.to_owned(), path, "memory.max"))
        } else {
            let is_memory = controllers.split(',').any(|name| name == "memory");
            is_memory.then(|| (root.join("memory"), path, "memory.limit_in_bytes"))
        }
    });
    files
        .flat_map(|(root, path, file)| {
            let group = root.join(path);
            // In a container, its own group may be mounted as the root.
            let all = group
                .ancestors()
                .map(Path::to_owned)
                .collect::<Vec<PathBuf>>();
            all.into_iter()
                .take_while(move |group| group.starts_with(&root))
                .filter_map(move |group| fs::read_to_string(group.join(file)).ok())
        })
        .filter_map(|limit| limit.trim().parse::<u64>().ok())
        .filter(|&limit| limit < NO_LIMIT)
        .min()
}

/// Where the address space is limited, executes the program anew with one malloc arena
/// for all threads: each arena reserves 64 MiB of address space, and two or three of them
/// would use up a limit of 300 MiB. Large buffers are then mapped one by one, so that
/// freeing them returns address space. malloc reads both from the environment at the start
/// only. Returns if there is nothing to do, or it fails.
pub fn restart_with_one_arena() {
    if getrlimit(Resource::As).current.is_none() || env::var_os(ARENAS).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut args = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command
        .args(args)
        .env(ARENAS, "1")
        .env("MALLOC_MMAP_THRESHOLD_", "65536");
    // It returns only if it fails, and then the process goes on as it is.
    let _ = command.exec();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_limit_above_the_process_holds() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("a/memory.max", "4096\n");
        write("a/b/memory.max", "max\n");
        write("memory/c/memory.limit_in_bytes", "2048\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let limit = |groups: &str| cgroup(groups, root.path());
        assert_eq!(limit("0::/a/b\n"), Some(4096));
        assert_eq!(limit("0::/\n"), None);
        // As in a container, whose path is that of the host.
        assert_eq!(limit("0::/a/elsewhere\n"), Some(4096));
        assert_eq!(limit("5:cpu,memory:/c\n0::/\n"), Some(2048));
        assert_eq!(limit("5:memory:/d\n"), None);
        assert_eq!(limit(""), None);
    }
}
