//! The snapshot cache over any bytes: refuses them and keeps what it had, or finds every item of theirs.
#![no_main]

use ginnel_netipc::{CgroupCache, Snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let cache = CgroupCache::new();
    let mut reader = cache.reader();
    let applied = cache.apply(bytes);
    assert_eq!(applied.is_ok(), cache.is_ready());
    if applied.is_err() {
        assert_eq!((cache.status().items, cache.status().failures), (0, 1));
        return;
    }
    let snapshot = Snapshot::decode(bytes).unwrap();
    for item in snapshot.iter() {
        let first = snapshot.iter().find(|other| (other.hash, other.name) == (item.hash, item.name));
        assert_eq!(reader.get(item.hash, item.name), first);
    }
    assert!(reader.table().iter().eq(snapshot.iter()));
});
