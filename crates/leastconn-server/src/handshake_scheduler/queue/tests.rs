//! Compares the queue with a model: no handshake is lost, granted twice or overtaken.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

type SourceId = u8;

impl Source for u8 {
    /// Sources 10 to 19 are one group.
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
enum Stage {
    WaitsForPermit(Ticket),
    HasPermit,
    WaitsForSlice(Ticket),
    HasSlice,
}

struct Model {
    queue: Queue<SourceId, u32>,
    /// All handshakes, in order of arrival.
    handshakes: BTreeMap<u32, (SourceId, Stage)>,
    last_id: u32,
    /// Permits held before the last operation.
    permits_before: usize,
    /// For each group that waits for a time slice, the groups that have got a time slice since the
    /// wait began.
    slices_since: BTreeMap<SourceId, BTreeSet<SourceId>>,
}

#[derive(Clone, Debug)]
enum Op {
    AcquirePermit(SourceId),
    ReleasePermit(usize),
    AcquireSlice(usize),
    ReleaseSlice(usize),
    Cancel(usize),
    Resize(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        // Most handshakes come from one flooding source.
        3 => Just(Op::AcquirePermit(0)),
        2 => (1..5_u8).prop_map(Op::AcquirePermit),
        2 => (10..13_u8).prop_map(Op::AcquirePermit),
        2 => any::<usize>().prop_map(Op::ReleasePermit),
        4 => any::<usize>().prop_map(Op::AcquireSlice),
        4 => any::<usize>().prop_map(Op::ReleaseSlice),
        1 => any::<usize>().prop_map(Op::Cancel),
        1 => (1..12_usize).prop_map(Op::Resize),
    ]
}

impl Model {
    fn new(max_permits: usize, max_slices: usize, unscheduled: usize) -> Self {
        Self {
            queue: Queue::new(max_permits, max_slices, unscheduled),
            handshakes: BTreeMap::new(),
            last_id: 0,
            permits_before: 0,
            slices_since: BTreeMap::new(),
        }
    }

    /// Chooses one of the handshakes whose stage matches.
    fn choose(
        &self,
        index: usize,
        matches: impl Fn(Stage) -> bool,
    ) -> Option<(u32, SourceId, Stage)> {
        let all = self.handshakes.iter();
        let found: Vec<_> = all.filter(|(_, (_, stage))| matches(*stage)).collect();
        let (id, (source, stage)) = found.get(index.checked_rem(found.len())?)?;
        Some((**id, *source, *stage))
    }

    fn count(&self, matches: impl Fn(Stage) -> bool) -> usize {
        let all = self.handshakes.values();
        all.filter(|(_, stage)| matches(*stage)).count()
    }

    fn count_in_group(&self, source: SourceId, matches: impl Fn(Stage) -> bool) -> usize {
        let all = self.handshakes.values();
        all.filter(|(other, stage)| matches(*stage) && other.group() == source.group())
            .count()
    }

    fn groups(&self, matches: impl Fn(Stage) -> bool) -> BTreeSet<SourceId> {
        let all = self.handshakes.values();
        let found = all.filter(|(_, stage)| matches(*stage));
        found.map(|(source, _)| source.group()).collect()
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::AcquirePermit(source) => {
                self.last_id += 1;
                let id = self.last_id;
                let stage = match self.queue.acquire_permit(source, || id) {
                    PermitAnswer::Granted => Stage::HasPermit,
                    PermitAnswer::Queued(ticket) => Stage::WaitsForPermit(ticket),
                };
                self.handshakes.insert(id, (source, stage));
            }
            Op::ReleasePermit(index) => {
                if let Some((id, source, _)) = self.choose(index, |stage| stage == Stage::HasPermit)
                {
                    self.handshakes.remove(&id);
                    let granted = self.queue.release_permit(source);
                    granted.into_iter().for_each(|id| self.granted_permit(id));
                }
            }
            Op::AcquireSlice(index) => {
                let Some((id, source, _)) = self.choose(index, |stage| stage == Stage::HasPermit)
                else {
                    return;
                };
                let is_first = self.count_in_group(source, waits_for_slice) == 0;
                let stage = match self.queue.acquire_slice(source, || id) {
                    SliceAnswer::Unscheduled => {
                        assert!(self.count(has_permit) <= self.queue.unscheduled);
                        return;
                    }
                    SliceAnswer::Granted => Stage::HasSlice,
                    SliceAnswer::Queued(ticket) => Stage::WaitsForSlice(ticket),
                };
                self.handshakes.insert(id, (source, stage));
                if is_first && waits_for_slice(stage) {
                    self.slices_since.insert(source.group(), BTreeSet::new());
                }
            }
            Op::ReleaseSlice(index) => {
                if let Some((id, source, _)) = self.choose(index, |stage| stage == Stage::HasSlice)
                {
                    self.handshakes.insert(id, (source, Stage::HasPermit));
                    let next = self.queue.release_slice();
                    next.into_iter().for_each(|id| self.granted_slice(id));
                }
            }
            Op::Cancel(index) => {
                let waits =
                    |stage| matches!(stage, Stage::WaitsForPermit(_) | Stage::WaitsForSlice(_));
                match self.choose(index, waits) {
                    Some((id, source, Stage::WaitsForPermit(ticket))) => {
                        self.handshakes.remove(&id);
                        assert!(self.queue.cancel_permit(source, ticket));
                    }
                    Some((id, source, Stage::WaitsForSlice(ticket))) => {
                        self.handshakes.insert(id, (source, Stage::HasPermit));
                        assert!(self.queue.cancel_slice(source, ticket));
                    }
                    _ => {}
                }
            }
            Op::Resize(max) => {
                let granted = self.queue.resize(max);
                granted.into_iter().for_each(|id| self.granted_permit(id));
            }
        }
        // Lowering the limit revokes no permits, but no new ones are granted above it.
        let permits = self.count(has_permit);
        assert!(permits <= self.queue.max_permits.max(self.permits_before));
        self.permits_before = permits;
    }

