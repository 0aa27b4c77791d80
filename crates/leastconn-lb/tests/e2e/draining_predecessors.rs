//! Reloads, new CRLs and operator commands also apply to connections of draining processes.
//! Draining processes are a process that is shutting down, and the predecessors after upgrades.

use leastconn_testkit::{Cert, DEADLINE, Signal, Upstream};

use crate::ctl::{SOCKET, ctl};
use crate::support::upgrading::{
    Stream, assert_open, finish, message, open, signal, start, upgrade, wait_closed,
    wait_process_exit,
};
use crate::support::{CLIENT1, NO_PROBES, Running, Site, TLS, cn, entries};

const CLIENT2: &str = "client2.lb.com";

fn two_clients(web: &Upstream) -> Site {
    Site::new()
        .listener("main", &["upstream = \"web\"", TLS])
        .upstream("web", &[NO_PROBES], &entries(&[web]))
        .client("client1", &cn(CLIENT1), "web", "")
        .client("client2", &cn(CLIENT2), "web", "")
}

/// The configuration without the rule for client2.
fn without_client2(lb: &Running) -> String {
    let config = lb.config();
    let rule = config.rfind("[[client]]").unwrap();
    assert!(config[rule..].contains(CLIENT2));
    config[..rule].to_owned()
}

/// Three processes, each the successor of the previous process. A process has either one
/// connection per client or none.
struct Generations {
    lb: Running,
    certs: [Cert; 2],
    pids: Vec<u32>,
    first: Vec<Stream>,
    second: Vec<Stream>,
    _web: Upstream,
}

/// Indices of the processes that have connections. A predecessor without connections exits
/// after the upgrade.
const ALL: &[usize] = &[0, 1, 2];
const FIRST_AND_LAST: &[usize] = &[0, 2];

async fn generations(settings: &str, connected: &[usize]) -> Generations {
    let web = Upstream::named("web1").await;
    let lb = start(two_clients(&web).process(settings).admin(SOCKET)).await;
    let certs = [CLIENT1, CLIENT2].map(|name| lb.ca().leaf(name).build());
    let mut all = Generations {
        pids: vec![lb.pid()],
        lb,
        certs,
        first: Vec::new(),
        second: Vec::new(),
        _web: web,
    };
    for generation in 0..3 {
        if generation > 0 {
            let pid = upgrade(&all.lb, all.pids[generation - 1]).await;
            all.pids.push(pid);
        }
        if !connected.contains(&generation) {
            continue;
        }
        all.first.push(open(&all.lb, &all.certs[0]).await);
        all.second.push(open(&all.lb, &all.certs[1]).await);
    }
    for generation in 0..2 {
        if !connected.contains(&generation) {
            wait_process_exit(all.pids.remove(generation)).await;
        }
    }
    all
}

impl Generations {
    /// Asserts that all connections of client2 end with `outcome`, and that all other
    /// connections stay open.
    async fn assert_client2_ended(mut self, outcome: &str) {
        let ended = self.second.len();
        for stream in self.second {
            wait_closed(stream).await;
        }
        self.lb.expect_record(ended - 1, outcome).await;
        for stream in &mut self.first {
            assert_open(stream).await;
        }
        // Each predecessor exits once its last connection has ended.
        let last = self.first.pop().unwrap();
        for (stream, pid) in self.first.into_iter().zip(&self.pids) {
            finish(stream).await;
            wait_process_exit(*pid).await;
        }
        assert_eq!(self.lb.wait_exit(DEADLINE).await.code(), Some(0));
        finish(last).await;
        finish(open(&self.lb, &self.certs[0]).await).await;
        assert!(!self.lb.stderr().contains("panicked"));
    }
}

#[tokio::test]
async fn new_crl_applies_in_all_processes() {
    let all = generations("", ALL).await;
    all.lb.ca().write_crl(all.lb.dir(), &[&all.certs[1]]);
    all.assert_client2_ended("revoked_certificate").await;
}

/// The newest process forwards the reload to the oldest process, whether or not the second
/// process is still running.
#[tokio::test]
async fn reload_is_forwarded_to_predecessors() {
    for connected in [ALL, FIRST_AND_LAST] {
        let all = generations("watch = \"off\"", connected).await;
        all.lb.ca().write_crl(all.lb.dir(), &[&all.certs[1]]);
        signal(*all.pids.last().unwrap(), Signal::HUP);
        all.assert_client2_ended("revoked_certificate").await;
    }
}

#[tokio::test]
async fn removed_rule_ends_connections_in_all_processes() {
    for connected in [ALL, FIRST_AND_LAST] {
        let all = generations("", connected).await;
        all.lb.write_config(&without_client2(&all.lb));
        signal(*all.pids.last().unwrap(), Signal::HUP);
        all.assert_client2_ended("policy_changed").await;
    }
}

