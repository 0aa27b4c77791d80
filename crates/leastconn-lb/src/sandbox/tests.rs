//! Tests of the sandbox. Each test confines a separate thread, because a thread cannot leave its
//! sandbox.

use std::{
    fs::{self, OpenOptions},
    io::{self, ErrorKind, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc,
    thread,
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    Confinement,
    allowed::{Allowed, EXECUTE},
    kernel,
    trail::Trail,
};

type Work = Box<dyn FnOnce() + Send>;

/// A confined thread.
struct ConfinedThread {
    work: mpsc::SyncSender<Work>,
    confinement: Confinement,
}

impl ConfinedThread {
    /// Confines a new thread. Returns `None` and prints a message if the kernel has no
    /// Landlock.
    fn with(allowed: Allowed, abstract_sockets: bool) -> Option<Self> {
        let (work, jobs) = mpsc::sync_channel::<Work>(1);
        let (tx, rx) = mpsc::sync_channel(1);
        thread::spawn(move || {
            tx.send(kernel::apply(&allowed, abstract_sockets)).unwrap();
            jobs.into_iter().for_each(|job| job());
        });
        let confinement = rx.recv().unwrap();
        if let Confinement::Unavailable(reason) = &confinement {
            eprintln!("SKIPPED: {reason}");
            return None;
        }
        Some(Self { work, confinement })
    }

    fn new(allow: impl FnOnce(&mut Allowed)) -> Option<Self> {
        let mut allowed = Allowed::default();
        allow(&mut allowed);
        Self::with(allowed, false)
    }

    /// Whether this kernel supports the restriction `name`; see `kernel::missing`. Prints a
    /// message if it does not.
    fn has_restriction(&self, name: &str) -> bool {
        let Confinement::Confined { missing, .. } = &self.confinement else {
            panic!("{:?}", self.confinement);
        };
        let is_missing = missing.contains(&name);
        if is_missing {
            eprintln!("SKIPPED: this kernel does not restrict {name}");
        }
        !is_missing
    }

    /// Runs `work` in the confined thread.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tx, rx) = mpsc::sync_channel(1);
        let job = Box::new(move || tx.send(work()).unwrap());
        self.work.send(job).unwrap();
        rx.recv().unwrap()
    }

    fn read(&self, path: impl Into<PathBuf>) -> Result<String, ErrorKind> {
        let path = path.into();
        self.run(move || fs::read_to_string(path).map_err(|error| error.kind()))
    }
}

const DENIED: ErrorKind = ErrorKind::PermissionDenied;

fn append(path: &Path, text: &str) -> io::Result<()> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file?.write_all(text.as_bytes())
}

/// Creates a temporary directory, and returns it with its canonical path.
fn directory() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

