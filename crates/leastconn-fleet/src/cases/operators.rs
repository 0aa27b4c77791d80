use std::time::Duration;

use super::{Bench, Case};
use crate::{
    Acknowledgement, BlockTarget, ClientKey, ClientReport, Command, CommandRecord, OperatorState,
    ServerKey, SlotReport,
    operator::{Block, ServerState, ServerWeight},
};

pub(super) const CASES: &[(&str, Case)] = &[
    ("states_reach_all_members", states_reach_all_members),
    ("weights_reach_all_members", weights_reach_all_members),
    ("last_command_wins", last_command_wins),
    (
        "several_commands_in_one_report",
        several_commands_in_one_report,
    ),
    ("blocks_expire", blocks_expire),
    ("blocks_can_be_removed", blocks_can_be_removed),
    ("states_survive_all_members", states_survive_all_members),
    ("kills_reach_members_once", kills_reach_members_once),
    ("kills_are_acknowledged", kills_are_acknowledged),
    (
        "old_kills_are_not_carried_out",
        old_kills_are_not_carried_out,
    ),
    ("odd_values_are_ignored", odd_values_are_ignored),
    (
        "block_that_ended_replaces_the_one_before",
        block_that_ended_replaces_the_one_before,
    ),
    (
        "commands_are_signed_with_the_current_time",
        commands_are_signed_with_the_current_time,
    ),
    (
        "states_survive_a_long_outage_and_a_restart",
        states_survive_a_long_outage_and_a_restart,
    ),
    (
        "entry_with_a_huge_stamp_is_replaced",
        entry_with_a_huge_stamp_is_replaced,
    ),
    (
        "invalid_entries_are_removed_after_a_day",
        invalid_entries_are_removed_after_a_day,
    ),
    ("old_entries_have_no_effect", old_entries_have_no_effect),
    (
        "restored_entry_is_replaced_by_its_successor",
        restored_entry_is_replaced_by_its_successor,
    ),
    (
        "states_are_confirmed_for_days",
        states_are_confirmed_for_days,
    ),
    (
        "keys_of_another_type_are_replaced",
        keys_of_another_type_are_replaced,
    ),
];

fn state(server: &str, state: &str) -> Command {
    Command::State {
        upstream: "web".to_owned(),
        server: server.to_owned(),
        state: state.to_owned(),
        grace: Duration::from_secs(5),
    }
}

fn block(duration: Option<u64>) -> Command {
    Command::Block {
        target: BlockTarget::Identity("cn:web1".to_owned()),
        duration: duration.map(Duration::from_secs),
    }
}

fn kill(id: &str) -> Command {
    Command::Kill {
        id: id.to_owned(),
        filter: r#"{"client":"web1"}"#.to_owned(),
    }
}

/// The state that a member receives, which must have changed.
fn changed(bench: &mut Bench, member: usize) -> OperatorState {
    let operators = bench.beat(member).operators;
    OperatorState::clone(&operators.expect("a changed state"))
}

fn states(state: &OperatorState) -> Vec<(&str, &str)> {
    let states = state.states.iter();
    states
        .map(|state| (state.server.as_str(), state.state.as_str()))
        .collect()
}

fn states_reach_all_members(bench: &mut Bench) {
    bench.beat(0);
    bench.beat(1);
    let view = bench.command(0, state("web1", "drain"));
    let own = view.operators.expect("the state, at once");
    let expected = ServerState {
        upstream: "web".to_owned(),
        server: "web1".to_owned(),
        state: "drain".to_owned(),
        grace: Duration::from_secs(5),
    };
    assert_eq!(own.states, std::slice::from_ref(&expected));
    let other = changed(bench, 1);
    assert_eq!(other, *own);
    assert_eq!(bench.beat(1).operators, None);
    // Also a member that joins later.
    assert_eq!(changed(bench, 2).states, [expected]);

    bench.command(1, state("web1", "ready"));
    let state = changed(bench, 0);
    assert_eq!(states(&state), []);
    assert_ne!(state.version, other.version);
}

