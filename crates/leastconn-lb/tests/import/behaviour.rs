//! The same clients reach the same servers through the source program and through the balancer
//! with the imported configuration.

mod stages;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::{Child, Command, Stdio},
};

use leastconn_testkit::{
    Balancer, Cert, DEADLINE, Port, TempDir, TestCa, TlsClient, Upstream, client, eventually,
    find_program,
};
use tokio::{io::AsyncWriteExt, net::TcpSocket};

use super::{LB, run, text, write_pem};

/// The source program. Killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Clients with certificates, a CA, three servers and two ports.
struct Site {
    dir: TempDir,
    ca: TestCa,
    tls: Vec<(&'static str, TlsClient)>,
    alice: Cert,
    servers: Vec<Upstream>,
    ports: [Port; 2],
    /// What clients of the second port send first. Each client connects once for each text.
    headers: Vec<&'static str>,
}

impl Site {
    async fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let ca = TestCa::new("import test CA");
        let server = ca.write_set(&dir, &["db.example.com"]);
        write_pem(&server, dir.path(), "server");
        let revoked = ca.leaf("alice.example.com").build();
        ca.write_crl(&dir, &[&revoked]);
        let leaf = |name: &str| ca.leaf(name).build();
        let alice = leaf("alice.example.com");
        let clients = [
            ("alice", alice.clone()),
            ("bob", leaf("bob.example.com")),
            (
                "carol of staff",
                ca.leaf("carol.example.com").ou("staff").build(),
            ),
            ("mallory", leaf("mallory.example.com")),
            ("a longer name", leaf("alice.example.com.example.org")),
            ("revoked", revoked),
            (
                "another CA",
                TestCa::new("other").leaf("alice.example.com").build(),
            ),
        ];
        let mut tls: Vec<_> = clients
            .into_iter()
            .map(|(name, cert)| (name, TlsClient::new(&ca, Some(&cert))))
            .collect();
        tls.push(("no certificate", TlsClient::new(&ca, None)));
        let mut servers = Vec::new();
        for name in ["web1", "web2", "web3"] {
            servers.push(Upstream::named(name).await);
        }
        Self {
            dir,
            ca,
            tls,
            alice,
            servers,
            ports: [Port::reserve(), Port::reserve()],
            headers: vec![""],
        }
    }

    /// Replaces `PORT1` and `PORT2` (listeners), and `WEB1` to `WEB3` (servers).
    fn write(&self, name: &str, source: &str) {
        let mut text = source.to_owned();
        for (number, port) in self.ports.iter().enumerate() {
            text = text.replace(&format!("PORT{}", number + 1), &port.address.to_string());
        }
        for (number, server) in self.servers.iter().enumerate() {
            text = text.replace(&format!("WEB{}", number + 1), &server.addr().to_string());
        }
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    /// Connects with each client.
    async fn reached(&self) -> Reached {
        let mut all = Vec::new();
        for (name, client) in &self.tls {
            for sni in ["localhost", "db.example.com"] {
                let reached = match client.connect_sni(self.ports[0].address, sni).await {
                    Ok(mut stream) => client::read_line(&mut stream).await.ok(),
                    Err(_) => None,
                };
                all.push((format!("{name} to {sni}"), reached));
            }
        }
        for header in &self.headers {
            for last in 1..=4 {
                let source = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
                let reached = self.reached_from(source, header).await;
                let words: Vec<_> = header.split(' ').skip(2).take(1).collect();
                let client = format!("from 127.0.0.{last} {}", words.join(" "));
                all.push((client.trim_end().to_owned(), reached));
            }
        }
        all
    }

    /// Connects to the second port.
    async fn reached_from(&self, source: SocketAddr, header: &str) -> Option<String> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(source).unwrap();
        let mut stream = socket.connect(self.ports[1].address).await.ok()?;
        stream.write_all(header.as_bytes()).await.ok()?;
        client::read_line(&mut stream).await.ok()
    }

    fn start(&self, program: &Path, args: &[&str]) -> Program {
        let log = fs::File::create(self.dir.path().join("program.log")).unwrap();
        let child = Command::new(program)
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Program(child)
    }

    /// Waits until both ports accept connections.
    async fn listening(&self) {
        for port in &self.ports {
            let up = eventually(DEADLINE, || async {
                let connected = tokio::net::TcpStream::connect(port.address).await;
                connected.map(drop).map_err(|error| error.to_string())
            });
            if let Err(error) = up.await {
                let log = fs::read_to_string(self.dir.path().join("program.log")).unwrap();
                panic!("the source program does not start: {error}\n{log}");
            }
        }
    }