fn make(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

/// Replaces a file by renaming.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn point(link: &Path, to: &str) {
    let new = link.with_file_name("new-link");
    symlink(to, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[test]
fn replaced_file_is_readable_and_others_are_not() {
    let (_keep, dir) = directory();
    let file = make(&dir, "tls/server.crt", "old");
    let other = make(&dir, "other/secret", "secret");
    let Some(confined) = ConfinedThread::new(|allowed| allowed.reading(&file)) else {
        return;
    };
    assert_eq!(confined.read(&file).unwrap(), "old");
    replace(&file, "new");
    assert_eq!(confined.read(&file).unwrap(), "new");
    let sibling = make(&dir, "tls/another.crt", "another");
    assert_eq!(confined.read(sibling).unwrap(), "another");
    assert_eq!(confined.read(&other), Err(DENIED));
    // The confined thread cannot write, create or remove files in the readable directory.
    let (foreign, own) = (other.clone(), file.clone());
    confined.run(move || {
        for path in [&own, &foreign, &own.with_extension("made")] {
            assert_eq!(append(path, "x").unwrap_err().kind(), DENIED, "{path:?}");
        }
        assert_eq!(fs::remove_file(&own).unwrap_err().kind(), DENIED);
        let renamed = fs::rename(&own, own.with_extension("old"));
        assert_eq!(renamed.unwrap_err().kind(), DENIED);
        let listed = fs::read_dir(foreign.parent().unwrap());
        assert_eq!(listed.err().unwrap().kind(), DENIED);
    });
    // Other threads are not affected.
    assert_eq!(fs::read_to_string(other).unwrap(), "secret");
}

#[test]
fn changed_links_are_followed() {
    let (_keep, dir) = directory();
    // Kubernetes links `..data` to a versioned directory, certbot links single files, and a
    // link can point to a whole directory.
    make(&dir, "mount/..v1/tls.crt", "1");
    symlink("..v1", dir.join("mount/..data")).unwrap();
    symlink("..data/tls.crt", dir.join("mount/tls.crt")).unwrap();
    make(&dir, "archive/site/cert1.pem", "1");
    fs::create_dir_all(dir.join("live/site")).unwrap();
    let live = dir.join("live/site/cert.pem");
    symlink("../../archive/site/cert1.pem", &live).unwrap();
    make(&dir, "releases/v1/ca.crt", "1");
    symlink("releases/v1", dir.join("current")).unwrap();
    let secret = make(&dir, "elsewhere/v2/ca.crt", "secret");
    let files = [
        dir.join("mount/tls.crt"),
        live.clone(),
        dir.join("current/ca.crt"),
    ];
    let Some(confined) =
        ConfinedThread::new(|allowed| files.iter().for_each(|file| allowed.reading(file)))
    else {
        return;
    };
    for file in &files {
        assert_eq!(confined.read(file).unwrap(), "1", "{file:?}");
    }
    make(&dir, "mount/..v2/tls.crt", "2");
    point(&dir.join("mount/..data"), "..v2");
    make(&dir, "archive/site/cert2.pem", "2");
    point(&live, "../../archive/site/cert2.pem");
    make(&dir, "releases/v2/ca.crt", "2");
    point(&dir.join("current"), "releases/v2");
    for file in &files {
        assert_eq!(confined.read(file).unwrap(), "2", "{file:?}");
    }
    point(&dir.join("current"), "elsewhere/v2");
    assert_eq!(confined.read(&files[2]), Err(DENIED));
    assert_eq!(confined.read(secret), Err(DENIED));
}

#[test]
fn log_is_created_again_but_not_read_or_removed() {
    let (_keep, dir) = directory();
    let log = make(&dir, "log/access.log", "");
    let Some(confined) = ConfinedThread::new(|allowed| allowed.log(&log)) else {
        return;
    };
    let path = log.clone();
    confined.run(move || append(&path, "one\n").unwrap());
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    let path = log.clone();
    let restricts_truncation = confined.has_restriction("truncating files");
    confined.run(move || {
        append(&path, "two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap_err().kind(), DENIED);
        assert_eq!(fs::remove_file(&path).unwrap_err().kind(), DENIED);
        if restricts_truncation {
            let truncated = OpenOptions::new().write(true).truncate(true).open(&path);
            assert_eq!(truncated.unwrap_err().kind(), DENIED);
        }
    });
    assert_eq!(fs::read_to_string(&log).unwrap(), "two\n");
    assert_eq!(
        fs::read_to_string(log.with_extension("log.1")).unwrap(),
        "one\n"
    );
}

#[test]
fn log_to_a_pipe_allows_no_directory() {
    let trail = Trail::of(Path::new("/dev/stdout"));
    assert!(trail.through_proc, "{trail:?}");
    let Some(confined) = ConfinedThread::new(|allowed| {
        allowed.log(Path::new("/dev/stdout"));
        allowed.log(Path::new("/dev/null"));
    }) else {
        return;
    };
    confined.run(|| {
        append(Path::new("/dev/null"), "x").unwrap();
        let made = fs::write("/dev/shm-of-leastconn", "x");
        assert_eq!(made.unwrap_err().kind(), DENIED);
    });
}

#[test]
fn socket_is_created_only_in_its_directory() {
    let (_keep, dir) = directory();
    let socket = dir.join("run/leastconn.sock");
    fs::create_dir(dir.join("run")).unwrap();
    let Some(confined) = ConfinedThread::new(|allowed| allowed.socket(&socket)) else {
        return;
    };
    let other = dir.join("other.sock");
    let path = socket.clone();
    confined.run(move || {
        let directory = fs::File::open(path.parent().unwrap()).unwrap();
        directory.lock().unwrap();
        drop(UnixListener::bind(&path).unwrap());
        fs::remove_file(&path).unwrap();
        let _again = UnixListener::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        let bound = UnixListener::bind(other);
        assert_eq!(bound.unwrap_err().kind(), DENIED);
        assert_eq!(
            fs::write(path.with_extension("txt"), "")
                .unwrap_err()
                .kind(),
            DENIED
        );
    });
}

/// A configuration that names no file.
const PLAIN: &str = r#"
[[listener]]
name = "main"
bind = "127.0.0.1:0"
upstream = "web"
[[upstream]]
name = "web"
servers = ["10.0.0.1:80"]
[[client]]
name = "all"
match = { source = "0.0.0.0/0" }
allow = "web"
"#;

fn usual(dir: &Path) -> Allowed {
    let file = make(dir, "leastconn.toml", PLAIN);
    Allowed::by(&leastconn_config::load(&file).unwrap().config)
}

#[test]
fn only_this_program_can_be_executed() {
    let (_keep, dir) = directory();
    let Some(confined) = ConfinedThread::with(usual(&dir), false) else {
        return;
    };
    confined.run(|| {
        let this = std::env::current_exe().unwrap();
        let listed = Command::new(this).arg("--list").output().unwrap();
        assert!(listed.status.success(), "{listed:?}");
        let other = Command::new("/bin/sh").arg("-c").arg("exit 0").status();
        assert_eq!(other.unwrap_err().kind(), DENIED);
    });
}

#[test]
fn system_files_are_readable() {
    use std::net::ToSocketAddrs;
    let (_keep, dir) = directory();
    let Some(confined) = ConfinedThread::with(usual(&dir), false) else {
        return;
    };
    assert!(confined.read(dir.join("leastconn.toml")).is_ok());
    assert!(confined.read("/proc/self/status").is_ok());
    assert_eq!(confined.read("/proc/1/environ"), Err(DENIED));
    let cpus = confined.run(|| thread::available_parallelism().unwrap());
    assert_eq!(cpus, thread::available_parallelism().unwrap());
    let names = confined.run(|| "localhost:80".to_socket_addrs().unwrap().count());
    assert!(names > 0);
}

#[test]
fn root_reads_no_secrets_in_etc() {
    let (_keep, dir) = directory();
    let file = make(&dir, "leastconn.toml", PLAIN);
    let config = leastconn_config::load(&file).unwrap().config;
    let Some(confined) = ConfinedThread::with(Allowed::by_user(&config, true), false) else {
        return;
    };
    assert_eq!(confined.read("/etc/shadow"), Err(DENIED));
    let listed = confined.run(|| fs::read_dir("/etc").err().map(|error| error.kind()));
    assert_eq!(listed, Some(DENIED));
    assert!(confined.read("/etc/hosts").is_ok());
    use std::net::ToSocketAddrs;
    let names = confined.run(|| "localhost:80".to_socket_addrs().unwrap().count());
    assert!(names > 0);
}

#[test]
fn configuration_cannot_be_written() {
    let (_keep, dir) = directory();
    let Some(confined) = ConfinedThread::with(usual(&dir), false) else {
        return;
    };
    let file = dir.join("leastconn.toml");
    let path = file.clone();
    confined.run(move || {
        for path in [&path, &path.with_extension("other")] {
            assert_eq!(append(path, "x").unwrap_err().kind(), DENIED, "{path:?}");
        }
    });
    assert_eq!(fs::read_to_string(file).unwrap(), PLAIN);
}

#[test]
fn unneeded_socket_kinds_are_denied() {
    use rustix::net::{AddressFamily as Family, SocketType as Type, netlink, socket};
    thread::spawn(|| {
        super::sockets::restrict().unwrap();
        for (family, kind) in [
            (Family::INET, Type::STREAM),
            (Family::INET, Type::DGRAM),
            (Family::INET6, Type::STREAM),
            (Family::UNIX, Type::STREAM),
            (Family::UNIX, Type::DGRAM),
        ] {
            // Some machines have no IPv6.
            let opened = socket(family, kind, None);
            assert_ne!(opened.err(), Some(rustix::io::Errno::PERM), "{family:?}");
        }
        // Name resolution uses netlink for routing.
        let opened = socket(Family::NETLINK, Type::RAW, None);
        opened.unwrap();
        let opened = socket(Family::NETLINK, Type::DGRAM, Some(netlink::SOCK_DIAG));
        opened.unwrap();
        let denied = [
            socket(Family::PACKET, Type::RAW, None),
            socket(Family::PACKET, Type::DGRAM, None),
            socket(Family::INET, Type::RAW, Some(rustix::net::ipproto::ICMP)),
            socket(Family::INET6, Type::RAW, Some(rustix::net::ipproto::ICMPV6)),
            socket(Family::NETLINK, Type::RAW, Some(netlink::AUDIT)),
            socket(Family::VSOCK, Type::STREAM, None),
            socket(Family::from_raw(38), Type::SEQPACKET, None),
        ];
        for refused in denied {
            assert_eq!(refused.unwrap_err(), rustix::io::Errno::PERM);
        }
    })
    .join()
    .unwrap();
}

#[test]
fn root_directory_is_never_allowed() {
    let mut allowed = Allowed::default();
    for name in [
        "/leastconn.toml",
        "/",
        "/..",
        "relative/../../../../../../../../x",
    ] {
        allowed.reading(Path::new(name));
        allowed.log(Path::new(name));
        allowed.socket(Path::new(name));
    }
    for (path, _) in allowed.iter() {
        assert_ne!(path, Path::new("/"));
    }
}

/// A process that sleeps until it is killed.
fn sleeper() -> Child {
    Command::new("sleep").arg("60").spawn().unwrap()
}

fn kill(child: &mut Child) {
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn signals_reach_same_and_nested_sandboxes() {
    let mut outside = sleeper();
    let outside_pid = Pid::from_child(&outside);
    let programs = |allowed: &mut Allowed| {
        for path in ["/usr", "/bin", "/lib", "/lib64", "/etc"] {
            allowed.add(path.into(), EXECUTE);
        }
    };
    let Some(confined) = ConfinedThread::new(programs) else {
        kill(&mut outside);
        return;
    };
    if !confined.has_restriction("signalling other processes") {
        kill(&mut outside);
        return;
    }
    confined.run(move || {
        let refused = kill_process(outside_pid, Signal::KILL);
        assert_eq!(refused, Err(rustix::io::Errno::PERM));
        let mut inside = sleeper();
        kill(&mut inside);
        assert!(!inside.wait().unwrap().success());
        // Like a successor process, this thread has a second sandbox within the first.
        let nested = thread::spawn(move || {
            let mut allowed = Allowed::default();
            programs(&mut allowed);
            let result = kernel::apply(&allowed, false);
            assert!(matches!(result, Confinement::Confined { .. }), "{result:?}");
            sleeper()
        });
        let mut nested = nested.join().unwrap();
        kill_process(Pid::from_child(&nested), Signal::TERM).unwrap();
        assert!(!nested.wait().unwrap().success());
    });
    assert!(
        outside.try_wait().unwrap().is_none(),
        "the process outside was killed"
    );
    kill(&mut outside);
}

#[test]
fn abstract_sockets_need_the_service_managers_setting() {
    let name = format!("leastconn-sandbox-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    for allowed in [false, true] {
        let Some(confined) = ConfinedThread::with(Allowed::default(), allowed) else {
            return;
        };
        // The same version of Landlock introduced the restrictions on signals and on abstract
        // sockets.
        if !confined.has_restriction("signalling other processes") {
            return;
        }
        let address = address.clone();
        let connected = confined.run(move || UnixStream::connect_addr(&address).is_ok());
        assert_eq!(connected, allowed);
    }
}

#[test]
fn seventeenth_layer_is_inherited() {
    let (_keep, dir) = directory();
    let file = make(&dir, "tls/server.crt", "text");
    let secret = make(&dir, "other/secret", "secret");
    let named = file.clone();
    let Some(confined) = ConfinedThread::new(|allowed| allowed.reading(&file)) else {
        return;
    };
    let last = confined.run(move || {
        let again = || {
            let mut allowed = Allowed::default();
            allowed.reading(&named);
            kernel::apply(&allowed, false)
        };
        for _ in 2..=16 {
            assert!(matches!(again(), Confinement::Confined { .. }));
        }
        again()
    });
    assert_eq!(last, Confinement::Inherited);
    assert_eq!(confined.read(file).unwrap(), "text");
    assert_eq!(confined.read(secret), Err(DENIED));
}

#[test]
fn trail_has_places_and_siblings_of_links() {
    let (_keep, dir) = directory();
    make(&dir, "store/a/v1/file", "");
    symlink("store/a/v1", dir.join("current")).unwrap();
    symlink("current", dir.join("alias")).unwrap();
    symlink("alias/file", dir.join("name")).unwrap();
    assert_eq!(
        Trail::of(&dir.join("name")),
        Trail {
            places: vec![dir.clone(), dir.join("store/a/v1")],
            siblings: vec![dir.clone(), dir.join("store/a")],
            through_proc: false,
        }
    );
    // The directory of a missing file is also resolved.
    let missing = Trail::of(&dir.join("current/../v2/missing"));
    assert_eq!(missing.places, [dir.join("store/a/v2")]);
    // Resolving a path stops at a loop of links.
    symlink("circle", dir.join("circle")).unwrap();
    assert_eq!(
        Trail::of(&dir.join("circle/x/file")).places,
        [dir.join("circle/x")]
    );
}

#[test]
fn directory_of_the_loader_is_found() {
    let maps = "7f00-7f01 r-xp 00000000 08:01 1   /lib64/ld-linux-x86-64.so.2\n\
                7f02-7f03 rw-p 00000000 00:00 0   [stack]\n\
                7f04-7f05 r-xp 00000000 08:01 2   /opt/ldap/bin/lb\n";
    let found = super::allowed::loaders(maps);
    let expected: Vec<_> = Path::new("/lib64").canonicalize().into_iter().collect();
    assert_eq!(found, expected);
}