fn weights_reach_all_members(bench: &mut Bench) {
    let weight = |weight: &str| Command::Weight {
        upstream: "web".to_owned(),
        server: "web1".to_owned(),
        weight: weight.to_owned(),
    };
    bench.beat(1);
    // The first exchange of the member carries a command.
    bench.command(0, weight("50%"));
    let expected = ServerWeight {
        upstream: "web".to_owned(),
        server: "web1".to_owned(),
        weight: "50%".to_owned(),
    };
    assert_eq!(changed(bench, 1).weights, [expected]);
    bench.command(0, weight("100%"));
    assert_eq!(changed(bench, 1).weights, []);
}

fn last_command_wins(bench: &mut Bench) {
    for member in [0, 1] {
        bench.beat(member);
    }
    // The second command is sent by a member that does not know the first.
    bench.advance(0.05);
    bench.command(0, state("web1", "drain"));
    let view = bench.command(1, state("web1", "maint"));
    assert_eq!(states(&view.operators.unwrap()), [("web1", "maint")]);
    assert_eq!(states(&changed(bench, 0)), [("web1", "maint")]);
    // Also if the clock has gone back.
    bench.turn_back(3600.0);
    bench.command(0, state("web1", "drain"));
    assert_eq!(states(&changed(bench, 1)), [("web1", "drain")]);
}

fn several_commands_in_one_report(bench: &mut Bench) {
    bench.report(0).commands = vec![
        state("web1", "drain"),
        state("web2", "drain"),
        state("web1", "maint"),
        state("web3", "drain"),
        state("web3", "ready"),
    ];
    bench.beat(0);
    let expected = [("web1", "maint"), ("web2", "drain")];
    assert_eq!(states(&changed(bench, 1)), expected);
    // The answer was lost, and the commands are repeated.
    bench.disconnect(0);
    bench.beat(0);
    assert_eq!(states(&changed(bench, 1)), expected);
}

fn blocks_expire(bench: &mut Bench) {
    bench.beat(0);
    bench.command(0, block(Some(60)));
    bench.advance(2.0);
    let expected = |remaining| Block {
        target: BlockTarget::Identity("cn:web1".to_owned()),
        remaining: Some(Duration::from_secs(remaining)),
    };
    assert_eq!(changed(bench, 1).blocks, [expected(58)]);
    bench.advance(57.0);
    bench.beat(0);
    bench.advance(2.0);
    assert_eq!(changed(bench, 0).blocks, []);
    assert_eq!(bench.beat(0).operators, None);
}

fn blocks_can_be_removed(bench: &mut Bench) {
    bench.command(0, block(None));
    let serial = BlockTarget::Serial("a1b2".to_owned());
    bench.command(
        0,
        Command::Block {
            target: serial.clone(),
            duration: None,
        },
    );
    assert_eq!(changed(bench, 1).blocks.len(), 2);
    let target = BlockTarget::Identity("cn:web1".to_owned());
    bench.command(1, Command::Unblock { target });
    let expected = Block {
        target: serial,
        remaining: None,
    };
    assert_eq!(changed(bench, 0).blocks, [expected]);
}

fn states_survive_all_members(bench: &mut Bench) {
    bench.command(0, state("web1", "drain"));
    bench.advance(3600.0);
    assert_eq!(states(&changed(bench, 1)), [("web1", "drain")]);
}

fn kills_reach_members_once(bench: &mut Bench) {
    for member in [0, 1, 2] {
        assert_eq!(bench.beat(member).kills, []);
    }
    assert_eq!(bench.command(0, kill("k1")).kills, []);
    let expected = CommandRecord {
        id: "k1".to_owned(),
        filter: r#"{"client":"web1"}"#.to_owned(),
    };
    for member in [1, 2] {
        assert_eq!(bench.beat(member).kills, std::slice::from_ref(&expected));
        assert_eq!(bench.beat(member).kills, []);
    }
    // The answer was lost, and the command is repeated.
    bench.disconnect(0);
    bench.command(0, kill("k1"));
    bench.disconnect(1);
    for member in [0, 1, 2] {
        assert_eq!(bench.beat(member).kills, []);
    }
    // A member that joins later has no connections from before.
    assert_eq!(bench.beat(3).kills, []);
}