    /// Compares the source program with the balancer.
    async fn compare(&self, program: &str, file: &str, args: &[&str]) -> Reached {
        let path = find_program(program)
            .unwrap_or_else(|| panic!("`{program}` is not installed: run scripts/setup.sh --test"));
        let running = self.start(&path, args);
        self.listening().await;
        let expected = self.reached().await;
        drop(running);
        let output = run(self.dir.path(), &["import", program, file]);
        let (toml, summary) = (text(&output.stdout), text(&output.stderr));
        let balancer = Balancer::start(LB, &toml, self.dir.path()).await.unwrap();
        let reached = self.reached().await;
        drop(balancer);
        let log = fs::read_to_string(self.dir.path().join("program.log")).unwrap();
        assert_eq!(reached, expected, "{summary}\n{toml}\n{log}");
        reached
    }

    /// Like [`Self::compare`], with HAProxy and this configuration.
    async fn compare_haproxy(&self, source: &str) -> Reached {
        self.write("haproxy.cfg", source);
        let args = ["-db", "-f", "haproxy.cfg"];
        self.compare("haproxy", "haproxy.cfg", &args).await
    }

    /// Like [`Self::compare`], with nginx and the content of a `stream` block.
    async fn compare_nginx(&self, stream: &str) -> Reached {
        let prefix = self.dir.path().display().to_string();
        self.write("nginx.conf", &format!("{NGINX_START}stream {{{stream}}}\n"));
        let args = ["-p", &prefix, "-c", "nginx.conf"];
        self.compare("nginx", "nginx.conf", &args).await
    }

    /// Like [`Self::compare`], with stunnel, this configuration and the service for the second port.
    async fn compare_stunnel(&self, source: &str) -> Reached {
        fs::create_dir(self.dir.path().join("services")).unwrap();
        self.write("services/plain.conf", STUNNEL_CLIENT);
        self.write("stunnel.conf", &format!("{STUNNEL_START}{source}"));
        self.compare("stunnel", "stunnel.conf", &["stunnel.conf"])
            .await
    }
}

/// The server that each client reaches. `None` if it is refused.
type Reached = Vec<(String, Option<String>)>;

/// Whether stunnel is installed. Prints a message if not.
fn has_stunnel() -> bool {
    let found = find_program("stunnel").is_some();
    if !found {
        eprintln!("skipped: stunnel is not installed");
    }
    found
}

/// The clients that reach a server.
fn served(reached: &[(String, Option<String>)]) -> Vec<String> {
    let served = reached.iter().filter_map(|(client, server)| {
        let server = server.as_ref()?;
        Some(format!("{client}: {server}"))
    });
    served.collect()
}

const HAPROXY: &str = "
global
    presetenv IMPORT_TEST_SERVER WEB1
defaults tcp
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
defaults plain from tcp
    timeout client 10s
frontend mtls from tcp
    bind PORT1 ssl crt server.pem ca-file ca.crt crl-file ca.crl verify required
    acl alice ssl_c_s_dn(cn) -m str alice.example.com
    acl staff ssl_c_s_dn(ou) staff
    tcp-request content reject unless alice or staff or { ssl_c_s_dn(CN) bob.example.com }
    use_backend two if { ssl_fc_sni -i DB.example.com } !staff
    use_backend one if alice
    default_backend three
frontend plain from plain
    bind PORT2
    tcp-request connection reject if { src 127.0.0.3 }
    tcp-request connection accept if { src 127.0.0.0/30 }
    tcp-request connection reject
    default_backend two
backend one from plain
    server web1 \"$IMPORT_TEST_SERVER\"
backend two from plain
    default-server weight 10
    server web2 WEB2
backend three from plain
    server-template web 1 WEB3
";

#[tokio::test]
async fn haproxy_and_the_balancer_decide_the_same() {
    let site = Site::new().await;
    let reached = site.compare_haproxy(HAPROXY).await;
    assert_eq!(
        served(&reached),
        [
            "alice to localhost: web1",
            "alice to db.example.com: web2",
            "bob to localhost: web3",
            "bob to db.example.com: web2",
            "carol of staff to localhost: web3",
            "carol of staff to db.example.com: web3",
            "from 127.0.0.1: web2",
            "from 127.0.0.2: web2",
        ]
    );
}

