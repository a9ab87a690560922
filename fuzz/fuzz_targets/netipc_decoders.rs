//! Every decoder of the services over any bytes: it refuses them, or what it reads can be written again and reads the
//! same.
#![no_main]

use ginnel_netipc::{
    AppsLookup, CgroupsLookup, Lookup, LookupDispatch, LookupRequest, LookupRequestBuilder, LookupResponse,
    LookupResponseBuilder, Snapshot, SnapshotBuilder, decode_increment, decode_snapshot_request, decode_string,
    encode_string, snapshot_len,
};
use libfuzzer_sys::fuzz_target;

fn lookup<L: Lookup>(bytes: &[u8]) {
    let mut again = Vec::new();
    if let Ok(request) = LookupRequest::<L>::decode(bytes) {
        let mut builder = LookupRequestBuilder::<L>::new(&mut again, usize::MAX, request.len()).unwrap();
        for key in request.keys() {
            builder.push(key).unwrap();
        }
        builder.finish();
        let second = LookupRequest::<L>::decode(&again).unwrap();
        assert_eq!(format!("{:?}", request.keys().collect::<Vec<_>>()), format!("{:?}", second.keys().collect::<Vec<_>>()));
        // A server of any limit answers it within the limit or refuses it before it begins.
        let mut response = Vec::new();
        let limit = bytes.len() * 3;
        if let Ok(dispatch) = LookupDispatch::new(request, &mut response, limit) {
            if request.is_empty() {
                assert!(dispatch.finish().unwrap() <= limit);
            }
        }
    }
    again.clear();
    if let Ok(response) = LookupResponse::<L>::decode(bytes) {
        let mut builder = LookupResponseBuilder::<L>::new(&mut again, usize::MAX, response.generation(), 0).unwrap();
        for answer in response.iter() {
            builder.push(answer.key, &answer.outcome).unwrap();
        }
        builder.finish();
        let second = LookupResponse::<L>::decode(&again).unwrap();
        assert_eq!(response.generation(), second.generation());
        for (one, other) in response.iter().zip(second.iter()) {
            assert_eq!(format!("{:?}", one.outcome), format!("{:?}", other.outcome));
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_increment(bytes);
    let _ = decode_snapshot_request(bytes);
    if let Ok(text) = decode_string(bytes) {
        let mut again = Vec::new();
        encode_string(&mut again, text, usize::MAX).unwrap();
        assert_eq!(decode_string(&again).unwrap(), text);
    }
    lookup::<CgroupsLookup>(bytes);
    lookup::<AppsLookup>(bytes);
    let Ok(snapshot) = Snapshot::decode(bytes) else { return };
    // Snapshots may hold NUL inside strings, which no builder writes.
    let sendable = snapshot.iter().all(|item| !item.name.contains(&0) && !item.path.contains(&0));
    let size: usize = snapshot.iter().map(|item| item.name.len() + item.path.len()).sum();
    if sendable && size < 1 << 20 {
        let mut again = Vec::new();
        let len = snapshot_len(snapshot.iter());
        let mut builder = SnapshotBuilder::new(&mut again, len, snapshot.systemd_enabled(), snapshot.generation(), 0).unwrap();
        for item in snapshot.iter() {
            builder.push(&item).unwrap();
        }
        assert_eq!(builder.finish(), len);
        assert!(Snapshot::decode(&again).unwrap().iter().eq(snapshot.iter()));
    }
});
