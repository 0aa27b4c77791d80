//! Servers that DNS lists: dnsmasq answers with addresses and SRV records.

use std::{
    collections::BTreeSet, fmt::Write as _, fs, net::SocketAddr, path::PathBuf, time::Duration,
};

use leastconn_testkit::{Balancer, DEADLINE, Port, TempDir, eventually};
use serde_json::Value;
use tokio::{net::UdpSocket, process::Child, time::Instant};

use crate::{
    plain,
    program::{LB, replace, tool},
};

/// A DNS server for the domain `test`.
struct Dns {
    dir: TempDir,
    port: Port,
    /// More arguments of dnsmasq, such as SRV records.
    args: Vec<String>,
    process: Option<Child>,
}

impl Dns {
    /// Starts a server that knows these addresses of `web.test`.
    async fn start(addresses: &[String], args: &[&str]) -> Self {
        let mut dns = Self {
            dir: TempDir::new().unwrap(),
            port: Port::reserve(),
            args: args.iter().map(ToString::to_string).collect(),
            process: None,
        };
        dns.set(addresses);
        dns.resume().await;
        dns
    }

    fn address(&self) -> SocketAddr {
        self.port.address
    }

    fn hosts(&self) -> PathBuf {
        self.dir.path().join("hosts")
    }

    /// Replaces the addresses of `web.test`.
    fn set(&self, addresses: &[String]) {
        let mut hosts = String::new();
        for address in addresses {
            let _ = writeln!(hosts, "{address} web.test");
        }
        self.set_hosts(&hosts);
    }

    fn set_hosts(&self, hosts: &str) {
        fs::write(self.hosts(), hosts).unwrap();
        if let Some(id) = self.process.as_ref().and_then(Child::id) {
            let pid = rustix::process::Pid::from_raw(id.try_into().unwrap()).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        }
    }