fn kills_are_acknowledged(bench: &mut Bench) {
    for member in [0, 1, 2] {
        bench.beat(member);
    }
    bench.command(0, kill("k1"));
    let acknowledgement = Acknowledgement {
        id: "k1".to_owned(),
        killed: 3,
    };
    for _ in 0..2 {
        bench.report(1).acknowledgements = vec![acknowledgement.clone()];
        bench.beat(1);
        bench.disconnect(1);
    }
    let member = bench.report(1).member.clone();
    assert_eq!(bench.beat(0).acknowledgements, [(member, acknowledgement)]);
    assert_eq!(bench.beat(0).acknowledgements, []);
    assert_eq!(bench.beat(2).acknowledgements, []);
}

fn old_kills_are_not_carried_out(bench: &mut Bench) {
    for member in [0, 1, 2] {
        bench.beat(member);
    }
    bench.command(0, kill("k1"));
    bench.advance(50.0);
    assert_eq!(bench.beat(1).kills.len(), 1);
    bench.advance(20.0);
    assert_eq!(bench.beat(2).kills, []);
}

/// Uses all keys. Returns the connections of other members and the slots held.
fn use_all(bench: &mut Bench, member: usize) -> (u32, u32) {
    let client = ClientReport {
        client: ClientKey([7; 16]),
        admitted: 1,
        ask: 1,
        rate: 10.0,
        burst: 20,
        max_conns: 50,
        open: 1,
        used: None,
    };
    let slot = SlotReport {
        server: ServerKey(42),
        max: 20,
        want: 4,
        open: 2,
    };
    let others = bench.limit(member, client).others_open;
    (others, bench.slots(member, slot).held)
}

fn odd_values_are_ignored(bench: &mut Bench) {
    for member in [0, 1] {
        bench.set_facts(member, 1);
        use_all(bench, member);
    }
    bench.command(0, kill("k1"));
    bench.command(1, state("web1", "drain"));
    bench.advance(0.1);
    bench.beat(0);
    bench.write_odd_values();
    bench.disconnect(0);
    // An event and a state. They are reported once.
    assert_eq!(bench.beat(0).invalid_signatures, 2);
    bench.disconnect(0);
    assert_eq!(bench.beat(0).invalid_signatures, 0);
    assert_eq!(use_all(bench, 0), (0, 4));
    assert_eq!(use_all(bench, 1), (2, 4));
    // The member has restored the state that the odd values replaced.
    assert_eq!(states(&changed(bench, 2)), [("web1", "drain")]);
    bench.command(1, state("web1", "ready"));
    assert_eq!(states(&changed(bench, 0)), []);
}

fn keys_of_another_type_are_replaced(bench: &mut Bench) {
    for member in [0, 1] {
        bench.set_facts(member, 1);
        use_all(bench, member);
    }
    bench.command(0, kill("k1"));
    bench.command(1, state("web1", "drain"));
    bench.beat(0);
    bench.replace_keys();
    // The first exchange may fail, which breaks the connection.
    bench.disconnect(0);
    assert!(bench.beat(0).forgotten);
    // Until the fleet has settled.
    for _ in 0..3 {
        bench.advance(2.0);
        bench.beat(0);
    }
    assert_eq!(use_all(bench, 0), (0, 4));
    assert_eq!(use_all(bench, 1), (2, 4));
    assert_eq!(states(&changed(bench, 2)), [("web1", "drain")]);
}

fn block_that_ended_replaces_the_one_before(bench: &mut Bench) {
    bench.command(0, block(None));
    assert_eq!(changed(bench, 1).blocks.len(), 1);
    bench.command(0, block(Some(60)));
    bench.advance(61.0);
    bench.beat(0);
    // Any change removes expired entries from the store.
    bench.command(0, state("web1", "drain"));
    // This member knows the first block only.
    bench.disconnect(1);
    assert_eq!(changed(bench, 1).blocks, []);
    assert_eq!(changed(bench, 2).blocks, []);
}

fn commands_are_signed_with_the_current_time(bench: &mut Bench) {
    bench.beat(0);
    bench.disconnect(0);
    bench.advance(600.0);
    bench.command(0, block(Some(60)));
    let expected = Some(Duration::from_secs(60));
    assert_eq!(changed(bench, 1).blocks[0].remaining, expected);
}

