//! The order against a model of it: nobody lost, nobody twice, nobody overtaken.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type Of = u8;

impl Source for u8 {
    /// 10 to 19 are one group.
    fn group(self) -> Self {
        if (10..20).contains(&self) { 10 } else { self }
    }
}

impl Source for u32 {
    fn group(self) -> Self {
        self
    }
}

impl Source for &str {
    fn group(self) -> Self {
        self.split_once('/').map_or(self, |(group, _)| group)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Entering(Ticket),
    InProgress,
    Stepping(Ticket),
    Turn,
}

/// All that wait or are in progress, by number; who came later has the higher one.
struct Model {
    queue: Queue<Of, u32>,
    all: BTreeMap<u32, (Of, At)>,
    next: u32,
    /// In progress before the last operation.
    most: usize,
    /// Of each group that waits for turns: which groups had one since it does.
    since: BTreeMap<Of, BTreeSet<Of>>,
}

#[derive(Clone, Debug)]
enum Op {
    Enter(Of),
    Leave(usize),
    Step(usize),
    Finish(usize),
    GiveUp(usize),
    Resize(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        // Mostly from one that floods.
        3 => Just(Op::Enter(0)),
        2 => (1..5_u8).prop_map(Op::Enter),
        2 => (10..13_u8).prop_map(Op::Enter),
        2 => any::<usize>().prop_map(Op::Leave),
        4 => any::<usize>().prop_map(Op::Step),
        4 => any::<usize>().prop_map(Op::Finish),
        1 => any::<usize>().prop_map(Op::GiveUp),
        1 => (1..12_usize).prop_map(Op::Resize),
    ]
}

impl Model {
    fn new(max: usize, turns: usize, few: usize) -> Self {
        Self {
            queue: Queue::new(max, turns, few),
            all: BTreeMap::new(),
            next: 0,
            most: 0,
            since: BTreeMap::new(),
        }
    }

    /// One of those that are where `at` says.
    fn choose(&self, which: usize, at: impl Fn(At) -> bool) -> Option<(u32, Of, At)> {
        let fit: Vec<_> = self.all.iter().filter(|(_, (_, is))| at(*is)).collect();
        let (id, (of, is)) = fit.get(which.checked_rem(fit.len())?)?;
        Some((**id, *of, *is))
    }

    fn count(&self, of: Option<Of>, at: impl Fn(At) -> bool) -> usize {
        let fit =
            |(source, is): &&(Of, At)| at(*is) && of.is_none_or(|of| of.group() == source.group());
        self.all.values().filter(fit).count()
    }

    fn waiting_groups(&self, at: impl Fn(At) -> bool) -> BTreeSet<Of> {
        let fit = self.all.values().filter(|(_, is)| at(*is));
        fit.map(|(of, _)| of.group()).collect()
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Enter(of) => {
                self.next += 1;
                let id = self.next;
                let at = match self.queue.enter(of, || id) {
                    Asked::Now => At::InProgress,
                    Asked::Wait(ticket) => At::Entering(ticket),
                };
                self.all.insert(id, (of, at));
            }
            Op::Leave(which) => {
                if let Some((id, of, _)) = self.choose(which, |at| at == At::InProgress) {
                    self.all.remove(&id);
                    let told = self.queue.leave(of);
                    told.into_iter().for_each(|id| self.entered(id));
                }
            }
            Op::Step(which) => {
                let Some((id, of, _)) = self.choose(which, |at| at == At::InProgress) else {
                    return;
                };
                let first = self.count(Some(of), is_stepping) == 0;
                let at = match self.queue.step(of, || id) {
                    Step::Free => {
                        assert!(self.count(None, is_in) <= self.queue.few);
                        return;
                    }
                    Step::Counted => At::Turn,
                    Step::Wait(ticket) => At::Stepping(ticket),
                };
                self.all.insert(id, (of, at));
                if first && is_stepping(at) {
                    self.since.insert(of.group(), BTreeSet::new());
                }
            }
            Op::Finish(which) => {
                if let Some((id, of, _)) = self.choose(which, |at| at == At::Turn) {
                    self.all.insert(id, (of, At::InProgress));
                    let next = self.queue.finish();
                    next.into_iter().for_each(|id| self.stepped(id));
                }
            }
            Op::GiveUp(which) => {
                let waits = |at| matches!(at, At::Entering(_) | At::Stepping(_));
                match self.choose(which, waits) {
                    Some((id, of, At::Entering(ticket))) => {
                        self.all.remove(&id);
                        assert!(self.queue.give_up_place(of, ticket));
                    }
                    Some((id, of, At::Stepping(ticket))) => {
                        self.all.insert(id, (of, At::InProgress));
                        assert!(self.queue.give_up_turn(of, ticket));
                    }
                    _ => {}
                }
            }
            Op::Resize(max) => {
                let told = self.queue.resize(max);
                told.into_iter().for_each(|id| self.entered(id));
            }
        }
        // Those that were more before it became smaller go on, and none is added.
        let in_progress = self.count(None, is_in);
        assert!(in_progress <= self.queue.max.max(self.most));
        self.most = in_progress;
    }

