use super::*;

const MIB: u64 = 1 << 20;

#[test]
fn statm_is_read_in_bytes() {
    let statm = Statm::parse("100 20 10 5 0 30 0\n", 4096).unwrap();
    assert_eq!(statm.bytes(Measure::AddressSpace), 409_600);
    assert_eq!(statm.bytes(Measure::Resident), 81_920);
    assert_eq!(statm.bytes(Measure::Data), 122_880);
    assert_eq!(Statm::parse("", 4096), None);
}

/// Freed memory counts as free exactly once, whether the allocator keeps it or returns it.
#[test]
fn freed_memory_counts_as_free() {
    let new = || {
        Tracked::new(Limit {
            measure: Measure::Resident,
            bytes: 100 * MIB,
        })
    };
    let mut kept = new();
    assert_eq!(kept.update(90 * MIB, 60 * MIB), 90 * MIB);
    assert_eq!(kept.update(90 * MIB, 10 * MIB), 40 * MIB);
    assert_eq!(kept.update(90 * MIB, 60 * MIB), 90 * MIB);
    let mut returned = new();
    assert_eq!(returned.update(90 * MIB, 60 * MIB), 90 * MIB);
    assert_eq!(returned.update(40 * MIB, 10 * MIB), 40 * MIB);
    assert_eq!(returned.update(90 * MIB, 60 * MIB), 90 * MIB);
}

#[test]
fn budget_is_exceeded_above_the_limit() {
    let budget = Budget::new(MemoryLimit::Bytes(MIB));
    assert!(budget.is_exceeded());
    assert!(budget.usage().unwrap().used > MIB);
    budget.configure(MemoryLimit::Off);
    assert!(!budget.is_exceeded());
    assert_eq!(budget.usage(), None);
    budget.configure(MemoryLimit::Bytes(1 << 50));
    assert!(!budget.is_exceeded());
}
