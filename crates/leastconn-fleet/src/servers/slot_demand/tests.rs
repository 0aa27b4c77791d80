use leastconn::net;

use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

/// Members that share the slots of one server, with an exact store.
struct Fleet {
    max: u32,
    now: Instant,
    members: Vec<Member>,
}

#[derive(Clone, Default)]
struct Member {
    demand: SlotDemand,
    /// Connections that want to be open, and that are open.
    load: u32,
    open: u32,
    /// Slots according to the store, and the limit for new connections.
    held: u32,
    limit: u32,
    want: u32,
    free: u32,
    unmet: u32,
}

impl Fleet {
    fn new(max: u32, members: usize) -> Self {
        Self {
            max,
            now: net::now(),
            members: vec![Member::default(); members],
        }
    }

    /// Opens and closes connections, then exchanges numbers with the store.
    fn exchange(&mut self, number: usize) {
        let members = u32::try_from(self.members.len()).unwrap();
        let others = || {
            let others = self.members.iter().enumerate();
            others.filter(move |(other, _)| *other != number)
        };
        let held: u32 = others().map(|(_, other)| other.held).sum();
        let unmet = others().map(|(_, other)| other.want.saturating_sub(other.held));
        let unmet = unmet.sum();
        let member = &mut self.members[number];
        member.open = member.open.min(member.load);
        member.open = member.open.max(member.load.min(member.limit));
        let wanted = member.demand.wanted(
            &SlotSituation {
                max: self.max,
                members,
                open: member.open,
                lacking: member.load - member.open,
                held: member.held,
                free: member.free,
                unmet: member.unmet,
            },
            self.now,
        );
        member.want = wanted.max(member.open);
        member.held = member.open.max(member.want.min(self.max - held));
        member.limit = member.held.min(wanted);
        member.free = self.max - held - member.held;
        member.unmet = unmet;
        let all: u32 = self.members.iter().map(|member| member.held).sum();
        assert!(all <= self.max);
    }

    /// Exchanges every 10 ms.
    fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.now += 10 * MILLISECOND;
            (0..self.members.len()).for_each(|number| self.exchange(number));
        }
    }

    fn held(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.held).collect()
    }

    fn open(&self) -> Vec<u32> {
        self.members.iter().map(|member| member.open).collect()
    }
}

#[test]
fn idle_members_hold_some_slots_and_leave_some_free() {
    let mut fleet = Fleet::new(20, 3);
    fleet.run(200);
    assert!(fleet.held().iter().all(|held| (3..=6).contains(held)));
    assert!(fleet.held().iter().sum::<u32>() <= 16, "{:?}", fleet.held());
}

#[test]
fn one_busy_member_gets_almost_all_slots() {
    let mut fleet = Fleet::new(20, 3);
    fleet.run(100);
    fleet.members[1].load = 50;
    fleet.run(10);
    assert!(fleet.open()[1] >= 19, "{:?}", fleet.open());
}

#[test]
fn busy_members_get_equal_shares() {
    let mut fleet = Fleet::new(20, 3);
    fleet.members[0].load = 50;
    fleet.run(50);
    assert_eq!(fleet.open()[0], 20);
    fleet.members[1].load = 50;
    fleet.members[2].load = 50;
    // The connections of the first member end one after the other and are replaced at once, if
    // it has a slot.
    for _ in 0..100 {
        fleet.run(1);
        fleet.members[0].open -= 1;
    }
    let mut open = fleet.open();
    fleet.run(20);
    open = fleet
        .open()
        .into_iter()
        .zip(open)
        .map(|(a, b)| a.max(b))
        .collect();
    open.sort_unstable();
    assert!(open[0] >= 6 && open.iter().sum::<u32>() >= 19, "{open:?}");
}

#[test]
fn only_slot_moves_to_the_member_in_need() {
    let mut fleet = Fleet::new(1, 3);
    for round in 0..6 {
        let busy = round % 3;
        for (number, member) in fleet.members.iter_mut().enumerate() {
            member.load = u32::from(number == busy);
        }
        fleet.run(30);
        assert_eq!(fleet.open()[busy], 1, "round {round}: {:?}", fleet.held());
    }
}

#[test]
fn members_take_turns_with_the_only_slot() {
    let mut fleet = Fleet::new(1, 3);
    fleet.members.iter_mut().for_each(|member| member.load = 5);
    let mut served = [0; 3];
    for _ in 0..1_000 {
        fleet.run(1);
        for (number, member) in fleet.members.iter_mut().enumerate() {
            // Each connection ends before the next exchange.
            served[number] += member.open;
            member.open = 0;
        }
    }
    assert!(served.iter().all(|&count| count > 30), "{served:?}");
}

#[test]
fn idle_slots_are_returned_when_others_lack_them() {
    let mut fleet = Fleet::new(10, 2);
    fleet.members[0].load = 10;
    fleet.run(20);
    fleet.members[0].load = 0;
    fleet.members[1].load = 10;
    fleet.run(10);
    assert_eq!(fleet.open(), [0, 10]);
}

#[test]
fn fair_shares_cover_all_slots_unless_members_outnumber_them() {
    assert_eq!(
        [fair_share(20, 3), fair_share(3, 3), fair_share(2, 3)],
        [7, 1, 0]
    );
    assert_eq!(fair_share(5, 0), 5);
}