fn states_survive_a_long_outage_and_a_restart(bench: &mut Bench) {
    bench.command(0, state("web1", "drain"));
    assert_eq!(states(&changed(bench, 1)), [("web1", "drain")]);
    bench.replace_keys();
    bench.advance(13.0 * 3600.0);
    for member in [0, 1] {
        bench.disconnect(member);
        bench.beat(member);
    }
    assert_eq!(states(&changed(bench, 2)), [("web1", "drain")]);
}

const FIELD: &str = "state/web/web1";

/// No member can issue a later one.
const HUGE: &str = "9007199254740991 9007199254740991 9007199254740991 00 {}";

/// The state that a member receives first.
fn first_states(bench: &mut Bench, member: usize) -> Vec<String> {
    let state = changed(bench, member);
    let states = state.states.iter();
    states.map(|state| state.state.clone()).collect()
}

fn entry_with_a_huge_stamp_is_replaced(bench: &mut Bench) {
    bench.beat(0);
    bench.command(1, state("web2", "drain"));
    bench.beat(0);
    // The version is unchanged, so that the member does not know the entry.
    bench.set_entry(FIELD, HUGE);
    let view = bench.command(0, state("web1", "drain"));
    assert_eq!(view.refused, []);
    assert_eq!(view.operators.map(|state| state.states.len()), Some(2));
    assert_eq!(changed(bench, 1).states.len(), 2);
    // A member that knows what was set replaces such an entry.
    bench.set_entry(FIELD, HUGE);
    bench.disconnect(1);
    assert_eq!(bench.beat(1).operators, None);
    assert_eq!(first_states(bench, 2), ["drain", "drain"]);
}

/// Time passes while the member exchanges.
fn pass_hours(bench: &mut Bench, member: usize, hours: u32) {
    for _ in 0..hours.div_ceil(6) {
        bench.advance(6.0 * 3600.0);
        bench.beat(member);
    }
}

fn invalid_entries_are_removed_after_a_day(bench: &mut Bench) {
    bench.command(0, state("web2", "drain"));
    bench.set_entry(FIELD, HUGE);
    bench.disconnect(0);
    assert_eq!(bench.beat(0).invalid_signatures, 1);
    pass_hours(bench, 0, 18);
    assert!(bench.entry(FIELD).is_some());
    pass_hours(bench, 0, 12);
    assert_eq!(bench.entry(FIELD), None);
}

fn old_entries_have_no_effect(bench: &mut Bench) {
    bench.command(0, state("web1", "drain"));
    let recorded = bench.entry(FIELD).expect("an entry");
    bench.command(0, state("web1", "ready"));
    pass_hours(bench, 0, 60);
    assert_eq!(bench.entry(FIELD), None);
    // Members have forgotten the later state.
    bench.set_entry(FIELD, &recorded);
    bench.disconnect(0);
    assert_eq!(bench.beat(0).operators, None);
    assert!(first_states(bench, 1).is_empty());
    assert_eq!(bench.entry(FIELD), None);
}

fn restored_entry_is_replaced_by_its_successor(bench: &mut Bench) {
    bench.command(0, state("web1", "drain"));
    let recorded = bench.entry(FIELD).expect("an entry");
    bench.command(0, state("web1", "ready"));
    pass_hours(bench, 0, 18);
    bench.set_entry(FIELD, &recorded);
    bench.disconnect(0);
    assert_eq!(bench.beat(0).operators, None);
    assert!(first_states(bench, 1).is_empty());
}

fn states_are_confirmed_for_days(bench: &mut Bench) {
    bench.command(0, state("web1", "drain"));
    let block = Command::Block {
        target: BlockTarget::Serial("a1".to_owned()),
        duration: Some(Duration::from_secs(20 * 24 * 3600)),
    };
    bench.command(0, block);
    pass_hours(bench, 0, 10 * 24);
    let state = changed(bench, 1);
    assert_eq!(states(&state), [("web1", "drain")]);
    let remaining = state.blocks[0].remaining.expect("a limited time");
    assert_eq!(remaining, Duration::from_secs(10 * 24 * 3600));
}
