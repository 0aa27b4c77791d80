//! A network that loses and delays segments. The clients are a Python script, because it runs in a
//! network namespace of its own, which the test cannot enter.

use crate::{
    program::{LB, run, tool},
    service::are_installed,
    site::repository,
};

/// Loses 1 % of the segments, and limits the rate to 40 Mbit/s. Loopback gets the MTU of Ethernet.
const NETWORK: &str = "ip link set lo up mtu 1500 \
    && iptables -A INPUT -m statistic --mode random --probability 0.01 -j DROP \
    && tc qdisc add dev lo root tbf rate 40mbit burst 64kb latency 50ms";

/// Row 37 of docs/threats.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loss_and_throttling_change_no_byte() {
    let programs = [
        ("python3", "python3"),
        ("unshare", "util-linux"),
        ("ip", "iproute2"),
        ("tc", "iproute2"),
        ("iptables", "iptables"),
    ];
    if !are_installed(&programs) {
        return;
    }
    let mut possible = tool("unshare");
    possible.args(["--net", "sh", "-c", NETWORK]);
    let output = run(&mut possible).await;
    if output.code != 0 {
        eprintln!(
            "skipped: no network namespace, iptables or tbf: {}",
            output.stderr
        );
        return;
    }
    let script = repository().join("crates/leastconn-lb/tests/real_programs/lossy_network.py");
    let mut transfers = tool("unshare");
    transfers.args(["--net", "sh", "-c"]);
    transfers.arg(format!("{NETWORK} && exec python3 \"$0\" \"$1\""));
    transfers.arg(script).arg(LB);
    let output = run(&mut transfers).await.ok();
    assert_eq!(output.stdout.trim(), "8 transfers, no connection left");
}