#[tokio::test]
async fn kill_applies_in_all_processes() {
    for connected in [ALL, FIRST_AND_LAST] {
        let all = generations("", connected).await;
        let output = ctl(&all.lb, &["kill", "--client", "client2"]).await.ok();
        assert_eq!(output, "1 connection closed\n");
        all.assert_client2_ended("killed").await;
    }
}

/// An upgrade also reloads the predecessors of the replaced process.
#[tokio::test]
async fn upgrade_reloads_all_predecessors() {
    let mut all = generations("watch = \"off\"", FIRST_AND_LAST).await;
    all.lb.ca().write_crl(all.lb.dir(), &[&all.certs[1]]);
    let pid = upgrade(&all.lb, all.pids[1]).await;
    all.pids.push(pid);
    all.first.push(open(&all.lb, &all.certs[0]).await);
    all.assert_client2_ended("revoked_certificate").await;
}

#[tokio::test]
async fn maint_applies_in_all_processes() {
    let all = generations("", ALL).await;
    let maint = ["maint", "web/web1", "--grace", "0s"];
    ctl(&all.lb, &maint).await.ok();
    for stream in all.first.into_iter().chain(all.second) {
        wait_closed(stream).await;
    }
    all.lb.expect_record(5, "killed").await;
    for pid in &all.pids[..2] {
        wait_process_exit(*pid).await;
    }
    assert_eq!(all.lb.wait_exit(DEADLINE).await.code(), Some(0));
}

/// Like a reload, an upgrade reads the configuration and applies its rules to open
/// connections.
#[tokio::test]
async fn upgrade_applies_new_rules_in_the_predecessor() {
    let web = Upstream::named("web1").await;
    let lb = start(two_clients(&web)).await;
    let certs = [CLIENT1, CLIENT2].map(|name| lb.ca().leaf(name).build());
    let (mut first, second) = (open(&lb, &certs[0]).await, open(&lb, &certs[1]).await);
    // The configuration also contains a change that a reload would reject.
    let config = without_client2(&lb).replace("workers = 2", "workers = 3");
    lb.write_config(&config);
    upgrade(&lb, lb.pid()).await;
    wait_closed(second).await;
    lb.expect_record(0, "policy_changed").await;
    assert_open(&mut first).await;
    finish(first).await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
}

/// The configuration of a newer version may have keys that the predecessor does not know.
#[tokio::test]
async fn configuration_unknown_to_the_predecessor_ends_nothing() {
    let web = Upstream::named("web1").await;
    let lb = start(two_clients(&web)).await;
    let cert = lb.ca().leaf(CLIENT1).build();
    let mut stream = open(&lb, &cert).await;
    let pid = upgrade(&lb, lb.pid()).await;
    lb.write_config("[process]\nof_a_later_version = true\n");
    lb.signal(Signal::HUP);
    lb.wait_log(
        |event| message(event).starts_with("reload rejected"),
        DEADLINE,
    )
    .await;
    assert_open(&mut stream).await;
    // The predecessor still watches the CRL files of the last configuration that was valid
    // for this version.
    lb.ca().write_crl(lb.dir(), &[&cert]);
    wait_closed(stream).await;
    lb.expect_record(0, "revoked_certificate").await;
    assert_eq!(lb.wait_exit(DEADLINE).await.code(), Some(0));
    signal(pid, Signal::TERM);
    wait_process_exit(pid).await;
}

#[tokio::test]
async fn draining_process_applies_crls_and_rules() {
    let web = Upstream::named("web1").await;
    let lb = two_clients(&web).start().await;
    let certs = [CLIENT1, CLIENT1, CLIENT2].map(|name| lb.ca().leaf(name).build());
    let mut kept = open(&lb, &certs[0]).await;
    let (revoked, dropped) = (open(&lb, &certs[1]).await, open(&lb, &certs[2]).await);
    lb.signal(Signal::TERM);
    lb.wait_log(|event| message(event).starts_with("draining"), DEADLINE)
        .await;
    lb.ca().write_crl(lb.dir(), &[&certs[1]]);
    wait_closed(revoked).await;
    lb.expect_record(0, "revoked_certificate").await;

    // A reload during a shutdown opens no new listener.
    let config = without_client2(&lb).replace(
        "[[upstream]]",
        "[[listener]]\nname = \"late\"\nbind = \"127.0.0.1:0\"\nupstream = \"web\"\n[[upstream]]",
    );
    lb.write_config(&config);
    lb.signal(Signal::HUP);
    wait_closed(dropped).await;
    lb.expect_record(1, "policy_changed").await;
    assert_open(&mut kept).await;
    finish(kept).await;
    assert_eq!(lb.wait_end(DEADLINE).await.code(), Some(0));
    assert!(!lb.stderr().contains("\"late\""), "{}", lb.stderr());
}
