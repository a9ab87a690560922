//! Whatever values are encoded come back; whatever bytes are decoded are either refused or mean something that encodes
//! again.

use ginnel_netipc::*;
use proptest::collection::vec;
use proptest::prelude::*;

fn text(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    vec(1u8.., len)
}

fn pairs() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
    vec((text(1..9), text(0..9)), 0..4)
}

fn borrowed(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<(&[u8], &[u8])> {
    pairs.iter().map(|(key, value)| (&key[..], &value[..])).collect()
}

fn respond<L: Lookup>(generation: u64, items: &[(L::Key<'_>, L::Outcome<'_>)]) -> Vec<u8> {
    let mut out = b"in front".to_vec();
    let mut builder = LookupResponseBuilder::<L>::new(&mut out, usize::MAX, generation, items.len() / 2).unwrap();
    for (key, outcome) in items {
        builder.push(*key, outcome).unwrap();
    }
    let len = builder.finish();
    assert_eq!(out.len(), 8 + len);
    out.split_off(8)
}

fn reencode<L: Lookup>(payload: &[u8]) -> Option<Vec<u8>> {
    let response = LookupResponse::<L>::decode(payload).ok()?;
    let items: Vec<_> = response.iter().map(|answer| (answer.key, answer.outcome)).collect();
    Some(respond::<L>(response.generation(), &items))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn snapshots(items in vec((any::<u32>(), any::<u32>(), text(0..40), text(0..60)), 0..40), hint in 0usize..60, generation: u64) {
        let cgroups: Vec<_> = items.iter().map(|(hash, options, name, path)|
            Cgroup { hash: *hash, options: *options, enabled: *options & 1, name, path }).collect();
        let mut payload = Vec::new();
        let mut builder = SnapshotBuilder::new(&mut payload, usize::MAX, 1, generation, hint).unwrap();
        for cgroup in &cgroups {
            builder.push(cgroup).unwrap();
        }
        builder.finish();
        let snapshot = Snapshot::decode(&payload).unwrap();
        prop_assert_eq!(snapshot.generation(), generation);
        prop_assert_eq!(snapshot.iter().collect::<Vec<_>>(), cgroups);
    }

    #[test]
    fn cgroup_lookups(items in vec((text(1..40), 0u8..5, any::<u16>(), text(0..20), pairs()), 0..20), generation: u64) {
        let labels: Vec<_> = items.iter().map(|item| borrowed(&item.4)).collect();
        let answers: Vec<(&[u8], CgroupOutcome<'_>)> = items.iter().zip(&labels).map(|(item, labels)| (&item.0[..], match item.1 {
            0 => CgroupOutcome::Known { orchestrator: Orchestrator(item.2), name: &item.3, labels: Labels::new(labels) },
            1 => CgroupOutcome::UnknownRetryLater,
            2 => CgroupOutcome::UnknownPermanent,
            3 => CgroupOutcome::PayloadExceeded,
            _ => CgroupOutcome::OversizedItem,
        })).collect();
        let payload = respond::<CgroupsLookup>(generation, &answers);
        let response = LookupResponse::<CgroupsLookup>::decode(&payload).unwrap();
        prop_assert_eq!(response.iter().map(|answer| (answer.key, answer.outcome)).collect::<Vec<_>>(), answers);
        prop_assert_eq!(reencode::<CgroupsLookup>(&payload).unwrap(), payload);
    }

    #[test]
    fn app_lookups(items in vec((any::<[u32; 3]>(), 0u8..8, any::<u64>(), text(1..16), text(1..30), text(0..20), pairs()), 0..20)) {
        let labels: Vec<_> = items.iter().map(|item| borrowed(&item.6)).collect();
        let answers: Vec<(u32, AppOutcome<'_>)> = items.iter().zip(&labels).map(|(item, labels)| {
            let ([pid, ppid, uid], path) = (item.0, &item.4[..]);
            let app = |cgroup| AppOutcome::Known(App { ppid, uid, starttime: item.2, comm: &item.3, cgroup });
            (pid, match item.1 {
                0 | 1 => app(AppCgroup::Known { path, name: &item.5, orchestrator: Orchestrator(7), labels: Labels::new(labels) }),
                2 => app(AppCgroup::UnknownRetryLater { path }),
                3 => app(AppCgroup::UnknownPermanent { path }),
                4 => app(AppCgroup::HostRoot),
                5 => AppOutcome::Unknown,
                6 => AppOutcome::PayloadExceeded,
                _ => AppOutcome::OversizedItem,
            })
        }).collect();
        let payload = respond::<AppsLookup>(3, &answers);
        let response = LookupResponse::<AppsLookup>::decode(&payload).unwrap();
        prop_assert_eq!(response.iter().map(|answer| (answer.key, answer.outcome)).collect::<Vec<_>>(), answers);
        prop_assert_eq!(reencode::<AppsLookup>(&payload).unwrap(), payload);
    }

    #[test]
    fn requests(paths in vec(text(1..50), 0..30), pids: Vec<u32>) {
        let mut payload = Vec::new();
        let mut builder = LookupRequestBuilder::<CgroupsLookup>::new(&mut payload, usize::MAX, 3).unwrap();
        for path in &paths {
            builder.push(path).unwrap();
        }
        builder.finish();
        let request = LookupRequest::<CgroupsLookup>::decode(&payload).unwrap();
        prop_assert!(request.keys().eq(paths.iter().map(Vec::as_slice)));
        payload.clear();
        let mut builder = LookupRequestBuilder::<AppsLookup>::new(&mut payload, usize::MAX, 0).unwrap();
        for pid in &pids {
            builder.push(*pid).unwrap();
        }
        builder.finish();
        prop_assert!(LookupRequest::<AppsLookup>::decode(&payload).unwrap().keys().eq(pids.iter().copied()));
    }

    /// Bytes that decode mean something: encoded again and decoded, they mean the same.
    #[test]
    fn wounded_responses(which in 0usize..6, wounds in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut: Option<prop::sample::Index>) {
        let vectors: [&[u8]; 6] = [
            include_bytes!("frozen/cgroups_lookup_resp_all.bin"),
            include_bytes!("frozen/apps_lookup_resp_all.bin"),
            include_bytes!("frozen/snapshot_usual.bin"),
            include_bytes!("../../wire/golden/netipc-v1/cgroups_lookup_resp_known_with_labels.bin"),
            include_bytes!("../../wire/golden/netipc-v1/apps_lookup_resp_known_full.bin"),
            include_bytes!("../../wire/golden/netipc-v1/cgroups_lookup_req.bin"),
        ];
        let mut bytes = vectors[which].to_vec();
        for (at, value) in wounds {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let _ = LookupRequest::<CgroupsLookup>::decode(&bytes).map(|request| request.keys().count());
        let _ = LookupRequest::<AppsLookup>::decode(&bytes).map(|request| request.keys().count());
        if let Some(again) = reencode::<CgroupsLookup>(&bytes) {
            prop_assert_eq!(reencode::<CgroupsLookup>(&again).unwrap(), again);
        }
        if let Some(again) = reencode::<AppsLookup>(&bytes) {
            prop_assert_eq!(reencode::<AppsLookup>(&again).unwrap(), again);
        }
        if let Ok(snapshot) = Snapshot::decode(&bytes) {
            let _ = CgroupTable::new(&snapshot).map(|table| table.iter().count());
        }
        let _ = decode_string(&bytes);
    }

    #[test]
    fn strings(text: Vec<u8>) {
        let mut payload = Vec::new();
        encode_string(&mut payload, &text, usize::MAX).unwrap();
        prop_assert_eq!(decode_string(&payload).unwrap(), text);
    }
}

