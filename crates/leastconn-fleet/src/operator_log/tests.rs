use proptest::prelude::*;

use super::*;

fn log() -> OperatorLog {
    OperatorLog::new("edge", Secret::new(b"secret of the fleet"))
}

fn block(number: usize, duration: u64) -> Command {
    Command::Block {
        target: BlockTarget::Identity(format!("cn:{number}")),
        duration: Some(Duration::from_micros(duration)),
    }
}

/// Applies a command as the store does.
fn apply(log: &mut OperatorLog, now: u64, command: &Command) {
    let entry = log.change(now, command).unwrap().entry.unwrap();
    log.merge(now, &[(entry.field.clone(), entry.to_string())]);
}

proptest! {
    /// `expire` does not look at the entries each time.
    #[test]
    fn expiry_is_noticed_when_it_is_due(
        steps in prop::collection::vec((0..4_usize, 1..100 * HOUR, 0..100 * HOUR), 1..20)
    ) {
        let mut log = log();
        let mut checked = 0;
        for (number, duration, now) in steps {
            // The clock may also go backwards.
            let is_expired = |(entry, content): &(StoredEntry, Content)| {
                !content.is_kept(entry.stamp, now)
                    || content.has_ended(now) != content.has_ended(checked)
            };
            let expected = log.entries.values().any(is_expired);
            prop_assert_eq!(log.expire(now), expected);
            prop_assert!(
                log.entries.values().all(|(entry, content)| content.is_kept(entry.stamp, now))
            );
            prop_assert!(!log.expire(now));
            apply(&mut log, now, &block(number, duration));
            checked = now;
        }
    }
}

#[test]
fn history_shares_the_entries() {
    let mut log = log();
    for number in 0..3 {
        apply(&mut log, 1, &block(number, HOUR));
    }
    let history = log.entries().clone();
    let stored: Vec<_> = history
        .iter()
        .map(|(field, (entry, _))| (field.clone(), entry.to_string()))
        .collect();
    log.merge(2, &stored);
    log.expire(3);
    assert!(Arc::ptr_eq(&history, log.entries()));
    // A change does not affect the history.
    apply(&mut log, 4, &block(3, HOUR));
    assert_eq!(history.len(), 3);
    assert_eq!(log.entries().len(), 4);
}
