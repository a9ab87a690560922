//! The field's golden vectors and our own frozen ones: each decodes to its values and encodes to the same bytes.
//!
//! Of the 26 golden vectors the 22 payloads are here; the four of envelope, chunk and handshake are tests of
//! `ginnel-wire`.

#![cfg(target_endian = "little")]

use ginnel_netipc::*;

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../wire/golden/netipc-v1/", $name, ".bin"))
    };
}

fn encode_snapshot(systemd: u32, generation: u64, items: &[Cgroup<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = SnapshotBuilder::new(&mut out, 1 << 20, systemd, generation, items.len()).unwrap();
    for item in items {
        builder.push(item).unwrap();
    }
    builder.finish();
    out
}

fn encode_request<L: Lookup>(keys: &[L::Key<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = LookupRequestBuilder::<L>::new(&mut out, 1 << 20, 0).unwrap();
    for key in keys {
        builder.push(*key).unwrap();
    }
    builder.finish();
    out
}

fn encode_response<L: Lookup>(generation: u64, items: &[(L::Key<'_>, L::Outcome<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = LookupResponseBuilder::<L>::new(&mut out, 1 << 20, generation, items.len()).unwrap();
    for (key, outcome) in items {
        builder.push(*key, outcome).unwrap();
    }
    builder.finish();
    out
}

fn cgroup<'a>(hash: u32, options: u32, enabled: u32, name: &'a str, path: &'a str) -> Cgroup<'a> {
    Cgroup { hash, options, enabled, name: name.as_bytes(), path: path.as_bytes() }
}

fn check_cgroup(vector: &[u8], generation: u64, path: &[u8], outcome: CgroupOutcome<'_>) {
    let response = LookupResponse::<CgroupsLookup>::decode(vector).unwrap();
    assert_eq!((response.generation(), response.len()), (generation, 1));
    let answer = response.get(0).unwrap();
    assert_eq!((answer.key, answer.outcome), (path, outcome));
    assert_eq!(encode_response::<CgroupsLookup>(generation, &[(path, outcome)]), vector);
    assert_eq!(encode_response::<CgroupsLookup>(generation, &[(answer.key, answer.outcome)]), vector);
}

fn check_app(vector: &[u8], generation: u64, pid: u32, outcome: AppOutcome<'_>) {
    let response = LookupResponse::<AppsLookup>::decode(vector).unwrap();
    assert_eq!((response.generation(), response.len()), (generation, 1));
    let answer = response.get(0).unwrap();
    assert_eq!((answer.key, answer.outcome), (pid, outcome));
    assert_eq!(encode_response::<AppsLookup>(generation, &[(pid, outcome)]), vector);
    assert_eq!(encode_response::<AppsLookup>(generation, &[(answer.key, answer.outcome)]), vector);
}

#[test]
fn the_snapshot_request_is_four_bytes() {
    let mut out = Vec::new();
    encode_snapshot_request(&mut out);
    assert_eq!(out, vector!("cgroups_req"));
    decode_snapshot_request(&out).unwrap();
    out.extend_from_slice(b"whatever a later version appends");
    decode_snapshot_request(&out).unwrap();
}

#[test]
fn the_snapshot_of_three_cgroups() {
    let items = [
        cgroup(100, 0, 1, "init.scope", "/sys/fs/cgroup/init.scope"),
        cgroup(200, 2, 0, "system.slice/docker-abc.scope", "/sys/fs/cgroup/system.slice/docker-abc.scope"),
        cgroup(300, 0, 1, "", ""),
    ];
    let vector = vector!("cgroups_resp");
    let snapshot = Snapshot::decode(vector).unwrap();
    assert_eq!((snapshot.systemd_enabled(), snapshot.generation()), (1, 999));
    assert_eq!(snapshot.iter().collect::<Vec<_>>(), items);
    assert_eq!(encode_snapshot(1, 999, &items), vector);
}

#[test]
fn the_empty_snapshot() {
    let vector = vector!("cgroups_resp_empty");
    let snapshot = Snapshot::decode(vector).unwrap();
    assert_eq!((snapshot.systemd_enabled(), snapshot.generation(), snapshot.len()), (0, 42, 0));
    assert_eq!(encode_snapshot(0, 42, &[]), vector);
}

#[test]
fn cgroup_paths_asked_for() {
    let vector = vector!("cgroups_lookup_req");
    let keys: [&[u8]; 2] = [b"/sys/fs/cgroup/a", b"/system.slice/docker-abc.scope"];
    let request = LookupRequest::<CgroupsLookup>::decode(vector).unwrap();
    assert_eq!(request.keys().collect::<Vec<_>>(), keys);
    assert_eq!(encode_request::<CgroupsLookup>(&keys), vector);
}

#[test]
fn requests_and_responses_about_nothing() {
    for vector in [vector!("cgroups_lookup_req_empty"), vector!("apps_lookup_req_empty")] {
        assert!(LookupRequest::<CgroupsLookup>::decode(vector).unwrap().is_empty());
        assert_eq!(encode_request::<CgroupsLookup>(&[]), vector);
        assert_eq!(encode_request::<AppsLookup>(&[]), vector);
    }
    let vector = vector!("cgroups_lookup_resp_empty");
    let response = LookupResponse::<CgroupsLookup>::decode(vector).unwrap();
    assert_eq!((response.len(), response.generation()), (0, 106));
    assert_eq!(encode_response::<CgroupsLookup>(106, &[]), vector);
    let vector = vector!("apps_lookup_resp_empty");
    let response = LookupResponse::<AppsLookup>::decode(vector).unwrap();
    assert_eq!((response.len(), response.generation()), (0, 207));
    assert_eq!(encode_response::<AppsLookup>(207, &[]), vector);
}

#[test]
fn a_known_cgroup_with_labels() {
    let labels: [(&[u8], &[u8]); 2] = [(b"namespace", b"default"), (b"pod", b"web")];
    let outcome =
        CgroupOutcome::Known { orchestrator: Orchestrator::K8S, name: b"pod-a", labels: Labels::new(&labels) };
    check_cgroup(vector!("cgroups_lookup_resp_known_with_labels"), 100, b"/kubepods.slice/pod-a", outcome);
}

#[test]
fn a_known_cgroup_without_name_and_labels() {
    let outcome = CgroupOutcome::Known { orchestrator: Orchestrator::DOCKER, name: b"", labels: Labels::NONE };
    check_cgroup(vector!("cgroups_lookup_resp_known_no_labels"), 101, b"/docker/abc", outcome);
}

#[test]
fn cgroups_that_are_not_known_or_did_not_fit() {
    for (vector, generation, path, outcome) in [
        (
            &vector!("cgroups_lookup_resp_unknown_retry")[..],
            102,
            &b"/missing/retry"[..],
            CgroupOutcome::UnknownRetryLater,
        ),
        (vector!("cgroups_lookup_resp_unknown_permanent"), 103, b"/gone", CgroupOutcome::UnknownPermanent),
        (vector!("cgroups_lookup_resp_payload_exceeded"), 104, b"/payload-exceeded", CgroupOutcome::PayloadExceeded),
        (vector!("cgroups_lookup_resp_oversized_item"), 105, b"/oversized", CgroupOutcome::OversizedItem),
    ] {
        check_cgroup(vector, generation, path, outcome);
    }
}

#[test]
fn pids_asked_for() {
    let vector = vector!("apps_lookup_req");
    let request = LookupRequest::<AppsLookup>::decode(vector).unwrap();
    assert_eq!(request.keys().collect::<Vec<_>>(), [0, 1234, 4321]);
    assert_eq!(encode_request::<AppsLookup>(&[0, 1234, 4321]), vector);
}

#[test]
fn a_known_process_in_a_known_cgroup() {
    let labels: [(&[u8], &[u8]); 2] = [(b"image", b"nginx:latest"), (b"service", b"web")];
    let app = App {
        ppid: 1,
        uid: 1000,
        starttime: 123_456,
        comm: b"123456789012345",
        cgroup: AppCgroup::Known {
            path: b"/docker/abc",
            name: b"container-a",
            orchestrator: Orchestrator::DOCKER,
            labels: Labels::new(&labels),
        },
    };
    check_app(vector!("apps_lookup_resp_known_full"), 200, 1234, AppOutcome::Known(app));
}

#[test]
fn known_processes_in_cgroups_of_the_other_kinds() {
    let app = |comm, uid, starttime, cgroup| AppOutcome::Known(App { ppid: 1, uid, starttime, comm, cgroup });
    for (vector, generation, pid, outcome) in [
        (
            &vector!("apps_lookup_resp_known_retry")[..],
            201,
            1235,
            app(b"app", 1000, 123_457, AppCgroup::UnknownRetryLater { path: b"/pending" }),
        ),
        (
            vector!("apps_lookup_resp_known_permanent"),
            202,
            1236,
            app(b"app2", 1000, 123_458, AppCgroup::UnknownPermanent { path: b"/permanent" }),
        ),
        (vector!("apps_lookup_resp_known_host_root"), 203, 1237, app(b"sshd", 0, 123_459, AppCgroup::HostRoot)),
    ] {
        check_app(vector, generation, pid, outcome);
    }
}

#[test]
fn pids_that_are_not_known_or_did_not_fit() {
    for (vector, generation, pid, outcome) in [
        (&vector!("apps_lookup_resp_unknown_pid")[..], 204, 0, AppOutcome::Unknown),
        (vector!("apps_lookup_resp_payload_exceeded"), 205, 1238, AppOutcome::PayloadExceeded),
        (vector!("apps_lookup_resp_oversized_item"), 206, 1239, AppOutcome::OversizedItem),
    ] {
        check_app(vector, generation, pid, outcome);
    }
}

/// Frozen when this encoder was first released: no golden vector of the field covers these messages.
mod frozen {
    use super::*;

    #[test]
    fn increment() {
        let mut out = Vec::new();
        encode_increment(&mut out, 0x0102_0304_0506_0708);
        assert_eq!(out, [8, 7, 6, 5, 4, 3, 2, 1]);
        out.push(0xff);
        assert_eq!(decode_increment(&out).unwrap(), 0x0102_0304_0506_0708, "bytes behind the value are ignored");
    }

    #[test]
    fn string_reverse() {
        let mut out = Vec::new();
        encode_string(&mut out, b"ginnel", 15).unwrap();
        assert_eq!(out, [&[8, 0, 0, 0, 6, 0, 0, 0][..], b"ginnel\0"].concat());
        assert_eq!(decode_string(&out).unwrap(), b"ginnel");
        let mut out = Vec::new();
        encode_string(&mut out, b"", 9).unwrap();
        assert_eq!(out, [8, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_string(&out).unwrap(), b"");
    }

    #[test]
    fn the_usual_snapshot_of_the_fields_tests() {
        let items = [
            cgroup(1001, 0, 1, "docker-abc123", "/sys/fs/cgroup/docker/abc123"),
            cgroup(2002, 0, 1, "k8s-pod-xyz", "/sys/fs/cgroup/kubepods/xyz"),
            cgroup(3003, 0, 0, "systemd-user", "/sys/fs/cgroup/user.slice/user-1000"),
        ];
        let vector = include_bytes!("frozen/snapshot_usual.bin");
        assert_eq!(encode_snapshot(1, 42, &items), vector);
        assert_eq!(Snapshot::decode(vector).unwrap().iter().collect::<Vec<_>>(), items);
    }

    #[test]
    fn a_lookup_response_of_every_cgroup_status() {
        let labels: [(&[u8], &[u8]); 1] = [(b"k", b"")];
        let items: [(&[u8], CgroupOutcome<'_>); 5] = [
            (b"/a", CgroupOutcome::Known { orchestrator: Orchestrator(99), name: b"n", labels: Labels::new(&labels) }),
            (b"/b", CgroupOutcome::UnknownRetryLater),
            (b"/c", CgroupOutcome::UnknownPermanent),
            (b"/d", CgroupOutcome::OversizedItem),
            (b"/e", CgroupOutcome::PayloadExceeded),
        ];
        let vector = include_bytes!("frozen/cgroups_lookup_resp_all.bin");
        assert_eq!(encode_response::<CgroupsLookup>(u64::MAX, &items), vector);
        let response = LookupResponse::<CgroupsLookup>::decode(vector).unwrap();
        assert_eq!(response.iter().map(|answer| (answer.key, answer.outcome)).collect::<Vec<_>>(), items);
    }

    #[test]
    fn a_lookup_response_of_every_app_status() {
        let app = |cgroup| AppOutcome::Known(App { ppid: 2, uid: 3, starttime: 4, comm: b"x", cgroup });
        let items = [
            (10, app(AppCgroup::HostRoot)),
            (11, app(AppCgroup::UnknownRetryLater { path: b"" })),
            (12, app(AppCgroup::UnknownPermanent { path: b"/p" })),
            (13, AppOutcome::Unknown),
            (14, AppOutcome::OversizedItem),
            (15, AppOutcome::PayloadExceeded),
        ];
        let vector = include_bytes!("frozen/apps_lookup_resp_all.bin");
        assert_eq!(encode_response::<AppsLookup>(0, &items), vector);
        let response = LookupResponse::<AppsLookup>::decode(vector).unwrap();
        assert_eq!(response.iter().map(|answer| (answer.key, answer.outcome)).collect::<Vec<_>>(), items);
    }
}
