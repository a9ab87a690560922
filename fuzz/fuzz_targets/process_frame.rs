//! Frames between a parent and its shepherd: nothing panics, and what is accepted is what writing it again gives.
#![no_main]

#[path = "../../crates/process/shepherd/frame.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the shepherd and the library, each uses its part")]
mod frame;

use frame::{Exit, Group, HEADER, Put, Spawn, Take};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    let Some((kind, id, payload)) = frame::open(message) else { return };
    let again = |value: &dyn Fn(&mut Put<'_>), rest: &Take<'_>| {
        let mut buf = vec![0; message.len()];
        let mut put = Put::new(&mut buf, kind, id);
        value(&mut put);
        let len = put.finish().expect("no longer than what was read");
        assert_eq!(buf[HEADER..len], message[HEADER..message.len() - rest.0.len()]);
    };
    let mut rest = payload;
    if let Some(spawn) = Spawn::take(&mut rest) {
        again(&|put| spawn.put(put), &rest);
        let mut list = Take(spawn.cgroups);
        while let Some(group) = Group::take(&mut list) {
            assert!(group.path.len() + group.writes.len() < spawn.cgroups.len());
        }
    }
    let mut rest = payload;
    if let Some(group) = Group::take(&mut rest) {
        again(&|put| group.put(put), &rest);
    }
    let mut rest = payload;
    if let Some(exit) = Exit::take(&mut rest) {
        again(&|put| exit.put(put), &rest);
    }
});
