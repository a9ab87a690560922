//! The malformed corpus: every way in which a payload can break the contract, and the exact error it gives.
//!
//! Each case is a good vector with one wound, so that nothing else can be what the decoder complains about.

#![cfg(target_endian = "little")]

use ginnel_netipc::*;

enum Wound<'a> {
    Cut(usize),
    Put(usize, &'a [u8]),
}
use Wound::{Cut, Put};

type Case<'a> = (Wound<'a>, usize, Fault);

fn wounded(vector: &[u8], wound: &Wound<'_>) -> Vec<u8> {
    let mut bytes = vector.to_vec();
    match wound {
        Cut(len) => bytes.truncate(*len),
        Put(at, patch) => bytes[*at..*at + patch.len()].copy_from_slice(patch),
    }
    bytes
}

fn check<T: std::fmt::Debug>(vector: &[u8], decode: impl Fn(&[u8]) -> Result<T, DecodeError>, cases: &[Case<'_>]) {
    decode(vector).expect("the vector itself is good");
    for (index, (wound, offset, fault)) in cases.iter().enumerate() {
        let bytes = wounded(vector, wound);
        let error =
            decode(&bytes).map(|_| ()).expect_err(&format!("case {index} must fail with {fault:?} at {offset}"));
        assert_eq!(error, DecodeError { offset: *offset, fault: *fault }, "case {index}");
    }
}

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../wire/golden/netipc-v1/", $name, ".bin"))
    };
}

const TWO: &[u8] = &[2, 0, 0, 0];

#[test]
fn increment() {
    check(&[0; 8], decode_increment, &[(Cut(7), 0, Fault::Truncated { needed: 8, have: 7 })]);
}

#[test]
fn string_reverse() {
    let vector = [8, 0, 0, 0, 2, 0, 0, 0, b'o', b'k', 0];
    check(
        &vector,
        |bytes| decode_string(bytes).map(<[u8]>::to_vec),
        &[
            (Cut(8), 0, Fault::Truncated { needed: 9, have: 8 }),
            (Put(0, &[9]), 0, Fault::StringOffset { found: 9, header: 8 }),
            (Put(0, &[0]), 0, Fault::StringOffset { found: 0, header: 8 }),
            (Cut(10), 4, Fault::OutOfBounds { start: 8, end: 11, len: 10 }),
            (Put(4, &[0xff; 4]), 4, Fault::OutOfBounds { start: 8, end: 8 + (1 << 32), len: 11 }),
            (Put(10, b"!"), 10, Fault::NoTerminator),
            (Put(4, &[1]), 9, Fault::NoTerminator),
        ],
    );
}

#[test]
fn snapshot_request() {
    check(
        vector!("cgroups_req"),
        decode_snapshot_request,
        &[
            (Cut(3), 0, Fault::Truncated { needed: 4, have: 3 }),
            (Put(0, TWO), 0, Fault::Layout { found: 2 }),
            (Put(2, &[0, 1]), 2, Fault::Flags { found: 256 }),
        ],
    );
}

#[test]
fn snapshot() {
    // Directory at 24, items at 48 (69 bytes), 120 (107 bytes), 232 (34 bytes).
    check(
        vector!("cgroups_resp"),
        |bytes| Snapshot::decode(bytes).map(|_| ()),
        &[
            (Cut(23), 0, Fault::Truncated { needed: 24, have: 23 }),
            (Put(0, &[7]), 0, Fault::Layout { found: 7 }),
            (Put(2, &[1]), 2, Fault::Flags { found: 1 }),
            (Put(12, &[5]), 12, Fault::Reserved { found: 5 }),
            (Cut(47), 24, Fault::Truncated { needed: 48, have: 47 }),
            (Put(4, &[0xff; 4]), 24, Fault::Truncated { needed: 24 + 8 * u64::from(u32::MAX), have: 266 }),
            (Put(32, &[0x44]), 32, Fault::Misaligned { found: 0x44 }),
            (Put(40, &[0xc0]), 40, Fault::OutOfBounds { start: 0xc0, end: 0xc0 + 34, len: 218 }),
            (Cut(265), 40, Fault::OutOfBounds { start: 184, end: 218, len: 217 }),
            (Put(28, &[31]), 28, Fault::ItemLength { expected: 32, found: 31 }),
            (Put(48, &[3]), 48, Fault::Layout { found: 3 }),
            (Put(50, &[4]), 50, Fault::Flags { found: 4 }),
            (Put(64, &[31]), 64, Fault::StringOffset { found: 31, header: 32 }),
            (Put(68, &[60]), 64, Fault::OutOfBounds { start: 32, end: 93, len: 69 }),
            (Put(90, b"x"), 90, Fault::NoTerminator),
            (Put(76, &[26]), 72, Fault::OutOfBounds { start: 43, end: 70, len: 69 }),
            (Put(116, b"x"), 116, Fault::NoTerminator),
            (Put(72, &[42, 0, 0, 0, 26]), 72, Fault::StringOverlap),
        ],
    );
}

