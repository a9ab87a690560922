//! Client and server of a session in shared-memory slots, while whoever else may write the region does so between their
//! steps and during them: in the control words, in the areas, with messages that look published, and by cutting the
//! file short. Both may see any message within their limits and any error; they must not panic, hang, or ask for more.
#![no_main]

use ginnel_fuzz::Choices;
use ginnel_fuzz::ends::{End, LIMIT, Place, Turn};
use ginnel_memory::ForeignFile;
use ginnel_session::proto::{Body, Role};
use ginnel_wire::{Envelope, Kind, Status};
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// One direction, as the contract draws it: its count, length, signal, and area.
struct Lane {
    seq: usize,
    len: usize,
    signal: usize,
    area: usize,
}

const AREA: usize = (LIMIT as usize + 32).next_multiple_of(64);
const LANES: [Lane; 2] =
    [Lane { seq: 32, len: 48, signal: 56, area: 64 }, Lane { seq: 40, len: 52, signal: 60, area: 64 + AREA }];

fuzz_target!(|bytes: &[u8]| {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let place = PLACE.get_or_init(Place::new);
    let mut choices = Choices::new(bytes);
    let (ends, id) = place.session();
    let mad = ForeignFile::open(rustix::fs::CWD, &place.region(id), 48..64).unwrap();
    assert_eq!(mad.len(), 64 + 2 * AREA);
    let mut ends = ends.map(Some);
    let mut next = 1;

    let mut steps = 0;
    while !choices.is_empty() && steps < 128 && ends.iter().any(Option::is_some) {
        steps += 1;
        let which = usize::from(choices.byte() & 1);
        let lane = &LANES[which];
        let what = choices.byte() % 12;
        match what {
            0 => {
                let now = mad.load_u64(lane.seq, Ordering::Relaxed);
                mad.add_u64(lane.seq, choices.word(now).wrapping_sub(now), Ordering::Relaxed);
            }
            1 => mad.store_u32(lane.len, choices.word(u64::from(LIMIT) + 32) as u32, Ordering::Relaxed),
            2 => mad.store_u32(lane.signal, choices.word(0) as u32, Ordering::Relaxed),
            3 => {
                let at = usize::from(choices.short()) % (AREA / 8) * 8;
                mad.copy_in(lane.area + at, &choices.word(0).to_ne_bytes());
            }
            // A message as a peer would publish it, or nearly.
            4 | 5 => publish(&mad, lane, which, &mut choices),
            // The words that were read once, by whoever still trusts them.
            6 => mad.copy_in(usize::from(choices.byte() % 4) * 8, &choices.word(64).to_ne_bytes()),
            7 if choices.byte() < 24 => {
                let seed = choices.word(1);
                beside(&mad, seed, || ends.iter_mut().for_each(turn));
            }
            8 if choices.byte() < 8 => {
                let len = u64::from(choices.short()) % (64 + 2 * AREA as u64);
                rustix::fs::ftruncate(mad.fd(), len).unwrap();
                ends.iter_mut().for_each(turn);
                // Nobody reaches behind the end of it any more, also not this peer.
                break;
            }
            9 if choices.byte() < 4 => ends[which] = None, // it hangs up
            9 | 10 => {
                if let Some(end) = &mut ends[which] {
                    speak(end, &mut next, &mut choices);
                }
            }
            _ => turn(&mut ends[which]),
        }
    }
    ends.iter_mut().for_each(turn);
});

fn turn(end: &mut Option<End>) {
    if end.as_mut().is_some_and(|end| end.turn() == Turn::Over) {
        *end = None;
    }
}

/// A request, or the answer to one that was taken.
fn speak(end: &mut End, next: &mut u64, choices: &mut Choices<'_>) {
    let body = Body::Owned(vec![7; usize::from(choices.short()) % (LIMIT as usize + 2)]);
    let now = Instant::now();
    if end.connection.role() == Role::Client {
        *next += 1;
        let _ = end.connection.send(now, &Envelope::request(3, *next, 0), body);
    } else if let Some(request) = end.owed.pop() {
        let _ = end.connection.send(now, &Envelope::response_to(&request.envelope, Status::OK, 0), body);
    }
}

fn publish(file: &ForeignFile, lane: &Lane, which: usize, choices: &mut Choices<'_>) {
    let payload_len = u32::from(choices.short()) % (LIMIT + 2);
    let envelope = Envelope {
        kind: if which == 0 { Kind::Request } else { Kind::Response },
        batch: choices.byte() & 7 == 0,
        code: u16::from(choices.byte() % 4),
        status: Status(u16::from(choices.byte() % 3)),
        payload_len,
        item_count: u32::from(choices.byte() % 10),
        message_id: u64::from(choices.byte() % 8),
    };
    file.copy_in(lane.area, &envelope.encode());
    let lie = if choices.byte() < 200 { 0 } else { choices.byte() };
    file.store_u32(lane.len, payload_len + 32 + u32::from(lie), Ordering::Release);
    file.add_u64(lane.seq, 1, Ordering::Release);
    file.add_u32(lane.signal, 1, Ordering::Release);
}

/// Runs `work` while another thread writes the control words and the beginnings of the areas.
fn beside(file: &ForeignFile, seed: u64, work: impl FnOnce()) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mad = scope.spawn(|| {
            let mut state = seed | 1;
            while !done.load(Ordering::Relaxed) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let lane = &LANES[(state >> 63) as usize];
                let small = state >> 56;
                match state % 4 {
                    0 => _ = file.add_u64(lane.seq, small & 3, Ordering::Relaxed),
                    1 => file.store_u32(lane.len, small as u32 * 16, Ordering::Relaxed),
                    2 => _ = file.add_u32(lane.signal, 1, Ordering::Relaxed),
                    _ => file.copy_in(lane.area + (state >> 8) as usize % 5 * 8, &small.to_ne_bytes()),
                }
            }
        });
        work();
        done.store(true, Ordering::Relaxed);
        mad.join().expect("the mad writer only writes");
    });
}