    /// Starts dnsmasq, and waits until it answers.
    async fn resume(&mut self) {
        let address = self.address();
        let mut command = tool("dnsmasq");
        command
            .arg("--keep-in-foreground")
            .arg("--conf-file=/dev/null")
            .args([
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--local=/test/",
            ])
            .arg(format!(
                "--pid-file={}",
                self.dir.path().join("pid").display()
            ))
            .arg(format!("--listen-address={}", address.ip()))
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", self.hosts().display()))
            .args(["--user=root", "--group=root"])
            .args(&self.args);
        self.process = Some(command.spawn().unwrap());
        let answers = || async {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.connect(address).await.unwrap();
            // A query for the address of `web.test`.
            let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04test\x00\x00\x01\x00\x01";
            let _ = socket.send(query).await;
            let mut answer = [0; 512];
            let received =
                tokio::time::timeout(Duration::from_millis(200), socket.recv(&mut answer));
            match received.await {
                Ok(Ok(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        eventually(DEADLINE, answers).await.unwrap();
    }

    /// Stops dnsmasq, so that nothing answers.
    async fn pause(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().await.unwrap();
        }
    }
}

/// Loopback addresses, starting with 127.0.1.1.
fn addresses(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("127.0.1.{n}")).collect()
}

/// The names of these servers at port 80.
fn at_port_80(addresses: &[String]) -> BTreeSet<String> {
    addresses.iter().map(|a| format!("{a}:80")).collect()
}

struct Site {
    lb: Balancer,
    _dir: TempDir,
}

impl Site {
    async fn start(dns: &Dns, server: &str, discovery: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let resolver = dns.address();
        let upstream = format!(
            "health_check = {{ type = \"none\" }}\nservers = [{server}]\n\
             discovery = {{ resolver = [\"{resolver}\"], {discovery} }}"
        );
        let config = plain::configuration(plain::ADMIN, &upstream);
        let lb = Balancer::start(LB, &config, &dir).await.unwrap();
        Self { lb, _dir: dir }
    }

    async fn names(&self) -> BTreeSet<String> {
        BTreeSet::from_iter(self.lb.server_names().await)
    }

    async fn wait_names(&self, expected: &BTreeSet<String>) {
        let matches = || async {
            let names = self.names().await;
            (names == *expected)
                .then_some(())
                .ok_or(format!("{names:?}"))
        };
        eventually(DEADLINE, matches).await.unwrap();
    }

    /// Waits until this many further look-ups have this outcome.
    async fn wait_lookups(&self, outcome: &str, more: f64) {
        let name =
            format!("leastconn_discovery_lookups_total{{upstream=\"web\",outcome=\"{outcome}\"}}");
        let name = leastconn_testkit::metrics::normalise(&name);
        let count = async || self.lb.metrics().await.get(&name).copied().unwrap_or(0.0);
        let before = count().await;
        let done = || async {
            let now = count().await;
            (now >= before + more)
                .then_some(())
                .ok_or(format!("{before} {now}"))
        };
        eventually(DEADLINE, done).await.unwrap();
    }
}

const DNS: &str = r#"{ dns = "web.test:80" }"#;

#[tokio::test]
async fn servers_follow_the_addresses() {
    let dns = Dns::start(&addresses(2), &["--local-ttl=600"]).await;
    let site = Site::start(&dns, DNS, r#"refresh = "1s", hold = "2s""#).await;
    assert_eq!(site.names().await, at_port_80(&addresses(2)));
    // Changes take effect although the TTL is 600 s.
    dns.set(&addresses(5));
    site.wait_names(&at_port_80(&addresses(5))).await;
    dns.set(&addresses(1));
    let start = Instant::now();
    site.wait_names(&at_port_80(&addresses(1))).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "within `hold`");
}

#[tokio::test]
async fn failing_answers_change_nothing() {
    let mut dns = Dns::start(&addresses(3), &[]).await;
    let site = Site::start(&dns, DNS, r#"refresh = "1s", hold = "0s""#).await;
    let all = at_port_80(&addresses(3));
    assert_eq!(site.names().await, all);
    // The name does not exist.
    dns.set(&[]);
    site.wait_lookups("empty", 2.0).await;
    assert_eq!(site.names().await, all);
    // Nothing answers.
    dns.pause().await;
    site.wait_lookups("failed", 1.0).await;
    assert_eq!(site.names().await, all);
    // The server answers SERVFAIL.
    let socket = UdpSocket::bind(dns.address()).await.unwrap();
    let failing = tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            query[2] |= 0x80;
            query[3] = 2;
            let _ = socket.send_to(&query[..length], from).await;
        }
    });
    site.wait_lookups("failed", 1.0).await;
    assert_eq!(site.names().await, all);
    failing.abort();
    let _ = failing.await;
    // An answer without the servers removes them.
    dns.set(&addresses(1));
    dns.resume().await;
    site.wait_names(&at_port_80(&addresses(1))).await;
}

