//! The client's lookup against a server that answers anything: it ends, with an error or with one item a key.
#![no_main]

use ginnel_netipc::{AppsLookup, CgroupsLookup, Lookup, LookupCeilings, LookupSplit, RequestLimits, Step};
use libfuzzer_sys::fuzz_target;

fn drive<L: Lookup>(keys: &'static [L::Key<'static>], mut bytes: &[u8]) {
    let mut ceilings = LookupCeilings::default();
    ceilings.subcalls = 16;
    let mut split = LookupSplit::<L>::new(keys, ceilings).unwrap();
    let mut request = Vec::new();
    for _ in 0..64 {
        let Some((first, rest)) = bytes.split_first() else { return };
        bytes = rest;
        let limits = RequestLimits { request: usize::from(*first) * 2, response: usize::from(*first) * 8 };
        match split.next(limits, &mut request) {
            Ok(Step::Ask) => {
                assert!(request.len() <= limits.request);
                let len = usize::from(*first).min(bytes.len());
                let (response, rest) = bytes.split_at(len);
                bytes = rest;
                if split.answer(response).is_err() {
                    return;
                }
            }
            Ok(Step::Grow { payload }) => {
                assert!(payload > limits.request);
                if split.cannot_grow(payload).is_err() {
                    return;
                }
            }
            Ok(Step::Done) => {
                let answer = split.finish().unwrap();
                assert_eq!(answer.response().len(), keys.len());
                return;
            }
            Err(_) => return,
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    drive::<CgroupsLookup>(&[b"/a", b"/docker/abc", b"/a"], bytes);
    drive::<AppsLookup>(&[0, 1234, 4321], bytes);
});
