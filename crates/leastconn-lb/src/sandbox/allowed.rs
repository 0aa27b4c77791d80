//! Paths that a confined process may use, with their access rights.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use landlock::{AccessFs, BitFlags, make_bitflags};
use rustix::process::geteuid;

use super::trail::Trail;
use leastconn_config::{Access, Config, confinement::parent};

type Rights = BitFlags<AccessFs>;

const READ: Rights = make_bitflags!(AccessFs::{ReadFile | ReadDir});
pub(super) const EXECUTE: Rights = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
/// Create log files and append to them. Log rotation renames the files from outside the sandbox.
const LOG: Rights = make_bitflags!(AccessFs::{WriteFile | MakeReg});
/// Create sockets, remove stale ones, and open the directory to lock it.
const SOCKET: Rights = make_bitflags!(AccessFs::{MakeSock | RemoveFile | ReadDir});
const READ_FILE: Rights = make_bitflags!(AccessFs::{ReadFile});
const WRITE_FILE: Rights = make_bitflags!(AccessFs::{WriteFile});

/// Contains the files for name resolution and the dynamic loader's cache. A process that does not
/// run as root can read the whole directory: these files are replaced by renaming, and file
/// permissions protect the secrets.
const ETC: &str = "/etc";

/// Files in `/etc` that a process running as root may read. All of `/etc` would include secrets
/// that root can read, and Landlock cannot exclude individual files in an allowed directory.
const ETC_OF_ROOT: [&str; 16] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/networks",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/passwd",
    "/etc/group",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
];

/// Files that any process may need to read, if they exist.
const SYSTEM: [&str; 13] = [
    // Libraries that the C library loads late, for name resolution and thread exit.
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    // For the number of available CPUs.
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    // Possible targets of `/etc/resolv.conf`.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
];

const DEVICES: [(&str, Rights); 3] = [
    (
        "/dev/null",
        make_bitflags!(AccessFs::{ReadFile | WriteFile}),
    ),
    ("/dev/urandom", READ_FILE),
    ("/dev/random", READ_FILE),
];

/// Resolver files that may be symbolic links.
const RESOLUTION: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// Allowed directories and files. The rights of a directory also apply to everything below
/// it.
#[derive(Debug, Default)]
pub(super) struct Allowed(BTreeMap<PathBuf, Rights>);

impl Allowed {
    /// Returns all paths that a process with this configuration needs.
    pub(super) fn by(config: &Config) -> Self {
        Self::by_user(config, geteuid().is_root())
    }

    /// Like [`by`](Self::by), for root or for any other user.
    pub(super) fn by_user(config: &Config, is_root: bool) -> Self {
        let mut allowed = Self::default();
        for path in SYSTEM {
            allowed.add(PathBuf::from(path), READ);
        }
        if is_root {
            allowed.etc_of_root();
        } else {
            allowed.add(PathBuf::from(ETC), READ);
            for path in RESOLUTION {
                allowed.reading(Path::new(path));
            }
        }
        for (path, rights) in DEVICES {
            allowed.add(PathBuf::from(path), rights);
        }
        for path in config.files() {
            allowed.reading(&path);
        }
        if let Access::File(path) = &config.log.access {
            allowed.log(path);
        }
        if let Some(socket) = config
            .admin
            .as_ref()
            .and_then(|admin| admin.socket.as_ref())
        {
            allowed.socket(socket);
        }
        for path in config
            .listeners
            .iter()
            .flat_map(|listener| &listener.unix_binds)
        {
            allowed.socket(path);
        }
        // A reload may add a socket in the directory that the service manager created.
        let runtime = env::var_os("RUNTIME_DIRECTORY").unwrap_or_default();
        for directory in env::split_paths(&runtime).filter(|path| path.is_absolute()) {
            allowed.socket(&directory.join("socket"));
        }
        allowed.program();
        allowed
    }