/// A limit for one client. Each client connects twice.
const HAPROXY_LIMITS: &str = "
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend mtls
    bind PORT1 ssl crt server.pem ca-file ca.crt crl-file ca.crl verify required
    stick-table type string len 64 size 1k expire 10m store conn_rate(10m)
    acl alice ssl_c_s_dn(cn) -m str alice.example.com
    acl bob ssl_c_s_dn(cn) -m str bob.example.com
    tcp-request content track-sc0 ssl_c_s_dn(cn) if alice or bob
    tcp-request content accept if alice
    tcp-request content reject if { sc0_conn_rate gt 1 }
    use_backend one if { ssl_fc_sni db.example.com }
    use_backend two if { ssl_fc_sni localhost } bob
frontend plain
    bind PORT2
    default_backend two
backend one
    server web1 WEB1
backend two
    server web2 WEB2
";

#[tokio::test]
async fn haproxy_and_the_balancer_limit_the_same_clients() {
    let site = Site::new().await;
    let reached = site.compare_haproxy(HAPROXY_LIMITS).await;
    assert_eq!(
        served(&reached),
        [
            "alice to db.example.com: web1",
            "bob to localhost: web2",
            "carol of staff to db.example.com: web1",
            "mallory to db.example.com: web1",
            "a longer name to db.example.com: web1",
            "from 127.0.0.1: web2",
            "from 127.0.0.2: web2",
            "from 127.0.0.3: web2",
            "from 127.0.0.4: web2",
        ]
    );
}

/// Parts of names, names of backends that depend on the client, conditions and ports.
const HAPROXY_NAMES: &str = "
global
    setenv ROLE edge
    setenv UNIT nobody