    /// `id` was told that it has a place.
    fn entered(&mut self, id: u32) {
        let (of, at) = self.all[&id];
        assert!(matches!(at, At::Entering(_)), "{id} was {at:?}");
        let has = |of| self.count(Some(of), is_in);
        let fewest = self.waiting_groups(is_entering).into_iter().map(has).min();
        assert_eq!(Some(has(of)), fewest, "the one with the fewest goes first");
        self.is_first_of_its_source(id, is_entering);
        self.all.insert(id, (of, At::InProgress));
    }

    /// `id` was told that it is its turn.
    fn stepped(&mut self, id: u32) {
        let (of, at) = self.all[&id];
        let At::Stepping(own) = at else {
            panic!("{id} was {at:?}")
        };
        // By ticket: who waits for a turn need not have come in that order.
        for (source, at) in self.all.values() {
            if let (true, At::Stepping(other)) = (*source == of, *at) {
                assert!(own <= other, "first come, first served within a source");
            }
        }
        self.all.insert(id, (of, At::Turn));
        let of = of.group();
        self.since.insert(of, BTreeSet::new());
        for other in self.waiting_groups(is_stepping) {
            let had = self.since.entry(other).or_default();
            assert!(
                other == of || had.insert(of),
                "{of} had two turns while {other} waited"
            );
        }
    }

    fn is_first_of_its_source(&self, id: u32, at: impl Fn(At) -> bool) {
        let (of, _) = self.all[&id];
        let mut all = self.all.iter();
        let first = all.find(|(_, (source, is))| *source == of && at(*is));
        assert_eq!(first.map(|(id, _)| *id), Some(id));
    }

    fn check(&self) {
        let queue = &self.queue;
        let in_progress = self.count(None, is_in);
        assert_eq!(queue.in_progress, in_progress);
        let turns = self.count(None, |at| at == At::Turn);
        assert_eq!(queue.taken, turns);
        assert!(turns <= queue.turns);
        // Nobody waits in vain.
        assert!(self.count(None, is_stepping) == 0 || turns == queue.turns);
        for of in self.waiting_groups(is_entering) {
            assert!(!queue.may_have(self.count(Some(of), is_in)));
        }
        // And nothing is kept of who is gone.
        let known: BTreeSet<Of> = self.all.values().map(|(of, _)| of.group()).collect();
        assert_eq!(queue.groups.keys().copied().collect::<BTreeSet<_>>(), known);
        assert_eq!(queue.ring.len(), self.waiting_groups(is_stepping).len());
        assert_eq!(queue.entering.len(), self.waiting_groups(is_entering).len());
    }
}

fn is_in(at: At) -> bool {
    !is_entering(at)
}

fn is_entering(at: At) -> bool {
    matches!(at, At::Entering(_))
}

fn is_stepping(at: At) -> bool {
    matches!(at, At::Stepping(_))
}