    /// Allows individual files in `/etc`. If one of them is a symbolic link to a file outside of
    /// `/etc`, also allows the directory of that file. Once a file in `/etc` has been replaced, it
    /// can no longer be read.
    fn etc_of_root(&mut self) {
        for path in ETC_OF_ROOT.map(Path::new) {
            let trail = Trail::of(path);
            let elsewhere = trail.places.into_iter().chain(trail.siblings);
            for directory in elsewhere.filter(|directory| !directory.starts_with(ETC)) {
                self.add(directory, READ);
            }
            if let Ok(found) = path.canonicalize()
                && found.starts_with(ETC)
            {
                let rights = if found.is_dir() { READ } else { READ_FILE };
                self.add(found, rights);
            }
        }
    }

    /// Allows reading a file and its replacements.
    pub(super) fn reading(&mut self, path: &Path) {
        let trail = Trail::of(path);
        for directory in trail.places.into_iter().chain(trail.siblings) {
            self.add(directory, READ);
        }
        // The parent directory is normally allowed. For a file directly in `/` that would
        // allow everything, so allow only the file.
        if let Ok(file) = path.canonicalize()
            && parent(&file) == Path::new("/")
            && file.is_file()
        {
            self.add(file, READ_FILE);
        }
    }

    /// Allows appending to a log, and creating it again after rotation.
    pub(super) fn log(&mut self, path: &Path) {
        let trail = Trail::of(path);
        let exists = fs::metadata(path);
        // Pipes and terminals are not rotated, so allow only the file itself.
        if trail.through_proc || exists.is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            self.add(path.to_owned(), WRITE_FILE);
            return;
        }
        for directory in trail.places {
            self.add(directory, LOG);
        }
        if let Ok(file) = path.canonicalize()
            && parent(&file) == Path::new("/")
            && file.is_file()
        {
            self.add(file, WRITE_FILE);
        }
    }

    /// Allows creating a UNIX socket at `path`, and replacing a stale one.
    pub(super) fn socket(&mut self, path: &Path) {
        for directory in Trail::of(path).places {
            self.add(directory, SOCKET);
        }
    }

    /// Allows executing this program, and any version that replaces it.
    fn program(&mut self) {
        for path in programs() {
            let trail = Trail::of(&path);
            for directory in trail.places.into_iter().chain(trail.siblings) {
                self.add(directory, EXECUTE);
            }
            if let Ok(file) = path.canonicalize()
                && parent(&file) == Path::new("/")
            {
                self.add(file, make_bitflags!(AccessFs::{ReadFile | Execute}));
            }
        }
        for directory in loaders(&fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
            self.add(directory, EXECUTE);
        }
    }

    pub(super) fn add(&mut self, path: PathBuf, rights: Rights) {
        *self.0.entry(path).or_default() |= rights;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, Rights)> {
        self.0.iter().map(|(path, rights)| (&**path, *rights))
    }
}

/// Returns two paths of this program: the path by which it was started, and the path of the
/// running executable.
fn programs() -> impl Iterator<Item = PathBuf> {
    let called = env::args_os().next().map(PathBuf::from);
    let called = called.and_then(|name| match name.components().count() {
        1 if !name.is_absolute() => {
            let path = env::var_os("PATH")?;
            env::split_paths(&path)
                .map(|directory| directory.join(&name))
                .find(|file| file.is_file())
        }
        _ => Some(name),
    });
    called.into_iter().chain(env::current_exe().ok())
}

/// Returns the directories of the dynamic loaders in `mappings`, which has the format of
/// `/proc/PID/maps`. To start a program, the kernel also executes its loader.
pub(super) fn loaders(mappings: &str) -> Vec<PathBuf> {
    let files = mappings
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let mut found: Vec<_> = files
        .filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // The loaders of glibc and musl. musl's loader is its C library.
            name.starts_with("ld-") || name.starts_with("libc.musl-") || name == "libc.so"
        })
        .filter_map(|file| file.parent()?.canonicalize().ok())
        .filter(|directory| directory != Path::new("/"))
        .collect();
    found.sort();
    found.dedup();
    found
}
