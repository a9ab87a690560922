//! A cache keeps the last good snapshot, and its readers wait for nobody.

use ginnel_service::{Cache, Deadline, Table};
use std::sync::mpsc;
use std::time::Duration;

/// Looks until `done`, at most for as long as only a hang takes.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Deadline::after(Duration::from_secs(20));
    while !done() {
        assert!(!deadline.passed(), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_reader_looks_while_a_refresh_hangs() {
    let cache = Cache::new(Table::new([(1, "old")]));
    let mut reader = cache.reader();
    let (arrived, at_source) = mpsc::channel();
    let (go_on, released) = mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let cache = &cache;
        let refreshing = scope.spawn(move || {
            cache.refresh(|| {
                arrived.send(()).unwrap();
                released.recv().map(|()| Table::new([(1, "new")]))
            })
        });
        at_source.recv().unwrap();
        assert_eq!(reader.get(&1), Some(&(1, "old")));
        go_on.send(()).unwrap();
        refreshing.join().unwrap().unwrap();
    });
    assert_eq!(reader.get(&1), Some(&(1, "new")));
}

#[test]
fn a_failure_is_counted_and_keeps_the_last_good_data() {
    let cache = Cache::new(0);
    assert!(!cache.is_ready());
    assert_eq!(cache.counters().age, None);
    cache.refresh(|| Ok::<_, String>(7)).unwrap();
    assert_eq!(cache.refresh(|| Err("away")), Err("away"));
    assert!(cache.is_ready());
    let counters = cache.counters();
    assert_eq!((*cache.load(), counters.successes, counters.failures), (7, 1, 1));
    assert!(counters.age.is_some());
}

#[test]
fn many_readers_see_whole_snapshots_that_never_go_back() {
    let cache = Cache::new(Table::new((0..100).map(|key| (key, 0_u32))));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let mut reader = cache.reader();
            scope.spawn(move || {
                let mut last = 0;
                while last < 500 {
                    let table = reader.load();
                    let now = table.get(&0).unwrap().1;
                    assert!(now >= last, "{now} after {last}");
                    assert!((0..100).all(|key| table.get(&key) == Some(&(key, now))), "one snapshot");
                    last = now;
                }
            });
        }
        for round in 1..=500 {
            cache.replace((0..100).map(|key| (key, round)).collect());
        }
    });
}

#[test]
fn a_refresher_goes_on_after_failures_and_ends_when_it_is_stopped() {
    let cache = Cache::new(0_u32);
    let mut turn = 0;
    let refresher = cache
        .keep_fresh(Duration::from_millis(1), move || {
            turn += 1;
            if turn % 2 == 0 { Err("every other one fails") } else { Ok(turn) }
        })
        .unwrap();
    until("three refreshes succeed", || cache.counters().successes >= 3);
    refresher.stop();
    let ended = cache.counters();
    assert!(ended.failures >= 2, "{ended:?}");
    assert_eq!((cache.counters().successes, *cache.load() % 2), (ended.successes, 1));

    let idle = cache.keep_fresh(Duration::MAX, || Ok::<_, String>(0)).unwrap();
    until("the first refresh is at once", || *cache.load() == 0);
    idle.stop();
}