#[test]
fn lookup_request_of_cgroups() {
    // Directory at 16: (0, 17), (24, 31); keys at 32 and 56.
    check(
        vector!("cgroups_lookup_req"),
        |bytes| LookupRequest::<CgroupsLookup>::decode(bytes).map(|_| ()),
        &[
            (Cut(15), 0, Fault::Truncated { needed: 16, have: 15 }),
            (Put(0, TWO), 0, Fault::Layout { found: 2 }),
            (Put(2, &[9]), 2, Fault::Flags { found: 9 }),
            (Put(8, &[1]), 8, Fault::Reserved { found: 1 }),
            (Put(15, &[1]), 12, Fault::Reserved { found: 1 << 24 }),
            (Put(4, &[10]), 16, Fault::Truncated { needed: 96, have: 87 }),
            (Put(24, &[20]), 24, Fault::Misaligned { found: 20 }),
            (Put(24, &[16]), 24, Fault::ItemOverlap { start: 16, previous_end: 17 }),
            (Put(28, &[32]), 24, Fault::OutOfBounds { start: 24, end: 56, len: 55 }),
            (Put(20, &[1]), 20, Fault::ItemLength { expected: 2, found: 1 }),
            (Put(48, b"!"), 48, Fault::NoTerminator),
            (Put(40, &[0]), 40, Fault::InteriorNul),
        ],
    );
}

#[test]
fn lookup_request_of_apps() {
    check(
        vector!("apps_lookup_req"),
        |bytes| LookupRequest::<AppsLookup>::decode(bytes).map(|_| ()),
        &[
            (Put(20, &[7]), 20, Fault::ItemLength { expected: 8, found: 7 }),
            (Put(36, &[16]), 32, Fault::OutOfBounds { start: 16, end: 32, len: 24 }),
            (Put(24, &[0]), 24, Fault::ItemOverlap { start: 0, previous_end: 8 }),
            (Put(52, &[1]), 52, Fault::Reserved { found: 1 }),
        ],
    );
    let mut long_key = vector!("apps_lookup_req").to_vec();
    long_key.extend_from_slice(&[0; 8]);
    long_key[36] = 16;
    assert_eq!(
        LookupRequest::<AppsLookup>::decode(&long_key).unwrap_err(),
        DecodeError { offset: 36, fault: Fault::ItemLength { expected: 8, found: 16 } }
    );
}

#[test]
fn lookup_response_of_cgroups_without_labels() {
    // Item at 24, 41 bytes: path "/docker/abc" at 28, name "" at 40.
    check(
        vector!("cgroups_lookup_resp_known_no_labels"),
        |bytes| LookupResponse::<CgroupsLookup>::decode(bytes).map(|_| ()),
        &[
            (Cut(15), 0, Fault::Truncated { needed: 16, have: 15 }),
            (Put(20, &[27]), 20, Fault::ItemLength { expected: 28, found: 27 }),
            (Put(24, TWO), 24, Fault::Layout { found: 2 }),
            (Put(26, &[5]), 26, Fault::Status { found: 5 }),
            (Put(30, &[1]), 30, Fault::Reserved { found: 1 }),
            (Put(50, &[1]), 50, Fault::Reserved { found: 1 }),
            (Put(32, &[27]), 32, Fault::StringOffset { found: 27, header: 28 }),
            (Put(36, &[40]), 32, Fault::OutOfBounds { start: 28, end: 69, len: 41 }),
            (Put(64, b"x"), 64, Fault::NoTerminator),
            (Put(32, &[39, 0, 0, 0, 0]), 36, Fault::Empty { field: "path" }),
            (Put(36, &[12]), 40, Fault::StringOverlap),
            (Put(55, &[0]), 55, Fault::InteriorNul),
            (Put(26, &[1]), 28, Fault::NotBlank { field: "orchestrator" }),
            (Put(48, &[1]), 65, Fault::OutOfBounds { start: 48, end: 64, len: 41 }),
        ],
    );
    let mut longer = vector!("cgroups_lookup_resp_known_no_labels").to_vec();
    longer.push(0);
    longer[20] += 1;
    assert_eq!(
        LookupResponse::<CgroupsLookup>::decode(&longer).unwrap_err(),
        DecodeError { offset: 65, fault: Fault::ItemEnd { expected: 41, found: 42 } }
    );
}

