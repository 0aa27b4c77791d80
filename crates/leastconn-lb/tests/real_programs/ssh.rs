//! SSH inside TLS: OpenSSH with `openssl s_client` as its ProxyCommand.

use std::{env, fs, os::unix::fs::PermissionsExt, process::Command};

use crate::{
    program::{self, Port, run, tool},
    service::{Front, Service, TCP_PROBES, are_installed},
    site::Certs,
};

/// The directory that sshd needs if it runs as root. Usually the service manager creates it.
struct SshdDirectory {
    is_new: bool,
}

impl SshdDirectory {
    const PATH: &str = "/run/sshd";

    fn create() -> Self {
        let is_new = fs::create_dir(Self::PATH).is_ok();
        Self { is_new }
    }
}

impl Drop for SshdDirectory {
    fn drop(&mut self) {
        if self.is_new {
            let _ = fs::remove_dir(Self::PATH);
        }
    }
}

#[tokio::test]
async fn ssh_runs_a_command_through_a_proxy_command() {
    let programs = [
        ("sshd", "openssh-server"),
        ("ssh", "openssh-client"),
        ("ssh-keygen", "openssh-client"),
    ];
    if !are_installed(&programs) {
        return;
    }
    let is_root = rustix::process::geteuid().is_root();
    let _directory = is_root.then(SshdDirectory::create);
    let certs = Certs::generate().await;
    let dir = certs.dir().join("ssh");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["host", "user"] {
        let mut keygen = tool("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
        run(keygen.arg(dir.join(name))).await.ok();
    }
    let port = Port::reserve();
    let mut server = Command::new(program::path("sshd"));
    server.args(["-D", "-e", "-f", "/dev/null", "-h"]);
    server.arg(dir.join("host"));
    let options = [
        format!("ListenAddress={}", port.address),
        format!("AuthorizedKeysFile={}", dir.join("user.pub").display()),
        "StrictModes=no".to_owned(),
        "PasswordAuthentication=no".to_owned(),
        "PidFile=none".to_owned(),
    ];
    for option in &options {
        server.arg(format!("-o{option}"));
    }
    let log = certs.dir().join("sshd.log");
    let server = Service::start(server, port.address, &log).await;
    let front = Front::start(certs, port.address, "", TCP_PROBES).await;

    let [ca, cert, key] = front.files();
    let proxy = format!(
        "ProxyCommand=openssl s_client -quiet -verify_return_error -connect 127.0.0.1:{} \
         -servername lb.com -cert {} -key {} -CAfile {}",
        front.port(),
        cert.display(),
        key.display(),
        ca.display()
    );
    let known = format!("UserKnownHostsFile={}", dir.join("known").display());
    let mut ssh = tool("ssh");
    ssh.args(["-F", "none", "-o", &proxy, "-o", &known, "-i"]);
    ssh.arg(dir.join("user"));
    ssh.args([
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        "BatchMode=yes",
    ]);
    ssh.args(["-o", "IdentitiesOnly=yes", "-o", "HostKeyAlias=server"]);
    let user = env::var("USER").unwrap_or_else(|_| "root".to_owned());
    ssh.args(["-l", if is_root { "root" } else { &user }, "lb.com"]);
    ssh.arg("head -c 1000000 /dev/zero | wc -c");
    let ended = run(&mut ssh).await;
    assert_eq!(
        ended.stdout.trim(),
        "1000000",
        "{ended:?}\n{}",
        server.output()
    );
    front.finish(1).await;
}
