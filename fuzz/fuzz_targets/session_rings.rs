//! Client and server of a session in rings, with many calls in flight, while whoever else may write their memory does
//! so between their steps and during them: every shared word, every byte of both rings, and frames that look sent. Both
//! may see any message within their limits and any error; they must not panic, hang, or exceed their window.
#![no_main]

use ginnel_fuzz::ends::{self, End, LIMIT, RING, SESSION, Turn};
use ginnel_fuzz::{Choices, beside_a_mad_writer};
use ginnel_memory::byte_ring::{LAYOUT, RING_KIND};
use ginnel_memory::{Access, Expect, Segment, WORD_PARAMS, WordsMut};
use ginnel_session::proto::{Body, Call, Role};
use ginnel_wire::{FrameKind, Head, Reply, Status};
use libfuzzer_sys::fuzz_target;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// The words of a ring's block that mean something: closed, waiting, armed, consumed.
const MEANINGFUL: [usize; 4] = [0, 1, 16, 32];

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let (ends, memory) = ends::in_rings();
    let expect = Expect { kind: RING_KIND, layout: Some(LAYOUT), instance: Some(SESSION), owner: None };
    let mad = Segment::inherit("mad", memory, Access::ReadWrite, &expect).unwrap();
    let writable = [mad.header_mut(), mad.data_mut()];
    let mut ends = ends.map(Some);
    let mut at = [0_u64; 2];

    let mut steps = 0;
    while !choices.is_empty() && steps < 128 && ends.iter().any(Option::is_some) {
        steps += 1;
        let which = usize::from(choices.byte() & 1);
        match choices.byte() % 12 {
            0 => {
                let index = WORD_PARAMS + 64 * which + MEANINGFUL[usize::from(choices.byte()) % MEANINGFUL.len()];
                let now = writable[0].load(index, Ordering::Relaxed);
                writable[0].store(index, choices.word(now), Ordering::Relaxed);
            }
            1 => {
                // A flag, most likely a good one with another length, at a line's beginning.
                let line = usize::from(choices.byte()) * 8 % writable[1].len();
                let tag = (at[which] / 64) as u32 | 1 << 31;
                let flag = u64::from(tag) << 32 | choices.word(u64::from(RING)) & 0xffff_ffff;
                writable[1].store(line, flag, Ordering::Relaxed);
                at[which] += 64;
            }
            2 => {
                let index = usize::from(choices.short()) % writable[1].len();
                writable[1].store(index, choices.word(0), Ordering::Relaxed);
            }
            3 if choices.byte() < 24 => {
                let seed = choices.word(1);
                beside_a_mad_writer(&writable, seed, || ends.iter_mut().for_each(turn));
            }
            // A frame that its end never meant to send.
            4 | 5 => {
                if let Some(end) = &mut ends[which] {
                    let (head, body) = frame(which, &mut choices);
                    let _ = end.carrier.try_send(&head, &body);
                }
            }
            6 if choices.byte() < 4 => ends[which] = None, // it hangs up
            7 if choices.byte() < 16 => flood(&writable[1], choices.word(0)),
            6 | 8 | 9 => {
                if let Some(end) = &mut ends[which] {
                    speak(end, &mut choices);
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

/// The same word everywhere.
fn flood(data: &WordsMut, word: u64) {
    for index in 0..data.len() {
        data.store(index, word, Ordering::Relaxed);
    }
}

/// What this side may do; all of it may be refused.
fn speak(end: &mut End, choices: &mut Choices<'_>) {
    let (what, more) = (choices.byte(), choices.byte());
    let body = Body::Owned(vec![7; usize::from(choices.short()) % (LIMIT as usize + 2)]);
    let (now, id) = (Instant::now(), u64::from(more % 12));
    let connection = &mut end.connection;
    if connection.role() == Role::Client {
        let call = |reply| Call { method: 1, reply, ..Call::default() };
        match what % 6 {
            0 | 1 => _ = connection.call(now, &call(Reply::One), body),
            2 => _ = connection.call(now, &call(Reply::Stream), body),
            3 => _ = connection.call(now, &call(Reply::None), body),
            4 => _ = (connection.cancel(now, id), connection.grant(now, id, more.into())),
            _ => _ = connection.ask_methods(now, &[1, 2]),
        }
        end.owed.clear();
        return;
    }
    let id = end.owed.pop().and_then(|request| request.head().map(|head| head.id)).unwrap_or(id);
    match what % 6 {
        0 | 1 => _ = connection.respond(now, id, body),
        2 => _ = connection.item(now, id, None, body),
        3 => _ = connection.end_stream(now, id),
        4 => _ = connection.fail(now, id, Status::ABORTED, None),
        _ if more == 0 => _ = connection.go_away(now, None),
        _ => {}
    }
}

fn frame(which: usize, choices: &mut Choices<'_>) -> (Vec<u8>, Vec<u8>) {
    let more = choices.byte();
    let kinds = if which == 0 {
        [
            FrameKind::Request(Reply::One),
            FrameKind::Request(Reply::Stream),
            FrameKind::Request(Reply::None),
            FrameKind::Methods,
            FrameKind::Cancel,
            FrameKind::Credit,
        ]
    } else {
        [
            FrameKind::Response,
            FrameKind::Item,
            FrameKind::End,
            FrameKind::Error(Status(u16::from(more).max(1))),
            FrameKind::MethodsAck,
            FrameKind::GoAway,
        ]
    };
    let kind = kinds[usize::from(choices.byte()) % kinds.len()];
    let body = vec![choices.byte(); usize::from(choices.short()) % 900];
    let lie = if choices.byte() < 200 { 0 } else { u32::from(choices.byte()) };
    let id = u64::from(choices.byte() % 12);
    let payload_len = body.len() as u32 + lie;
    let items = u32::from(choices.byte() % 3);
    (Head { kind, method: 1, batch: items > 1, items, id, payload_len }.encode().to_vec(), body)
}