#[test]
fn lookup_response_of_cgroups_with_labels() {
    // Item at 24, 114 bytes: name "pod-a" at 50..56, table at 56: (88,9 98,7) (106,3 110,3).
    let at = 24;
    check(
        vector!("cgroups_lookup_resp_known_with_labels"),
        |bytes| LookupResponse::<CgroupsLookup>::decode(bytes).map(|_| ()),
        &[
            (Put(at + 2, &[2]), at + 4, Fault::NotBlank { field: "orchestrator" }),
            (Put(at + 2, &[2, 0, 0, 0]), at + 20, Fault::NotBlank { field: "name" }),
            (Put(at + 56, &[87]), at + 56, Fault::LabelOffset { expected: 88, found: 87 }),
            (Put(at + 60, &[0]), at + 88, Fault::NoTerminator),
            (Put(at + 60, &[200]), at + 56, Fault::OutOfBounds { start: 88, end: 289, len: 114 }),
            (Put(at + 60, &[8]), at + 96, Fault::NoTerminator),
            (Put(at + 90, &[0]), at + 90, Fault::InteriorNul),
            (Put(at + 64, &[99]), at + 64, Fault::LabelOffset { expected: 98, found: 99 }),
            (Put(at + 24, &[1]), at + 56, Fault::LabelOffset { expected: 72, found: 88 }),
            (Put(at + 24, &[9]), at + 56, Fault::OutOfBounds { start: 56, end: 200, len: 114 }),
        ],
    );
}

#[test]
fn lookup_response_of_known_apps() {
    // Item at 24, 167 bytes: comm at 60 (15), path at 76 (11), name at 88 (11), pad, table at 104, strings at 136.
    let at = 24;
    check(
        vector!("apps_lookup_resp_known_full"),
        |bytes| LookupResponse::<AppsLookup>::decode(bytes).map(|_| ()),
        &[
            (Put(20, &[59]), 20, Fault::ItemLength { expected: 60, found: 59 }),
            (Put(at, TWO), at, Fault::Layout { found: 2 }),
            (Put(at + 2, &[4]), at + 2, Fault::Status { found: 4 }),
            (Put(at + 6, &[4]), at + 6, Fault::CgroupStatus { found: 4 }),
            (Put(at + 20, &[1]), at + 20, Fault::Reserved { found: 1 }),
            (Put(at + 58, &[1]), at + 58, Fault::Reserved { found: 1 }),
            (Put(at + 32, &[59]), at + 32, Fault::StringOffset { found: 59, header: 60 }),
            (Put(at + 36, &[14]), at + 74, Fault::NoTerminator),
            (Put(at + 40, &[75, 0, 0, 0, 12]), at + 40, Fault::StringOverlap),
            (Put(at + 48, &[87, 0, 0, 0, 12]), at + 48, Fault::StringOverlap),
            (Put(at + 36, &[27]), at + 40, Fault::StringOverlap),
            (Put(at + 62, &[0]), at + 62, Fault::InteriorNul),
            (Put(at + 36, &[0, 0, 0, 0]), at + 60, Fault::NoTerminator),
            (Put(at + 6, &[1]), at + 4, Fault::NotBlank { field: "orchestrator" }),
            (Put(at + 4, &[0, 0, 1]), at + 52, Fault::NotBlank { field: "cgroup name" }),
            (Put(at + 4, &[0, 0, 3]), at + 44, Fault::NotBlank { field: "cgroup path" }),
            (Put(at + 2, &[1]), at + 4, Fault::NotBlank { field: "orchestrator" }),
            (Put(at + 2, &[1, 0, 0, 0]), at + 12, Fault::NotBlank { field: "ppid" }),
            (Put(at + 101, &[1]), at + 101, Fault::Padding),
            (Put(at + 104, &[137]), at + 104, Fault::LabelOffset { expected: 136, found: 137 }),
        ],
    );
}

#[test]
fn lookup_response_of_apps_with_other_cgroups() {
    let at = 24;
    let decode = |bytes: &[u8]| LookupResponse::<AppsLookup>::decode(bytes).map(|_| ());
    // comm "sshd" at 60, path at 65, name at 66, item 67 bytes.
    check(
        vector!("apps_lookup_resp_known_host_root"),
        decode,
        &[
            (Put(at + 6, &[0]), at + 44, Fault::Empty { field: "cgroup path" }),
            (Put(at + 6, &[2]), at + 44, Fault::Empty { field: "cgroup path" }),
            (Put(at + 4, &[1]), at + 4, Fault::NotBlank { field: "orchestrator" }),
            (Put(at + 56, &[1]), at + 56, Fault::NotBlank { field: "labels" }),
            (Put(at + 32, &[64, 0, 0, 0, 0]), at + 36, Fault::Empty { field: "comm" }),
        ],
    );
}

