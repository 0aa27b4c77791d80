//! Members of a fleet share limits of clients, in paused time.

mod fleet;
mod properties;
mod simulation;

use leastconn::{RateLimit, Reason};
use leastconn_fleet::Faults;

use super::*;
use crate::fleet::Membership;
use fleet::{Fleet, limits, millis};

fn alice() -> ClientId {
    ClientId::from("cn:alice")
}

#[tokio::test(start_paused = true)]
async fn limits_are_local_without_a_fleet() {
    let fleet = Fleet::alone();
    let member = &fleet.members[0];
    let limits = limits(None, Some(1));
    let held = member.admit(&alice(), &limits).await.unwrap();
    let refused = member.admit(&alice(), &limits).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::TooManyConnections);
    assert!(!refused.to_string().contains("fleet"), "{refused}");
    drop(held);
    assert_eq!(member.admission.asks(), AskCounts::default());
}

#[tokio::test(start_paused = true)]
async fn one_connection_for_the_whole_fleet() {
    let fleet = Fleet::start(3, SharedLimits::Fast).await;
    let limits = limits(None, Some(1));
    let held = fleet.members[0].admit(&alice(), &limits).await.unwrap();
    let refused = fleet.members[1].admit(&alice(), &limits).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::TooManyConnections);
    assert!(refused.to_string().contains("whole fleet"), "{refused}");
    let asks = fleet.members[1].admission.asks();
    assert_eq!((asks.granted, asks.refused, asks.timeout), (0, 1, 0));
    drop(held);
    millis(20).await;
    let held = fleet.members[2].admit(&alice(), &limits).await.unwrap();
    drop(held);
    millis(200).await;
    assert_eq!(fleet.server.clients(), 0, "no key is left");
}