    fn granted_permit(&mut self, id: u32) {
        let (source, stage) = self.handshakes[&id];
        assert!(waits_for_permit(stage), "{id} was in stage {stage:?}");
        let permits = |source| self.count_in_group(source, has_permit);
        let fewest = self.groups(waits_for_permit).into_iter().map(permits);
        assert_eq!(
            Some(permits(source)),
            fewest.min(),
            "the group with the fewest permits goes first"
        );
        let mut all = self.handshakes.iter();
        let first = all.find(|(_, (other, stage))| *other == source && waits_for_permit(*stage));
        assert_eq!(
            first.map(|(id, _)| *id),
            Some(id),
            "first come, first served within a source"
        );
        self.handshakes.insert(id, (source, Stage::HasPermit));
    }

    fn granted_slice(&mut self, id: u32) {
        let (source, stage) = self.handshakes[&id];
        let Stage::WaitsForSlice(own) = stage else {
            panic!("{id} was in stage {stage:?}")
        };
        // Compare tickets instead of IDs: handshakes may request slices in an order other than that
        // of their arrival.
        for (other, stage) in self.handshakes.values() {
            if let (true, Stage::WaitsForSlice(ticket)) = (*other == source, *stage) {
                assert!(own <= ticket, "first come, first served within a source");
            }
        }
        self.handshakes.insert(id, (source, Stage::HasSlice));
        let group = source.group();
        self.slices_since.insert(group, BTreeSet::new());
        for other in self.groups(waits_for_slice) {
            let since = self.slices_since.entry(other).or_default();
            assert!(
                other == group || since.insert(group),
                "{group} had two time slices while {other} waited"
            );
        }
    }

    fn check(&self) {
        let queue = &self.queue;
        assert_eq!(queue.permits, self.count(has_permit));
        let slices = self.count(|stage| stage == Stage::HasSlice);
        assert_eq!(queue.slices, slices);
        assert!(slices <= queue.max_slices);
        // No handshake waits while a permit or a time slice is free.
        assert!(self.count(waits_for_slice) == 0 || slices == queue.max_slices);
        for group in self.groups(waits_for_permit) {
            assert!(!queue.may_have_one_more(self.count_in_group(group, has_permit)));
        }
        // The queue stores nothing about handshakes that have ended.
        let known: BTreeSet<SourceId> = queue.groups.keys().copied().collect();
        assert_eq!(known, self.groups(|_| true));
        let slice_groups = self.groups(waits_for_slice).len();
        assert_eq!(queue.slice_order.len(), slice_groups);
        let permit_groups = self.groups(waits_for_permit).len();
        assert_eq!(queue.permit_order.len(), permit_groups);
    }
}

fn has_permit(stage: Stage) -> bool {
    !waits_for_permit(stage)
}

fn waits_for_permit(stage: Stage) -> bool {
    matches!(stage, Stage::WaitsForPermit(_))
}

fn waits_for_slice(stage: Stage) -> bool {
    matches!(stage, Stage::WaitsForSlice(_))
}