#[test]
fn builders_refuse_what_they_cannot_send_and_keep_what_they_have() {
    let mut out = b"kept".to_vec();
    let mut builder = LookupRequestBuilder::<CgroupsLookup>::new(&mut out, 40, 0).unwrap();
    assert_eq!(builder.push(b""), Err(EncodeError::Empty { field: "path" }));
    assert_eq!(builder.push(b"/a\0b"), Err(EncodeError::InteriorNul { field: "path" }));
    builder.push(b"/123456").unwrap();
    assert_eq!(builder.push(b"/"), Err(EncodeError::TooLarge { needed: 16 + 16 + 8 + 2, limit: 40 }));
    assert_eq!(builder.finish(), 32);
    let request = LookupRequest::<CgroupsLookup>::decode(&out[4..]).unwrap();
    assert_eq!(request.keys().collect::<Vec<_>>(), [b"/123456"]);
}

#[test]
fn a_dropped_builder_takes_its_bytes_back() {
    let mut out = b"kept".to_vec();
    let mut builder = SnapshotBuilder::new(&mut out, 4096, 1, 1, 3).unwrap();
    builder.push(&Cgroup { hash: 1, options: 0, enabled: 0, name: b"a", path: b"b" }).unwrap();
    drop(builder);
    assert_eq!(out, b"kept");
}

#[test]
fn apps_that_no_decoder_would_take_are_refused() {
    let mut out = Vec::new();
    let mut builder = LookupResponseBuilder::<AppsLookup>::new(&mut out, 4096, 1, 1).unwrap();
    let mut refuse = |comm, cgroup| {
        builder.push(1, &AppOutcome::Known(App { ppid: 0, uid: 0, starttime: 0, comm, cgroup })).unwrap_err()
    };
    assert_eq!(refuse(b"", AppCgroup::HostRoot), EncodeError::Empty { field: "comm" });
    assert_eq!(refuse(&[b'x'; 16], AppCgroup::HostRoot), EncodeError::TooLong { field: "comm", len: 16, max: 15 });
    assert_eq!(refuse(b"x", AppCgroup::UnknownPermanent { path: b"" }), EncodeError::Empty { field: "cgroup path" });
    let labels: [(&[u8], &[u8]); 1] = [(b"", b"v")];
    let known =
        AppCgroup::Known { path: b"/", name: b"", orchestrator: Orchestrator::LXC, labels: Labels::new(&labels) };
    assert_eq!(refuse(b"x", known), EncodeError::Empty { field: "label key" });
}