proptest! {
    #[test]
    fn whatever_happens_all_are_served_in_a_fair_order(
        max in 1..12_usize, turns in 1..4_usize, few in 0..4_usize,
        ops in proptest::collection::vec(op(), 0..200),
    ) {
        let mut model = Model::new(max, turns, few);
        for op in &ops {
            model.run(op);
            model.check();
        }
        // All that is left comes to its end.
        while !model.all.is_empty() {
            for op in [Op::Step(0), Op::Finish(0), Op::Leave(0)] {
                model.run(&op);
                model.check();
            }
            // Those that wait for turns end only by having them.
            while model.count(None, |at| at == At::Turn) > 0 {
                model.run(&Op::Finish(0));
                model.check();
            }
        }
        prop_assert!(model.queue.groups.is_empty());
    }
}

#[test]
fn who_floods_leaves_places_for_others_and_those_for_further_ones() {
    let mut queue: Queue<u32, u32> = Queue::new(256, 1, 16);
    let mut fill = |of| {
        let mut has = 0;
        while queue.enter(of, || 0) == Asked::Now {
            has += 1;
        }
        has
    };
    assert_eq!(fill(1), 171);
    assert_eq!(fill(2), 57);
    assert_eq!(fill(3), 19);
    // One that was never seen finds one.
    assert_eq!(queue.enter(4, || 0), Asked::Now);
}

#[test]
fn one_source_alone_may_have_the_last_place_of_few() {
    for max in 1..=2 {
        let mut queue: Queue<u8, ()> = Queue::new(max, 1, 16);
        for _ in 0..max {
            assert_eq!(queue.enter(1, || ()), Asked::Now);
        }
        assert!(matches!(queue.enter(1, || ()), Asked::Wait(_)));
    }
}

#[test]
fn a_newcomer_s_step_is_the_next_but_one() {
    let mut queue: Queue<&str, &str> = Queue::new(256, 1, 0);
    for _ in 0..100 {
        assert_eq!(queue.enter("flood", || "flood"), Asked::Now);
    }
    assert_eq!(queue.step("flood", || "flood"), Step::Counted);
    for _ in 1..100 {
        assert!(matches!(queue.step("flood", || "flood"), Step::Wait(_)));
    }
    assert_eq!(queue.enter("new", || "new"), Asked::Now);
    assert!(matches!(queue.step("new", || "new"), Step::Wait(_)));
    assert_eq!(queue.finish(), Some("flood"));
    assert_eq!(queue.finish(), Some("new"));
    assert_eq!(queue.finish(), Some("flood"));
}

#[test]
fn sources_of_one_group_share_its_turns_and_places() {
    let mut queue: Queue<&str, &str> = Queue::new(8, 1, 0);
    // Two sources of one group have no more places than one by itself.
    let mut has = 0;
    while queue.enter(["net/a", "net/b"][has % 2], || "net") == Asked::Now {
        has += 1;
    }
    assert_eq!(has, 6);
    assert_eq!(queue.enter("other", || "other"), Asked::Now);
    for _ in 0..3 {
        assert!(matches!(queue.enter("net/a", || "a"), Asked::Wait(_)));
    }
    assert!(matches!(queue.enter("net/c", || "c"), Asked::Wait(_)));
    // Within the group, the source with the fewest is next.
    assert_eq!(queue.leave("net/b"), [""; 0]);
    assert_eq!(queue.leave("net/b"), ["c"]);

    let mut queue: Queue<&str, &str> = Queue::new(256, 1, 0);
    for source in ["net/a", "net/b", "net/c", "other"] {
        for _ in 0..4 {
            assert_eq!(queue.enter(source, || source), Asked::Now);
        }
    }
    assert_eq!(queue.step("net/a", || "net/a"), Step::Counted);
    for source in [
        "net/a", "net/a", "net/b", "net/c", "other", "other", "other",
    ] {
        assert!(matches!(queue.step(source, || source), Step::Wait(_)));
    }
    let order: Vec<_> = std::iter::from_fn(|| queue.finish()).collect();
    let expected = [
        "net/a", "other", "net/b", "other", "net/c", "other", "net/a",
    ];
    assert_eq!(order, expected);
}
