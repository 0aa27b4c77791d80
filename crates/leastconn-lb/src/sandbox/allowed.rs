//! What a confined process may do where.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use landlock::{AccessFs, BitFlags, make_bitflags};
use rustix::process::geteuid;

use super::trail::Trail;
use leastconn_server::{
    config::{Access, Config},
    confinement::parent,
};

type Rights = BitFlags<AccessFs>;

const READ: Rights = make_bitflags!(AccessFs::{ReadFile | ReadDir});
pub(super) const EXECUTE: Rights = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
/// Files are made and appended to; old ones are moved away by others.
const LOG: Rights = make_bitflags!(AccessFs::{WriteFile | MakeReg});
/// A socket that a process has left behind is removed, with the directory locked, which
/// has to be opened for it.
const SOCKET: Rights = make_bitflags!(AccessFs::{MakeSock | RemoveFile | ReadDir});
const READ_FILE: Rights = make_bitflags!(AccessFs::{ReadFile});
const WRITE_FILE: Rights = make_bitflags!(AccessFs::{WriteFile});

/// Name resolution, the dynamic loader's cache. Whole, as its files are replaced by
/// renaming; what is secret in it, other users than root cannot read.
const ETC: &str = "/etc";

/// What root may read of it instead: to root nothing there is secret, and Landlock cannot
/// exclude single files.
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

/// What every process reads now and then, where it is there.
const SYSTEM: [&str; 13] = [
    // Libraries that the C library loads when it first needs them, to look up names or
    // to end a thread.
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/gnu/store",
    // How many CPUs there are for us.
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    // Where `/etc/resolv.conf` may lead to, from one day to the next.
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

/// Files in `/etc` that may be links to elsewhere.
const RESOLUTION: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// Directories, and a few files, with what is allowed beneath them.
#[derive(Debug, Default)]
pub(super) struct Allowed(BTreeMap<PathBuf, Rights>);

impl Allowed {
    /// What a process needs to run `config`.
    pub(super) fn by(config: &Config) -> Self {
        Self::by_user(config, geteuid().is_root())
    }

    /// The same, for root or for another user.
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
        // A reload may add the socket: where the service manager made room for it, it may.
        let runtime = env::var_os("RUNTIME_DIRECTORY").unwrap_or_default();
        for directory in env::split_paths(&runtime).filter(|path| path.is_absolute()) {
            allowed.socket(&directory.join("socket"));
        }
        allowed.program();
        allowed
    }

    /// Single files, found again only as long as nobody replaces them, and the directories
    /// elsewhere that links lead to.
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

    /// A file is read, and whatever takes its place.
    pub(super) fn reading(&mut self, path: &Path) {
        let trail = Trail::of(path);
        for directory in trail.places.into_iter().chain(trail.siblings) {
            self.add(directory, READ);
        }
        // One in the root directory has no place that could be allowed.
        if let Ok(file) = path.canonicalize()
            && parent(&file) == Path::new("/")
            && file.is_file()
        {
            self.add(file, READ_FILE);
        }
    }

    /// A log is appended to, and made again once it was renamed.
    pub(super) fn log(&mut self, path: &Path) {
        let trail = Trail::of(path);
        let exists = fs::metadata(path);
        // Pipes and terminals are not made again.
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

    /// A Unix socket is made at `path`, in place of one that was left behind.
    pub(super) fn socket(&mut self, path: &Path) {
        for directory in Trail::of(path).places {
            self.add(directory, SOCKET);
        }
    }

    /// This program is started anew, in whatever version is there by then.
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

/// The names of this program: the one that it was called by, and that of its file.
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

/// The directories of the dynamic loaders among these mappings, which are as in
/// `/proc/PID/maps`. The kernel executes a program's loader, not only the program.
pub(super) fn loaders(mappings: &str) -> Vec<PathBuf> {
    let files = mappings
        .lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])));
    let mut found: Vec<_> = files
        .filter(|file| {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            // glibc's, musl's (which is its C library under another name).
            name.starts_with("ld-") || name.starts_with("libc.musl-") || name == "libc.so"
        })
        .filter_map(|file| file.parent()?.canonicalize().ok())
        .filter(|directory| directory != Path::new("/"))
        .collect();
    found.sort();
    found.dedup();
    found
}
