//! Property tests of the relay. For any sequence of events on both sides, data arrives unchanged,
//! each kind of ending is forwarded correctly, and the relay terminates.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

#[path = "support/scripted.rs"]
mod scripted;

use std::time::Duration;

use leastconn::{Reason, net::OnTruncation};
use proptest::{collection::vec, prelude::*};
use scripted::{End, Script, Step, Take, check};

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u16..300).prop_map(Step::Bytes),
        // The number of bytes ranges up to several scratch buffers.
        2 => any::<u16>().prop_map(Step::Bytes),
        3 => Just(Step::Wait),
        // All pauses together are shorter than any of the timeouts.
        1 => (1u64..100).prop_map(|ms| Step::Pause(Duration::from_millis(ms))),
    ];
    vec(step, 0..24)
}

fn script() -> impl Strategy<Value = Script> {
    let end = prop_oneof![3 => Just(End::Orderly), 1 => Just(End::Reset), 1 => Just(End::Silent),
        1 => Just(End::Truncated), 1 => Just(End::Broken)];
    let take = prop_oneof![
        5 => Just(Take::All), 1 => Just(Take::Closed), 1 => Just(Take::Reset), 1 => Just(Take::Stuck),
        1 => Just(Take::Broken)
    ];
    (steps(), end, steps(), take).prop_map(|(reads, end, writes, take)| Script {
        reads,
        end,
        writes,
        take,
    })
}

fn policy() -> impl Strategy<Value = OnTruncation> {
    prop_oneof![Just(OnTruncation::Reset), Just(OnTruncation::Close)]
}

fn run(client: &Script, server: &Script, polls: Option<u32>) -> Option<Reason> {
    run_with(client, server, OnTruncation::Reset, polls)
}

fn run_with(
    client: &Script,
    server: &Script,
    policy: OnTruncation,
    polls: Option<u32>,
) -> Option<Reason> {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(check(client, server, policy, polls))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn relay_laws_hold_for_any_script(client in script(), server in script(), policy in policy()) {
        run_with(&client, &server, policy, None);
    }

    #[test]
    fn relay_laws_hold_when_cancelled(
        client in script(), server in script(), policy in policy(), polls in 0u32..40
    ) {
        run_with(&client, &server, policy, Some(polls));
    }
}

fn quiet(end: End, take: Take) -> Script {
    Script {
        reads: vec![Step::Bytes(100)],
        end,
        writes: vec![],
        take,
    }
}

/// The client does not accept the server's data before its protocol error, and the server does not
/// accept the client's data.
#[test]
fn data_for_side_with_protocol_error_is_discarded() {
    let pause = |ms| Step::Pause(Duration::from_millis(ms));
    let client = Script {
        reads: vec![pause(1), Step::Bytes(100), Step::Bytes(100)],
        end: End::Broken,
        writes: vec![pause(2)],
        take: Take::All,
    };
    let server = quiet(End::Silent, Take::Stuck);
    let reason = run_with(&client, &server, OnTruncation::Reset, None);
    assert_eq!(reason, Some(Reason::HalfCloseTimeout));
}

/// The client does not accept data before its reset, and the server does not accept the client's
/// data.
#[test]
fn data_for_side_that_was_reset_is_discarded() {
    let pause = Step::Pause(Duration::from_millis(80));
    let client = Script {
        reads: vec![Step::Bytes(1)],
        end: End::Reset,
        writes: vec![pause],
        take: Take::All,
    };
    let server = Script {
        reads: vec![pause, pause, Step::Bytes(1), Step::Bytes(1)],
        end: End::Broken,
        writes: vec![],
        take: Take::Stuck,
    };
    let reason = run_with(&client, &server, OnTruncation::Close, None);
    assert_eq!(reason, Some(Reason::HalfCloseTimeout));
}