#[tokio::test(start_paused = true)]
async fn limit_used_on_one_member_is_used_on_all() {
    let fleet = Fleet::start(3, SharedLimits::Fast).await;
    let limits = limits(Some((0.01, 20)), Some(10));
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(fleet.members[0].admit(&alice(), &limits).await.unwrap());
        millis(50).await;
    }
    let refused = fleet.members[1].admit(&alice(), &limits).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::TooManyConnections);
    held.clear();
    for _ in 0..10 {
        drop(fleet.members[1].admit(&alice(), &limits).await.unwrap());
        millis(50).await;
    }
    for member in &fleet.members {
        let refused = member.admit(&alice(), &limits).await.unwrap_err();
        assert_eq!(refused.reason(), Reason::RateLimited);
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_says_when_to_retry() {
    let fleet = Fleet::start(2, SharedLimits::Exact).await;
    let limits = limits(Some((2.0, 4)), None);
    for member in [0, 1, 0, 1] {
        let member = &fleet.members[member];
        drop(member.admit(&alice(), &limits).await.unwrap());
    }
    let refused = fleet.members[0].admit(&alice(), &limits).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::RateLimited);
    let text = refused.to_string();
    assert!(text.contains("the next is admitted in 4"), "{text}");
    millis(500).await;
    drop(fleet.members[1].admit(&alice(), &limits).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn sources_and_certificates_are_shared_alike() {
    let fleet = Fleet::start(2, SharedLimits::Fast).await;
    let limits = limits(None, Some(1));
    let long = format!("uri:spiffe://example.org/{}", "x".repeat(1_000));
    for client in ["source:192.0.2.7", "cn:web", &long] {
        let client = ClientId::from(client);
        let _held = fleet.members[0].admit(&client, &limits).await.unwrap();
        assert!(fleet.members[1].admit(&client, &limits).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn clients_without_limits_are_not_reported() {
    let fleet = Fleet::start(2, SharedLimits::Exact).await;
    let held = fleet.members[0].admit(&alice(), &Limits::default()).await;
    millis(200).await;
    assert_eq!(fleet.server.clients(), 0);
    drop(held);
    assert_eq!(fleet.members[0].admission.asks(), AskCounts::default());
}

#[tokio::test(start_paused = true)]
async fn local_mode_does_not_share() {
    let fleet = Fleet::start(2, SharedLimits::Local).await;
    let limits = limits(None, Some(1));
    let _here = fleet.members[0].admit(&alice(), &limits).await.unwrap();
    let _there = fleet.members[1].admit(&alice(), &limits).await.unwrap();
    assert!(fleet.members[0].admit(&alice(), &limits).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn change_of_the_fleet_grants_no_further_burst() {
    let mut fleet = Fleet::start(1, SharedLimits::Fast).await;
    let limits = limits(Some((0.01, 4)), None);
    for _ in 0..4 {
        drop(fleet.members[0].admit(&alice(), &limits).await.unwrap());
        millis(50).await;
    }
    // The store of the new fleet has not answered yet.
    fleet.rejoin(0);
    let member = &fleet.members[0];
    assert_eq!(member.membership.get(net::now()), Membership::Alone);
    let refused = member.admit(&alice(), &limits).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::RateLimited);
}

#[tokio::test(start_paused = true)]
async fn wait_ends_after_ask_timeout() {
    let fleet = Fleet::start(3, SharedLimits::Exact).await;
    fleet.server.set_stalled(true);
    let limits = limits(None, Some(4));
    let member = &fleet.members[0];
    let start = net::now();
    let _first = member.admit(&alice(), &limits).await.unwrap();
    assert_eq!(net::now() - start, Duration::from_millis(20));
    // The next ones do not wait, and get a third of the limit.
    let _second = member.admit(&alice(), &limits).await.unwrap();
    let refused = member.admit(&alice(), &limits).await.unwrap_err();
    assert_eq!(net::now() - start, Duration::from_millis(20));
    assert_eq!(refused.reason(), Reason::TooManyConnections);
    assert_eq!(member.admission.asks().timeout, 1);
    // The store answers again.
    fleet.server.set_stalled(false);
    millis(1_000).await;
    let _third = member.admit(&alice(), &limits).await.unwrap();
    assert_eq!(member.admission.asks().granted, 1);
}

#[tokio::test(start_paused = true)]
async fn refusal_of_a_cut_off_member_names_its_share() {
    let fleet = Fleet::start(3, SharedLimits::Fast).await;
    fleet.server.set_reachable(false);
    millis(1_500).await;
    let limits = limits(None, Some(3));
    let member = &fleet.members[0];
    let _held = member.admit(&alice(), &limits).await.unwrap();
    let refused = member.admit(&alice(), &limits).await.unwrap_err();
    assert!(
        refused.to_string().contains("1/3 of the limit"),
        "{refused}"
    );
    assert_eq!(member.admission.asks(), AskCounts::default());
}

#[tokio::test(start_paused = true)]
async fn connection_dropped_while_waiting_is_not_counted() {
    let fleet = Fleet::start(2, SharedLimits::Exact).await;
    let limits = limits(None, Some(1));
    for wait in [0, 1, 2, 3] {
        let member = &fleet.members[0];
        let client = alice();
        let admit = member.admit(&client, &limits);
        let dropped = timeout(Duration::from_millis(wait), admit).await;
        drop(dropped);
        millis(200).await;
        assert_eq!(member.admission.limiters.open(&alice()), 0);
        assert_eq!(fleet.server.clients(), 0, "after {wait} ms");
    }
    drop(fleet.members[1].admit(&alice(), &limits).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn store_that_restarts_empty_learns_all_connections() {
    let fleet = Fleet::start(2, SharedLimits::Exact).await;
    let limits = limits(None, Some(2));
    let clients: Vec<_> = (0..1_000)
        .map(|n| ClientId::from(format!("cn:client{n}")))
        .collect();
    let mut held = Vec::new();
    for client in &clients {
        held.push(fleet.members[0].admit(client, &limits).await.unwrap());
        held.push(fleet.members[0].admit(client, &limits).await.unwrap());
    }
    millis(100).await;
    assert_eq!(fleet.server.clients(), 1_000);
    fleet.server.restart_empty();
    millis(1_000).await;
    assert_eq!(fleet.server.clients(), 1_000);
    for client in &clients {
        assert!(fleet.members[1].admit(client, &limits).await.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn member_that_is_killed_is_forgotten() {
    let mut fleet = Fleet::start(2, SharedLimits::Fast).await;
    let limits = limits(None, Some(1));
    let _held = fleet.members[0].admit(&alice(), &limits).await.unwrap();
    millis(50).await;
    fleet.members[0].kill();
    assert!(fleet.members[1].admit(&alice(), &limits).await.is_err());
    millis(3_500).await;
    drop(fleet.members[1].admit(&alice(), &limits).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn connections_of_the_predecessor_count_after_an_upgrade() {
    let mut fleet = Fleet::start(1, SharedLimits::Fast).await;
    let limits = limits(None, Some(10));
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(fleet.members[0].admit(&alice(), &limits).await.unwrap());
    }
    fleet.members[0].begin_leaving();
    fleet.add(1).await;
    assert!(fleet.members[1].admit(&alice(), &limits).await.is_err());
    held.pop();
    millis(100).await;
    let _new = fleet.members[1].admit(&alice(), &limits).await.unwrap();
    assert!(fleet.members[1].admit(&alice(), &limits).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn connections_outlive_the_membership() {
    let mut fleet = Fleet::start(2, SharedLimits::Fast).await;
    let limits = limits(Some((0.01, 6)), Some(2));
    let held = [
        fleet.members[0].admit(&alice(), &limits).await.unwrap(),
        fleet.members[0].admit(&alice(), &limits).await.unwrap(),
    ];
    fleet.members[0].leave();
    let member = &fleet.members[0];
    let refused = member.admit(&alice(), &limits).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::TooManyConnections);
    assert!(!refused.to_string().contains("fleet"), "{refused}");
    // The other member forgets it.
    millis(3_500).await;
    drop(fleet.members[1].admit(&alice(), &limits).await.unwrap());
    // It joins again, with the same connections.
    fleet.join(0);
    let member = &fleet.members[0];
    member.admission.share_open([(&alice(), &limits)]);
    millis(300).await;
    assert!(fleet.members[1].admit(&alice(), &limits).await.is_err());
    drop(held);
    millis(200).await;
    drop(fleet.members[1].admit(&alice(), &limits).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn connections_survive_a_change_of_the_fleet() {
    let mut fleet = Fleet::start(2, SharedLimits::Fast).await;
    let limits = limits(None, Some(2));
    let first = fleet.members[0].admit(&alice(), &limits).await.unwrap();
    let second = fleet.members[0].admit(&alice(), &limits).await.unwrap();
    millis(100).await;
    fleet.rejoin(0);
    millis(3_500).await;
    assert!(fleet.members[1].admit(&alice(), &limits).await.is_err());
    drop((first, second));
    millis(100).await;
    assert_eq!(fleet.server.clients(), 0, "no key is left");
}

#[test]
fn refusals_have_the_reason_of_the_limit() {
    let refusal = leastconn::Refusal::RateLimited {
        retry_after: Duration::from_millis(50),
    };
    let members = NonZeroU32::MIN.saturating_add(2);
    for scope in [Scope::Local, Scope::Fleet, Scope::Share(members)] {
        let refused = ClientRefusal::new(refusal, scope);
        assert_eq!(refused.reason(), Reason::RateLimited);
        assert!(refused.to_string().contains("the next is admitted in 50ms"));
    }
    let full = ClientRefusal::new(leastconn::Refusal::TableFull, Scope::Fleet);
    assert_eq!(full.to_string(), "the table of clients is full");
}
