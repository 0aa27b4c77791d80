//! `ctl` suggests names for misspelled ones.

use leastconn_testkit::Upstream;

use crate::ctl::{SOCKET, ctl};
use crate::support::{NO_PROBES, Running, Site, TLS, cn, entry};

async fn start(bill: &[Upstream; 2]) -> Running {
    let servers = [
        entry("bill-1", bill[0].addr(), ""),
        entry("bill-2", bill[1].addr(), ""),
    ];
    Site::new()
        .admin(SOCKET)
        .listener("main", &["upstream = \"billing\"", TLS])
        .upstream("billing", &[NO_PROBES], &servers)
        .client("accounting", &cn("accounting.lb.com"), "billing", "")
        .client("staff", &cn("staff.lb.com"), "billing", "")
        .start()
        .await
}

#[tokio::test]
async fn every_command_suggests_names() {
    let bill = [
        Upstream::named("bill-1").await,
        Upstream::named("bill-2").await,
    ];
    let lb = start(&bill).await;
    let usage = "invalid server `bill2`: expected UPSTREAM/SERVER; did you mean `billing/bill-2`?";
    let unknown = "there is no server `billin/bill2`; did you mean `billing/bill-2`?";
    let other = "there is no server `x/bill-2`; did you mean `billing/bill-2`?";
    for command in ["drain", "maint", "ready"] {
        for (server, code, expected) in [
            ("bill2", 2, usage),
            ("billin/bill2", 1, unknown),
            ("x/bill-2", 1, other),
        ] {
            assert_refused(&lb, &[command, server], code, expected).await;
        }
    }
    for (args, code, expected) in [
        (&["weight", "bill2", "50%"][..], 2, usage),
        (&["weight", "billin/bill2", "50%"], 1, unknown),
        (&["kill", "--server", "bill2"], 2, usage),
        (&["kill", "--server", "billin/bill2"], 1, unknown),
        (
            &["connections", "--server", "bill2"],
            1,
            "did you mean `billing/bill-2`?",
        ),
        (
            &["connections", "--server", "biling"],
            1,
            "did you mean `billing`?",
        ),
        (
            &["connections", "--client", "acounting"],
            1,
            "did you mean `accounting`?",
        ),
        (
            &["connections", "--listener", "mian"],
            1,
            "did you mean `main`?",
        ),
        (
            &["kill", "--client", "acounting"],
            1,
            "did you mean `accounting`?",
        ),
        (
            &["drain", "anything"],
            2,
            "expected UPSTREAM/SERVER, as listed by `ctl servers`",
        ),
    ] {
        assert_refused(&lb, args, code, expected).await;
    }
    lb.quiet().await;
}

#[tokio::test]
async fn identities_are_suggested() {
    let bill = [
        Upstream::named("bill-1").await,
        Upstream::named("bill-2").await,
    ];
    let lb = start(&bill).await;
    let killed = ctl(&lb, &["kill", "--identity", "cn:staf.lb.com"]).await;
    assert_eq!(
        (killed.code, &*killed.stdout),
        (0, "0 connections closed\n")
    );
    let note = "note: no rule matches cn:staf.lb.com: did you mean `cn:staff.lb.com`?";
    assert!(killed.stderr.starts_with(note), "{killed:?}");
    let killed = ctl(&lb, &["kill", "--identity", "cn:staff.lb.com"]).await;
    assert_eq!(killed.ok(), "0 connections closed\n");

    ctl(&lb, &["block", "--identity", "cn:staff.lb.com"])
        .await
        .ok();
    let expected = "identity `cn:staf.lb.com` is not blocked; did you mean `cn:staff.lb.com`?";
    assert_refused(
        &lb,
        &["unblock", "--identity", "cn:staf.lb.com"],
        1,
        expected,
    )
    .await;
    ctl(&lb, &["unblock", "--identity", "cn:staff.lb.com"])
        .await
        .ok();
    lb.quiet().await;
}

async fn assert_refused(lb: &Running, args: &[&str], code: i32, expected: &str) {
    let refused = ctl(lb, args).await;
    assert_eq!(
        (refused.code, &*refused.stdout),
        (code, ""),
        "{args:?}: {refused:?}"
    );
    assert!(
        refused.stderr.contains(expected),
        "{args:?}: {}",
        refused.stderr
    );
}