#[test]
fn each_ending_has_its_reason() {
    let fine = quiet(End::Orderly, Take::All);
    for (client, server, reason) in [
        (fine.clone(), fine.clone(), Reason::Ok),
        (
            quiet(End::Reset, Take::All),
            fine.clone(),
            Reason::ClientReset,
        ),
        (
            fine.clone(),
            quiet(End::Reset, Take::All),
            Reason::ServerReset,
        ),
        (
            quiet(End::Truncated, Take::All),
            fine.clone(),
            Reason::ClientTruncated,
        ),
        (
            fine.clone(),
            quiet(End::Truncated, Take::All),
            Reason::ServerTruncated,
        ),
        // If a truncation is followed by a reset on write, the truncation is reported.
        (
            quiet(End::Truncated, Take::Reset),
            quiet(End::Silent, Take::All),
            Reason::ClientTruncated,
        ),
        (
            quiet(End::Broken, Take::All),
            quiet(End::Silent, Take::All),
            Reason::ProtocolError,
        ),
        (
            quiet(End::Silent, Take::Broken),
            quiet(End::Silent, Take::All),
            Reason::ProtocolError,
        ),
        // The data that the client has sent cannot be delivered.
        (
            quiet(End::Truncated, Take::All),
            quiet(End::Silent, Take::Stuck),
            Reason::HalfCloseTimeout,
        ),
        (
            fine.clone(),
            quiet(End::Silent, Take::All),
            Reason::HalfCloseTimeout,
        ),
        (
            quiet(End::Silent, Take::All),
            quiet(End::Silent, Take::All),
            Reason::IdleTimeout,
        ),
        // The client half-closes its connection, then closes it without reading the response.
        (
            quiet(End::Orderly, Take::Closed),
            fine.clone(),
            Reason::ClientReset,
        ),
        // The server half-closes its connection, then closes it without reading the whole request.
        (
            quiet(End::Silent, Take::All),
            quiet(End::Orderly, Take::Closed),
            Reason::ServerReset,
        ),
        (quiet(End::Silent, Take::Reset), fine, Reason::ClientReset),
    ] {
        assert_eq!(
            run(&client, &server, None),
            Some(reason),
            "{client:?} {server:?}"
        );
    }
}

/// If a truncation is forwarded as a close, the other direction continues.
#[test]
fn truncation_forwarded_as_close_is_reported() {
    let server = Script {
        reads: vec![Step::Pause(Duration::from_millis(50)), Step::Bytes(100)],
        ..quiet(End::Orderly, Take::All)
    };
    let client = quiet(End::Truncated, Take::All);
    let reason = run_with(&client, &server, OnTruncation::Close, None);
    assert_eq!(reason, Some(Reason::ClientTruncated));
}

/// A write reports the reset, and the next read reports an ordinary end.
#[test]
fn eof_after_reset_is_forwarded_as_reset() {
    let client = Script {
        reads: vec![Step::Bytes(10), Step::Wait, Step::Wait, Step::Bytes(10)],
        end: End::Silent,
        writes: vec![],
        take: Take::Reset,
    };
    let server = Script {
        reads: vec![Step::Wait, Step::Bytes(10)],
        end: End::Silent,
        writes: vec![],
        take: Take::All,
    };
    assert_eq!(run(&client, &server, None), Some(Reason::ClientReset));
}

/// Each direction uses up its poll budget. The relay must then wake itself, because no I/O event
/// will occur.
#[test]
fn exhausted_poll_budget_reschedules_the_relay() {
    let endless = Script {
        reads: vec![Step::Bytes(u16::MAX); 100],
        ..quiet(End::Orderly, Take::All)
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(async {
            let start = tokio::time::Instant::now();
            let reason = check(&endless, &endless, OnTruncation::Reset, None).await;
            assert_eq!(reason, Some(Reason::Ok));
            // Without the wake-up, the relay would not have continued until the next timer fired.
            assert_eq!(start.elapsed(), Duration::ZERO);
        });
}