.if streq(\"$ROLE\",edge)
    setenv UNIT staff
.else
    setenv UNIT other
.endif
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend mtls
    bind PORT1 ssl crt server.pem ca-file ca.crt verify required
    acl known ssl_c_s_dn(cn) -m beg alice.example.
    acl known ssl_c_s_dn(cn) -m reg ^bob\\.example\\.com$
    acl known ssl_c_s_dn(ou) \"$UNIT\"
    tcp-request content accept if WAIT_END known
    tcp-request content reject
    use_backend three if { ssl_fc_sni -m dom db }
    use_backend %[ssl_c_s_dn(cn),map_beg(names.map)]
    use_backend two
    default_backend one
frontend plain
    bind PORT2
    tcp-request connection reject if { dst_port 1:1023 }
    tcp-request connection reject if { src 127.0.0.4 }
    use_backend from_%[src]
    use_backend two
    default_backend three
backend one
    server web1 WEB1
backend two
    server web2 WEB2
backend three
    server web3 WEB3
backend from_127.0.0.2
    server web1 WEB1
";

#[tokio::test]
async fn haproxy_and_the_balancer_compare_the_same_names() {
    let site = Site::new().await;
    let map = "bob. two\ncarol. missing\n";
    fs::write(site.dir.path().join("names.map"), map).unwrap();
    let reached = site.compare_haproxy(HAPROXY_NAMES).await;
    assert_eq!(
        served(&reached),
        [
            "alice to localhost: web1",
            "alice to db.example.com: web3",
            "bob to localhost: web2",
            "bob to db.example.com: web3",
            "carol of staff to localhost: web1",
            "carol of staff to db.example.com: web3",
            "a longer name to localhost: web1",
            "a longer name to db.example.com: web3",
            "revoked to localhost: web1",
            "revoked to db.example.com: web3",
            "from 127.0.0.1: web3",
            "from 127.0.0.2: web1",
            "from 127.0.0.3: web3",
        ]
    );
}

const NGINX_START: &str = "
daemon off;
master_process off;
pid nginx.pid;
error_log stderr info;
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
events {}
";

const NGINX: &str = "
    map $ssl_client_s_dn $by_client {
        'CN=alice.example.com' one;
        '~(^|,)CN=carol\\.example\\.com(,|$)' three;
        CN=bob.example.com $by_name;
        default '';
    }
    map $ssl_server_name $by_name {
        hostnames;
        *.example.com two;
        default three;
    }
    upstream one { server WEB1; }
    upstream two { least_conn; server WEB2 max_fails=3; }
    upstream three { server WEB3; }
    server {
        listen PORT1 ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate server.crt;
        ssl_certificate_key server.key;
        ssl_client_certificate ca.crt;
        ssl_crl ca.crl;
        ssl_verify_client on;
        proxy_pass $by_client;
    }
    server {
        listen PORT2;
        deny 127.0.0.2;
        allow 127.0.0.0/30;
        deny all;
        proxy_pass three;
    }
";

#[tokio::test]
async fn nginx_and_the_balancer_decide_the_same() {
    let site = Site::new().await;
    let reached = site.compare_nginx(NGINX).await;
    assert_eq!(
        served(&reached),
        [
            "alice to localhost: web1",
            "alice to db.example.com: web1",
            "bob to localhost: web3",
            "bob to db.example.com: web2",
            "carol of staff to localhost: web3",
            "carol of staff to db.example.com: web3",
            "from 127.0.0.1: web3",
            "from 127.0.0.3: web3",
        ]
    );
}

/// The common name in a variable, and servers by source.
const NGINX_NAMES: &str = "
    map $ssl_client_s_dn $common_name {
        default '';
        '~(^|,)CN=(?<name>[^,]+)' $name;
    }
    map $common_name $by_client {
        alice.example.com one;
        'bob.example.com' two;
        default '';
    }
    geo $by_source {
        default three;
        127.0.0.2 one;
        127.0.0.3 two;
    }
    include upstreams/*.conf;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers HIGH:!aNULL;
    server {
        listen PORT1 ssl;
        ssl_certificate server.pem;
        ssl_certificate_key server.pem;
        ssl_client_certificate ca.crt;
        ssl_verify_client on;
        proxy_pass $by_client;
    }
    server {
        listen PORT2;
        proxy_pass $by_source;
    }
";

#[tokio::test]
async fn nginx_and_the_balancer_read_the_same_common_names() {
    let site = Site::new().await;
    fs::create_dir(site.dir.path().join("upstreams")).unwrap();
    site.write(
        "upstreams/all.conf",
        "upstream one { server WEB1; } upstream two { server WEB2; } upstream three { server WEB3; }",
    );
    let reached = site.compare_nginx(NGINX_NAMES).await;
    assert_eq!(
        served(&reached),
        [
            "alice to localhost: web1",
            "alice to db.example.com: web1",
            "bob to localhost: web2",
            "bob to db.example.com: web2",
            "revoked to localhost: web1",
            "revoked to db.example.com: web1",
            "from 127.0.0.1: web3",
            "from 127.0.0.2: web1",
            "from 127.0.0.3: web2",
            "from 127.0.0.4: web3",
        ]
    );
}

const STUNNEL_START: &str = "
foreground = yes
pid =
cert = server.pem
CAfile = ca.crt
CRLfile = ca.crl
include = services
";

const STUNNEL: &str = "
[mtls]
accept = PORT1
connect = WEB1
verifyChain = yes
";

/// The second listener is a client that connects to the first. It is in an included file.
const STUNNEL_CLIENT: &str = "
[plain]
accept = PORT2
connect = PORT1
client = yes
verifyChain = yes
checkHost = localhost
cert = client.pem
";

#[tokio::test]
async fn stunnel_and_the_balancer_decide_the_same() {
    if !has_stunnel() {
        return;
    }
    let site = Site::new().await;
    write_pem(&site.alice, site.dir.path(), "client");
    let reached = site.compare_stunnel(STUNNEL).await;
    assert_eq!(served(&reached).len(), 5 * 2 + 4, "{reached:?}");
}

/// Each service compares names of its own, although both have the same listener.
#[tokio::test]
async fn stunnel_and_the_balancer_compare_names_per_server_name() {
    if !has_stunnel() {
        return;
    }
    let mut site = Site::new().await;
    // With an alternative name that is not the common name.
    let leaf = |name: &str| site.ca.leaf("localhost").dns(name).build();
    let (alice, bob) = (leaf("alice.example.com"), leaf("bob.example.com"));
    write_pem(&alice, site.dir.path(), "client");
    site.tls[0].1 = TlsClient::new(&site.ca, Some(&alice));
    site.tls[1].1 = TlsClient::new(&site.ca, Some(&bob));
    let bob = "
[bob]
sni = mtls:db.example.com
connect = WEB2
verifyChain = yes
checkHost = bob.example.com
";
    let source = format!("{STUNNEL}checkHost = alice.example.com\n{bob}");
    let reached = site.compare_stunnel(&source).await;
    let served = served(&reached);
    assert_eq!(
        served[..2],
        ["alice to localhost: web1", "bob to db.example.com: web2"],
        "{reached:?}"
    );
    assert_eq!(served.len(), 2 + 4, "{reached:?}");
}
