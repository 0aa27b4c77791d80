//! Limits on the memory of the process: configuration, cgroup and resource limits.

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use leastconn_config::MemoryLimit;
use rustix::process::{Resource, getrlimit};

/// Percentage of a cgroup limit or resource limit above which connections are refused.
const USABLE_PERCENT: u64 = 80;

/// Without a limit, cgroup v1 reports a value above this.
const NO_LIMIT: u64 = 1 << 60;

/// Environment variable that limits the number of malloc arenas.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// The limit of the cgroup, read before the sandbox is entered.
static CGROUP_LIMIT: OnceLock<Option<u64>> = OnceLock::new();

/// A limit in bytes, and the kind of memory that counts against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) measure: Measure,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// `RLIMIT_AS`.
    AddressSpace,
    /// The memory limit of the cgroup, or the configured limit.
    Resident,
    /// `RLIMIT_DATA`.
    Data,
}

/// The limits that apply to this process.
pub(super) fn limits(configured: MemoryLimit) -> Vec<Limit> {
    let resident = match configured {
        MemoryLimit::Off => return Vec::new(),
        MemoryLimit::Bytes(bytes) => Some(bytes),
        MemoryLimit::Auto => CGROUP_LIMIT.get().copied().flatten().map(usable),
    };
    let rlimit = |resource| getrlimit(resource).current.map(usable);
    let all = [
        (Measure::Resident, resident),
        (Measure::AddressSpace, rlimit(Resource::As)),
        (Measure::Data, rlimit(Resource::Data)),
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

fn usable(bytes: u64) -> u64 {
    bytes / 100 * USABLE_PERCENT
}

/// Reads the limit of the cgroup. Must be called before the sandbox is entered.
pub fn read_cgroup() {
    let _ = CGROUP_LIMIT.get_or_init(|| {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        cgroup_limit(&groups, Path::new("/sys/fs/cgroup"))
    });
}

/// Returns the smallest limit of the cgroups in `groups` (the text of `/proc/self/cgroup`) and of
/// their ancestors.
fn cgroup_limit(groups: &str, root: &Path) -> Option<u64> {
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
            // Skip missing files: in a container, the container's own cgroup may be mounted as the
            // root.
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

/// If the address space is limited, executes the program again with one malloc arena for all
/// threads. Each arena reserves 64 MiB of address space, so two or three of them would use up a
/// limit of 300 MiB. The second setting maps each large buffer separately, so that freeing it
/// returns address space. malloc reads both settings from the environment, and only at the start.
/// Returns if there is no limit, if the program was already executed again, or on failure.
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
    // `exec` returns only on failure. The process then continues with the default arenas.
    let _ = command.exec();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smallest_cgroup_limit_applies() {
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
        let limit = |groups: &str| cgroup_limit(groups, root.path());
        assert_eq!(limit("0::/a/b\n"), Some(4096));
        assert_eq!(limit("0::/\n"), None);
        // In a container, `/proc/self/cgroup` may contain the path on the host.
        assert_eq!(limit("0::/a/elsewhere\n"), Some(4096));
        assert_eq!(limit("5:cpu,memory:/c\n0::/\n"), Some(2048));
        assert_eq!(limit("5:memory:/d\n"), None);
        assert_eq!(limit(""), None);
    }
}
