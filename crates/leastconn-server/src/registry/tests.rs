use super::*;

fn register(registry: &Arc<Registry>) -> Registered {
    let listener = Metrics::new().listener("main");
    registry.register(
        "main".into(),
        listener,
        "127.0.0.1:9".parse().unwrap(),
        net::now(),
    )
}

#[test]
fn it_lists_and_counts_what_is_open() {
    let registry = Arc::new(Registry::default());
    let open: Vec<_> = (0..100).map(|_| register(&registry)).collect();
    assert_eq!(registry.open(), 100);
    let mut ids: Vec<_> = registry.list().iter().map(|live| live.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100, "an ID was used twice");
    drop(open);
    assert_eq!(registry.open(), 0);
    assert!(registry.list().is_empty());
}

#[test]
fn the_first_reason_to_stop_stands() {
    let registry = Arc::new(Registry::default());
    let (one, _two) = (register(&registry), register(&registry));
    assert!(one.stop(Reason::Killed));
    assert!(!one.stop(Reason::Drained));
    // Those that somebody stopped before are not counted again.
    assert_eq!(registry.stop_all(Reason::Drained), 1);
    assert_eq!(registry.stop_all(Reason::Drained), 0);
}

#[test]
fn what_has_ended_and_only_says_good_bye_is_not_cut_off() {
    let registry = Arc::new(Registry::default());
    let refused = register(&registry);
    refused.ended(Reason::UnknownClient);
    assert_eq!(registry.stop_all(Reason::Drained), 0);
}

#[tokio::test]
async fn a_stop_is_seen_whether_it_comes_before_or_during_the_wait() {
    let registry = Arc::new(Registry::default());
    let before = register(&registry);
    before.stop(Reason::Killed);
    assert_eq!(before.stopped().await, Reason::Killed);
    // A stopped connection does nothing more, not even what is ready.
    assert_eq!(before.unless_stopped(async {}).await, Err(Reason::Killed));

    let during = register(&registry);
    let wait = during.unless_stopped(std::future::pending::<()>());
    let stop = async {
        tokio::task::yield_now().await;
        registry.stop_all(Reason::Drained)
    };
    let (ended, stopped) = tokio::join!(wait, stop);
    assert_eq!((ended, stopped), (Err(Reason::Drained), 1));
    let untouched = register(&registry);
    assert_eq!(untouched.unless_stopped(async { 7 }).await, Ok(7));
}

#[tokio::test]
async fn waiting_for_the_last_one_ends_with_it() {
    let registry = Arc::new(Registry::default());
    registry.wait_empty().await;
    let open: Vec<_> = (0..3).map(|_| register(&registry)).collect();
    let close = async {
        for one in open {
            tokio::task::yield_now().await;
            drop(one);
        }
    };
    tokio::join!(registry.wait_empty(), close);
    assert_eq!(registry.open(), 0);
}

#[test]
fn it_grows_as_old_as_it_may_or_a_tenth_less() {
    let registry = Arc::new(Registry::default());
    let age = Duration::from_secs(1000);
    let mut ends = std::collections::HashSet::new();
    for _ in 0..20 {
        let live = register(&registry);
        let start = net::now();
        live.lives_for(Some(age));
        assert_eq!(
            live.due(start + age * 9 / 10 - Duration::from_secs(1), 0),
            None
        );
        assert_eq!(live.due(net::now() + age, 0), Some(Due::Age));
        ends.insert(*live.ends.get().unwrap());
    }
    assert!(ends.len() > 10, "all at once");
    let live = register(&registry);
    for never in [None, Some(Duration::MAX)] {
        live.lives_for(never);
        assert_eq!(live.due(net::now() + age * 1_000_000, 0), None);
    }
}

#[test]
fn the_wall_clock_may_be_set() {
    let registry = Arc::new(Registry::default());
    let live = register(&registry);
    let now = net::now();
    assert_eq!(live.due(now, i64::MAX), None);
    live.expires.store(1000, Ordering::Relaxed);
    // The last second counts; forward; back again.
    for (seconds, due) in [
        (1000, None),
        (1001, Some(Due::Certificate)),
        (i64::MAX, Some(Due::Certificate)),
        (-5, None),
    ] {
        assert_eq!(live.due(now, seconds), due);
    }
    live.ended(Reason::Ok);
    assert_eq!(live.due(now, 1001), None);
}

#[test]
fn the_source_is_the_announced_one_and_the_first_announcement_stands() {
    let registry = Arc::new(Registry::default());
    let live = register(&registry);
    let peer = live.source();
    assert_eq!(live.proxy(), None);
    let ends = |source: &str| {
        let destination = "198.51.100.1:443".parse().unwrap();
        Endpoints::new(source.parse().unwrap(), destination)
    };
    live.announce(ends("192.0.2.7:1"));
    live.announce(ends("192.0.2.8:2"));
    let seen = &registry.list()[0];
    assert_eq!(seen.source(), "192.0.2.7:1".parse().unwrap());
    assert_eq!(seen.proxy(), Some(peer));
}