#[test]
fn lookup_response_of_unknown_apps() {
    let at = 24;
    check(
        vector!("apps_lookup_resp_unknown_pid"),
        |bytes| LookupResponse::<AppsLookup>::decode(bytes).map(|_| ()),
        &[
            (Put(at + 2, &[0]), at + 36, Fault::Empty { field: "comm" }),
            (Put(at + 4, &[1]), at + 4, Fault::NotBlank { field: "orchestrator" }),
            (Put(at + 6, &[1]), at + 6, Fault::NotBlank { field: "cgroup status" }),
            (Put(at + 12, &[1]), at + 12, Fault::NotBlank { field: "ppid" }),
            (Put(at + 16, &[0]), at + 16, Fault::NotBlank { field: "uid" }),
            (Put(at + 24, &[1]), at + 24, Fault::NotBlank { field: "starttime" }),
            (Put(at + 56, &[1]), at + 56, Fault::NotBlank { field: "labels" }),
        ],
    );
}

#[test]
fn an_empty_label_key() {
    let labels: [(&[u8], &[u8]); 1] = [(b"k", b"")];
    let outcome = CgroupOutcome::Known { orchestrator: Orchestrator::LXC, name: b"n", labels: Labels::new(&labels) };
    let mut vector = Vec::new();
    let mut builder = LookupResponseBuilder::<CgroupsLookup>::new(&mut vector, 1024, 1, 1).unwrap();
    builder.push(b"/p", &outcome).unwrap();
    builder.finish();
    // Item at 24: table at 40, "k" at 56. A NUL in place of the key leaves one byte too much behind.
    let mut blank = vector.clone();
    blank[24 + 44] = 0;
    blank[24 + 56] = 0;
    assert_eq!(
        LookupResponse::<CgroupsLookup>::decode(&blank).unwrap_err(),
        DecodeError { offset: 24 + 44, fault: Fault::Empty { field: "label key" } }
    );
}

#[test]
fn a_comm_longer_than_the_kernel_has() {
    let cgroup = AppCgroup::UnknownPermanent { path: b"/sixteen-letters" };
    let app = App { ppid: 1, uid: 0, starttime: 9, comm: b"short", cgroup };
    let mut bytes = Vec::new();
    let mut builder = LookupResponseBuilder::<AppsLookup>::new(&mut bytes, 1024, 1, 1).unwrap();
    builder.push(7, &AppOutcome::Known(app)).unwrap();
    builder.finish();
    let (comm, path) = (bytes[24 + 32..24 + 40].to_vec(), bytes[24 + 40..24 + 48].to_vec());
    bytes[24 + 32..24 + 40].copy_from_slice(&path);
    bytes[24 + 40..24 + 48].copy_from_slice(&comm);
    assert_eq!(
        LookupResponse::<AppsLookup>::decode(&bytes).unwrap_err(),
        DecodeError { offset: 24 + 36, fault: Fault::TooLong { field: "comm", len: 16, max: 15 } }
    );
}

#[test]
fn items_that_share_bytes_to_blow_up_memory() {
    // 1,000 directory entries of one and the same item: legal for known decoders, never for a copy of the data.
    let name = vec![b'n'; 500];
    let mut one = Vec::new();
    let mut builder = SnapshotBuilder::new(&mut one, 1 << 20, 1, 1, 1).unwrap();
    builder.push(&Cgroup { hash: 1, options: 0, enabled: 1, name: &name, path: b"/p" }).unwrap();
    builder.finish();
    let mut bytes = one[..24].to_vec();
    bytes[4..8].copy_from_slice(&1000u32.to_ne_bytes());
    for _ in 0..1000 {
        bytes.extend_from_slice(&one[24..32]);
    }
    bytes.extend_from_slice(&one[32..]);
    let snapshot = Snapshot::decode(&bytes).expect("the contract allows it");
    assert_eq!(snapshot.len(), 1000);
    let expected = Fault::Amplified { strings: 502_000, message: bytes.len() as u64 };
    assert_eq!(CgroupTable::new(&snapshot).unwrap_err(), DecodeError { offset: 0, fault: expected });
}
