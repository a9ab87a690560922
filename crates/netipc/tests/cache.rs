//! The snapshot cache: finds what is there, keeps the last good data, never makes a reader wait, cannot be slowed by
//! its peer.

use ginnel_netipc::*;
use std::sync::atomic::{AtomicBool, Ordering};

fn snapshot<'a>(generation: u64, items: impl Iterator<Item = (u32, &'a [u8])>) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut builder = SnapshotBuilder::new(&mut payload, usize::MAX, 1, generation, 0).unwrap();
    for (hash, name) in items {
        builder
            .push(&Cgroup { hash, options: 0, enabled: 1, name, path: &[b"/sys/fs/cgroup/", name].concat() })
            .unwrap();
    }
    builder.finish();
    payload
}

fn numbered(count: u32) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("cgroup-{index}").into_bytes()).collect()
}

#[test]
fn every_item_is_found_by_hash_and_name_and_nothing_else_is() {
    let names = numbered(5000);
    let cache = CgroupCache::new();
    cache.apply(&snapshot(1, names.iter().enumerate().map(|(index, name)| (index as u32 * 7, &name[..])))).unwrap();
    let mut reader = cache.reader();
    for (index, name) in names.iter().enumerate() {
        let hash = index as u32 * 7;
        let found = reader.get(hash, name).expect("it is in the snapshot");
        assert_eq!((found.hash, found.name), (hash, &name[..]));
        assert_eq!(found.path, [b"/sys/fs/cgroup/", &name[..]].concat());
        assert_eq!(reader.get(hash + 1, name), None, "right name, wrong hash");
        assert_eq!(reader.get(hash, b"cgroup-x"), None, "right hash, wrong name");
    }
}

#[test]
fn of_two_items_with_one_key_the_first_is_found() {
    let mut payload = Vec::new();
    let mut builder = SnapshotBuilder::new(&mut payload, usize::MAX, 1, 1, 0).unwrap();
    for options in 0..100 {
        builder.push(&Cgroup { hash: 1, options, enabled: 1, name: b"twin", path: b"" }).unwrap();
    }
    builder.finish();
    let cache = CgroupCache::new();
    cache.apply(&payload).unwrap();
    assert_eq!(cache.table().get(1, b"twin").unwrap().options, 0);
}

#[test]
fn a_provider_that_gives_every_item_one_hash_slows_nobody_down() {
    // Linear probing alone would take 10^10 steps, minutes; with the index it is a blink.
    let names = numbered(100_000);
    let payload = snapshot(1, names.iter().map(|name| (0xdead_beef, &name[..])));
    let cache = CgroupCache::new();
    cache.apply(&payload).unwrap();
    let mut reader = cache.reader();
    for name in &names {
        assert_eq!(reader.get(0xdead_beef, name).unwrap().name, name);
    }
}

#[test]
fn a_failed_refresh_keeps_the_last_good_data_and_is_counted() {
    let cache = CgroupCache::new();
    let mut reader = cache.reader();
    let status = cache.status();
    assert_eq!((status.populated, status.items, status.age), (false, 0, None));
    assert_eq!(reader.get(1, b"one"), None);

    cache.fail();
    assert!(!cache.is_ready());
    let good = snapshot(41, [(1, &b"one"[..])].into_iter());
    cache.apply(&good).unwrap();
    assert!(cache.is_ready());

    let mut torn = good.clone();
    torn.truncate(good.len() - 1);
    cache.apply(&torn).unwrap_err();
    cache.fail();
    assert_eq!(reader.get(1, b"one").unwrap().path, b"/sys/fs/cgroup/one");
    let status = cache.status();
    assert_eq!((status.populated, status.items, status.generation), (true, 1, 41));
    assert_eq!((status.successes, status.failures, status.systemd_enabled), (1, 3, 1));
    assert!(status.age.is_some());
}

#[test]
fn a_refresh_replaces_everything_and_readers_see_it_at_their_next_lookup() {
    let cache = CgroupCache::new();
    cache.apply(&snapshot(1, [(1, &b"old"[..]), (2, b"stays")].into_iter())).unwrap();
    let mut reader = cache.reader();
    let kept = cache.table();
    assert!(reader.get(1, b"old").is_some());
    cache.apply(&snapshot(2, [(2, &b"stays"[..]), (3, b"new")].into_iter())).unwrap();
    assert_eq!(reader.get(1, b"old"), None);
    assert!(reader.get(2, b"stays").is_some() && reader.get(3, b"new").is_some());
    assert_eq!((kept.generation(), kept.get(1, b"old").is_some()), (1, true), "a table in hand does not change");
}

#[test]
fn readers_and_refreshes_together_see_whole_tables_only() {
    let cache = CgroupCache::new();
    let names = numbered(64);
    let payload = |generation: u64| snapshot(generation, names.iter().map(move |name| (generation as u32, &name[..])));
    cache.apply(&payload(1)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut reader = cache.reader();
                let mut last = 0;
                while !done.load(Ordering::Relaxed) {
                    let table = reader.table();
                    let generation = table.generation();
                    assert!(generation >= last, "a reader went back in time");
                    last = generation;
                    for name in &names {
                        assert!(table.get(generation as u32, name).is_some(), "half a table");
                    }
                }
            });
        }
        for generation in 2..300 {
            cache.apply(&payload(generation)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(cache.status().generation, 299);
}