proptest! {
    #[test]
    fn all_handshakes_are_served_in_fair_order(
        max_permits in 1..12_usize, max_slices in 1..4_usize, unscheduled in 0..4_usize,
        ops in proptest::collection::vec(op(), 0..200),
    ) {
        let mut model = Model::new(max_permits, max_slices, unscheduled);
        for op in &ops {
            model.run(op);
            model.check();
        }
        // Complete the remaining handshakes.
        while !model.handshakes.is_empty() {
            for op in [Op::AcquireSlice(0), Op::ReleaseSlice(0), Op::ReleasePermit(0)] {
                model.run(&op);
                model.check();
            }
            // A handshake that waits for a time slice can complete only after it got the slice.
            while model.count(|stage| stage == Stage::HasSlice) > 0 {
                model.run(&Op::ReleaseSlice(0));
                model.check();
            }
        }
        prop_assert!(model.queue.groups.is_empty());
    }
}

#[test]
fn flooding_sources_leave_permits_for_others() {
    let mut queue: Queue<u32, u32> = Queue::new(256, 1, 16);
    let mut fill = |source| {
        let mut permits = 0;
        while queue.acquire_permit(source, || 0) == PermitAnswer::Granted {
            permits += 1;
        }
        permits
    };
    assert_eq!(fill(1), 171);
    assert_eq!(fill(2), 57);
    assert_eq!(fill(3), 19);
    assert_eq!(queue.acquire_permit(4, || 0), PermitAnswer::Granted);
}

#[test]
fn single_source_may_use_all_of_few_permits() {
    for max_permits in 1..=2 {
        let mut queue: Queue<u8, ()> = Queue::new(max_permits, 1, 16);
        for _ in 0..max_permits {
            assert_eq!(queue.acquire_permit(1, || ()), PermitAnswer::Granted);
        }
        let one_more = queue.acquire_permit(1, || ());
        assert!(matches!(one_more, PermitAnswer::Queued(_)));
    }
}

#[test]
fn new_source_gets_the_second_slice() {
    let mut queue: Queue<&str, &str> = Queue::new(256, 1, 0);
    for _ in 0..100 {
        let answer = queue.acquire_permit("flood", || "flood");
        assert_eq!(answer, PermitAnswer::Granted);
    }
    let first = queue.acquire_slice("flood", || "flood");
    assert_eq!(first, SliceAnswer::Granted);
    for _ in 1..100 {
        let answer = queue.acquire_slice("flood", || "flood");
        assert!(matches!(answer, SliceAnswer::Queued(_)));
    }
    assert_eq!(queue.acquire_permit("new", || "new"), PermitAnswer::Granted);
    let answer = queue.acquire_slice("new", || "new");
    assert!(matches!(answer, SliceAnswer::Queued(_)));
    assert_eq!(queue.release_slice(), Some("flood"));
    assert_eq!(queue.release_slice(), Some("new"));
    assert_eq!(queue.release_slice(), Some("flood"));
}

#[test]
fn sources_of_one_group_share_permits_and_slices() {
    let mut queue: Queue<&str, &str> = Queue::new(8, 1, 0);
    // Two sources of one group get no more permits than one source alone.
    let mut permits = 0;
    loop {
        let source = ["net/a", "net/b"][permits % 2];
        if queue.acquire_permit(source, || "net") != PermitAnswer::Granted {
            break;
        }
        permits += 1;
    }
    assert_eq!(permits, 6);
    let other = queue.acquire_permit("other", || "other");
    assert_eq!(other, PermitAnswer::Granted);
    for source in ["net/a", "net/a", "net/a", "net/c"] {
        let answer = queue.acquire_permit(source, || source);
        assert!(matches!(answer, PermitAnswer::Queued(_)));
    }
    // Within the group, the source with the fewest permits is next.
    assert_eq!(queue.release_permit("net/b"), [""; 0]);
    assert_eq!(queue.release_permit("net/b"), ["net/c"]);

    let mut queue: Queue<&str, &str> = Queue::new(256, 1, 0);
    for source in ["net/a", "net/b", "net/c", "other"] {
        for _ in 0..4 {
            let answer = queue.acquire_permit(source, || source);
            assert_eq!(answer, PermitAnswer::Granted);
        }
    }
    let first = queue.acquire_slice("net/a", || "net/a");
    assert_eq!(first, SliceAnswer::Granted);
    for source in [
        "net/a", "net/a", "net/b", "net/c", "other", "other", "other",
    ] {
        let answer = queue.acquire_slice(source, || source);
        assert!(matches!(answer, SliceAnswer::Queued(_)));
    }
    let order: Vec<_> = std::iter::from_fn(|| queue.release_slice()).collect();
    let expected = [
        "net/a", "other", "net/b", "other", "net/c", "other", "net/a",
    ];
    assert_eq!(order, expected);
}