#[tokio::test]
async fn all_of_200_addresses_are_used() {
    let dns = Dns::start(&addresses(200), &[]).await;
    let site = Site::start(&dns, DNS, r#"refresh = "1s""#).await;
    assert_eq!(site.names().await, at_port_80(&addresses(200)));
}

#[tokio::test]
async fn servers_above_max_are_ignored() {
    let dns = Dns::start(&addresses(4), &[]).await;
    let site = Site::start(&dns, DNS, r#"refresh = "1s", max = 3"#).await;
    assert_eq!(site.names().await.len(), 3);
    let line = |line: &Value| line.to_string().contains("1 server ignored");
    site.lb.wait_log(line, DEADLINE).await;
}

#[tokio::test]
async fn flapping_addresses_stay() {
    let dns = Dns::start(&addresses(2), &[]).await;
    let site = Site::start(&dns, DNS, r#"refresh = "1s", hold = "10s""#).await;
    let both = at_port_80(&addresses(2));
    for count in [1, 2, 1, 2, 1] {
        dns.set(&addresses(count));
        site.wait_lookups("answered", 1.0).await;
        assert_eq!(site.names().await, both);
    }
}

/// The records look like those of a headless Service in Kubernetes.
#[tokio::test]
async fn srv_records_name_servers() {
    let domain = "web.default.svc.cluster.test";
    let srv = |target: &str, priority: u16, weight: u16| {
        format!("--srv-host=_http._tcp.{domain},{target}.{domain},8080,{priority},{weight}")
    };
    let records = [
        srv("web-0", 0, 50),
        srv("web-1", 0, 50),
        srv("spare", 10, 0),
    ];
    let args = records.each_ref().map(|record| &**record);
    let mut dns = Dns::start(&[], &args).await;
    dns.set_hosts(&format!(
        "127.0.1.1 web-0.{domain}\n127.0.1.2 web-1.{domain}\n127.0.1.9 spare.{domain}\n"
    ));
    let server = format!("{{ srv = \"_http._tcp.{domain}\", max_conns = 7 }}");
    let site = Site::start(&dns, &server, r#"refresh = "1s", hold = "1s""#).await;
    let servers = site.lb.servers().await;
    let field = |key: &str| -> Vec<_> { servers.iter().map(|s| s[key].to_string()).collect() };
    assert_eq!(field("server"), [r#""spare""#, r#""web-0""#, r#""web-1""#]);
    assert_eq!(field("weight"), ["1", "50", "50"]);
    assert_eq!(field("backup"), ["true", "false", "false"]);
    assert_eq!(field("max_conns"), ["7", "7", "7"]);
    assert_eq!(servers[1]["address"], "127.0.1.1:8080");
    // A pod that moves keeps its name.
    dns.set_hosts(&format!(
        "127.0.1.5 web-0.{domain}\n127.0.1.2 web-1.{domain}\n127.0.1.9 spare.{domain}\n"
    ));
    let moved = || async {
        let servers = site.lb.servers().await;
        let web0 = servers.iter().find(|s| s["server"] == "web-0").unwrap();
        let address = web0["address"].as_str().unwrap().to_owned();
        (address == "127.0.1.5:8080").then_some(()).ok_or(address)
    };
    eventually(DEADLINE, moved).await.unwrap();
    // A record is removed.
    dns.pause().await;
    dns.args.remove(1);
    dns.resume().await;
    site.wait_names(&BTreeSet::from(["spare", "web-0"].map(str::to_owned)))
        .await;
}

#[tokio::test]
async fn check_and_explain_show_what_dns_finds() {
    let dns = Dns::start(&addresses(2), &[]).await;
    let dir = TempDir::new().unwrap();
    let config = dir.path().join("leastconn.toml");
    let upstream = format!(
        "servers = [{{ dns = \"web.test:80\" }}, {{ dns = \"missing.test:80\" }}]\n\
         discovery = {{ resolver = [\"{}\"] }}",
        dns.address()
    );
    let text = replace(
        &plain::configuration("", &upstream),
        "allow = [\"web\"]",
        "allow = [\"web/127.0.1.2:80\"]",
    );
    fs::write(&config, text).unwrap();
    let run = |args: &[&str]| {
        let mut command = crate::program::lb(args);
        command.arg("--config").arg(&config);
        async move { crate::program::run(&mut command).await }
    };
    let checked = run(&["check"]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    let found = "upstream web: dns web.test:80: 2 servers: 127.0.1.1:80, 127.0.1.2:80";
    assert!(checked.stdout.contains(found), "{}", checked.stdout);
    let missing = "`dns missing.test:80` finds no servers: the name does not exist (NXDOMAIN)";
    assert!(checked.stderr.contains(missing), "{}", checked.stderr);
    let explained = run(&["explain", "--source", "127.0.0.1"]).await;
    assert_eq!(explained.code, 0, "{explained:?}");
    assert!(
        explained.stdout.contains("dns web.test:80: 2 servers"),
        "{}",
        explained.stdout
    );
    assert!(
        explained.stdout.contains("127.0.1.2:80"),
        "{}",
        explained.stdout
    );
    assert!(
        !explained.stdout.contains("127.0.1.1:80"),
        "{}",
        explained.stdout
    );
}
