//! The work itself, the same code for every contender: what a side does between the two calibrations.

use crate::Outcome;
use crate::meet::{Link, LoanLink, Receiver, Sender};
use crate::page::Report;
use crate::payload::{END, FULL_EVERY, Source, Tally, buffer, stamp};
use crate::sys::ticks;
use std::hint::black_box;

/// How long to measure: until either is used up.
#[derive(Clone, Copy)]
pub struct Budget {
    pub ticks: u64,
    pub messages: u64,
}

/// Samples that a run keeps at most.
const KEEP: usize = 1 << 17;

/// What the parent found out.
#[derive(Default)]
pub struct Findings {
    /// Ticks, each for `per_sample` messages.
    pub samples: Vec<u64>,
    /// Mean ticks of a round trip over blocks of them, times 1,000. The counter may step by 10 ns (the machine says it
    /// runs at 2.6 GHz, its virtual counter moves at 100 MHz): too coarse to tell 105 from 110 ns by single samples.
    pub blocks: Vec<u64>,
    pub per_sample: u64,
    pub sent: u64,
    pub send_window: u64,
    pub tally: Tally,
}

fn samples() -> Vec<u64> {
    let mut samples = vec![1u64; KEEP];
    samples.clear();
    samples
}

/// The first rounds only warm caches and predictors up.
const WARM_UP: u64 = 256;

/// Large messages are few: an eighth of the time is warm-up enough.
#[inline(always)]
fn is_warm(number: u64, elapsed: u64, budget: Budget) -> bool {
    number >= WARM_UP || elapsed > budget.ticks / 8
}

/// Whether something besides the round trip itself happens between the sends of this message and the next.
#[inline(always)]
fn is_spoiled<const W: usize>(number: u64) -> bool {
    W > 8 && (number.is_multiple_of(FULL_EVERY) || (number + 1).is_multiple_of(FULL_EVERY))
}

/// Collects round trips, singly and in blocks.
struct RoundTrips {
    samples: Vec<u64>,
    blocks: Vec<u64>,
    begun: u64,
    in_block: u64,
}

impl RoundTrips {
    /// Less than `FULL_EVERY` by as much as a full check spoils.
    const BLOCK: u64 = FULL_EVERY - 2;

    fn new() -> Self {
        Self { samples: samples(), blocks: samples(), begun: 0, in_block: 0 }
    }

    #[inline(always)]
    fn push(&mut self, from: u64, to: u64) {
        self.samples.push(to - from);
        if self.in_block == 0 {
            self.begun = from;
        }
        self.in_block += 1;
        if self.in_block == Self::BLOCK {
            self.blocks.push((to - self.begun) * 1000 / Self::BLOCK);
            self.in_block = 0;
        }
    }

    /// The round trip that just ended is no sample, and no block reaches across it.
    #[inline(always)]
    fn interrupt(&mut self) {
        self.in_block = 0;
    }

    fn is_full(&self) -> bool {
        self.samples.len() == KEEP
    }

    fn findings(self, per_sample: u64, number: u64, tally: Tally) -> Findings {
        let Self { samples, blocks, .. } = self;
        Findings { samples, blocks, per_sample, sent: number + 1, tally, ..Findings::default() }
    }
}

/// Sends, waits for the answer, sends the next. A sample is the time from after one send to after the next: reading
/// the clock and checking the payload happen while the answer is under way, and cost no latency.
pub fn ping<const W: usize>(link: &mut impl Link<W>, budget: Budget) -> Outcome<Findings> {
    let mut out = buffer::<W>();
    let (mut trips, mut tally) = (RoundTrips::new(), Tally::default());
    let (mut number, mut expected) = (0u64, 0u64);
    stamp(&mut out, number);
    link.send(black_box(&out))?;
    let start = ticks();
    let mut last = start;
    loop {
        let finished = number >= budget.messages || last - start > budget.ticks || trips.is_full();
        stamp(&mut out, (number + 1) | if finished { END } else { 0 });
        link.receive()?;
        black_box(link.received());
        link.send(black_box(&out))?;
        let now = ticks();
        expected = tally.take(link.received(), expected);
        if is_warm(number, last - start, budget) && !is_spoiled::<W>(number) && !finished {
            trips.push(last, now);
        } else {
            trips.interrupt();
        }
        last = now;
        number += 1;
        if finished {
            break;
        }
    }
    link.receive()?;
    tally.take(link.received(), expected);
    Ok(trips.findings(1, number, tally))
}

/// The other side: answers every message with one of its own.
pub fn pong<const W: usize>(link: &mut impl Link<W>) -> Outcome<Report> {
    let mut out = buffer::<W>();
    let mut tally = Tally::default();
    let mut expected = 0;
    loop {
        stamp(&mut out, expected);
        link.receive()?;
        black_box(link.received());
        link.send(black_box(&out))?;
        expected = tally.take(link.received(), expected);
        if link.received()[0] & END != 0 {
            return Ok(Report { tally, window: 0, samples: Vec::new() });
        }
    }
}

/// As `ping`, in place; the samples are still whole round trips.
pub fn ping_in_place<const W: usize>(link: &mut impl LoanLink<W>, budget: Budget) -> Outcome<Findings> {
    let (mut trips, mut tally) = (RoundTrips::new(), Tally::default());
    let mut number = 0u64;
    link.send_in_place(number)?;
    let start = ticks();
    let mut last = start;
    loop {
        let finished = number >= budget.messages || last - start > budget.ticks || trips.is_full();
        let ends = link.receive_in_place()?;
        link.send_in_place((number + 1) | if finished { END } else { 0 })?;
        let now = ticks();
        take_ends(&mut tally, ends, number);
        if is_warm(number, last - start, budget) && !finished {
            trips.push(last, now);
        }
        last = now;
        number += 1;
        if finished {
            break;
        }
    }
    let ends = link.receive_in_place()?;
    take_ends(&mut tally, ends, number);
    Ok(trips.findings(2, number, tally))
}

/// The other side of `ping_in_place`.
pub fn pong_in_place<const W: usize>(link: &mut impl LoanLink<W>) -> Outcome<Report> {
    let mut tally = Tally::default();
    for expected in 0.. {
        let ends = link.receive_in_place()?;
        link.send_in_place(expected)?;
        take_ends(&mut tally, (ends.0 & !END, ends.1 & !END), expected);
        if ends.0 & END != 0 {
            break;
        }
    }
    Ok(Report { tally, window: 0, samples: Vec::new() })
}

#[inline(always)]
fn take_ends(tally: &mut Tally, (first, last): (u64, u64), expected: u64) {
    tally.received += 1;
    tally.corrupt += u64::from(first != last || first != expected);
}

/// Messages between two looks at the clock of a stream's sender.
const LOOK: u64 = 64;

/// Streams messages until the budget is used up.
pub fn pour<const W: usize>(sender: &mut impl Sender<W>, batch: usize, budget: Budget) -> Outcome<Findings> {
    let mut source = Source::new();
    let start = ticks();
    let portions = (LOOK / batch as u64).max(1);
    loop {
        for _ in 0..portions {
            sender.send_batch(batch, &mut source)?;
        }
        if ticks() - start > budget.ticks || source.position() >= budget.messages {
            break;
        }
    }
    let window = ticks() - start;
    let sent = source.position() + 1;
    source.finish();
    sender.send_batch(1, &mut source)?;
    Ok(Findings { sent, send_window: window, per_sample: 1, ..Findings::default() })
}

/// Messages in a block, one sample of a stream: more than any mechanism holds, so that a sample is not the emptying of
/// a full buffer.
pub fn block<const W: usize>() -> u64 {
    ((1 << 20) / (8 * W as u64)).clamp(16, 16384)
}

/// Receives a stream until its last message.
pub fn drink<const W: usize>(receiver: &mut impl Receiver<W>) -> Outcome<Report> {
    let mut samples = samples();
    let mut tally = Tally::default();
    let (mut expected, mut in_block, mut ended) = (0, 0, false);
    // The first block is not a sample: it waits for the sender to start, and its first message starts the window.
    let (mut first, mut last) = (0, 0);
    while !ended {
        receiver.drain(|message| {
            expected = tally.take(message, expected);
            in_block += 1;
            ended = message[0] & END != 0;
            if in_block == block::<W>() || ended || first == 0 {
                let now = ticks();
                if first == 0 {
                    first = now;
                } else if in_block == block::<W>() && samples.len() < KEEP {
                    samples.push(now - last);
                }
                in_block = 0;
                last = now;
            }
        })?;
    }
    Ok(Report { tally, window: last - first, samples })
}

/// Publishes to readers that do not read; a sample is a block of 64 publications.
pub fn publish<const W: usize>(sender: &mut impl Sender<W>, budget: Budget) -> Outcome<Findings> {
    let mut findings = Findings { samples: samples(), per_sample: LOOK, ..Findings::default() };
    let mut source = Source::new();
    let start = ticks();
    let mut last = start;
    while last - start < budget.ticks && source.position() < budget.messages && findings.samples.len() < KEEP {
        for _ in 0..LOOK {
            sender.send_batch(1, &mut source)?;
        }
        let now = ticks();
        if source.position() > WARM_UP {
            findings.samples.push(now - last);
        }
        last = now;
    }
    findings.sent = source.position();
    Ok(findings)
}

/// Does something over and over; a sample is a block of 256 times.
pub fn repeat(budget: Budget, mut each: impl FnMut(u64) -> Outcome<()>) -> Outcome<Findings> {
    const TIMES: u64 = 256;
    let mut findings = Findings { samples: samples(), per_sample: TIMES, ..Findings::default() };
    let mut number = 0;
    let start = ticks();
    let mut last = start;
    while last - start < budget.ticks && number < budget.messages && findings.samples.len() < KEEP {
        for _ in 0..TIMES {
            each(number)?;
            number += 1;
        }
        let now = ticks();
        findings.samples.push(now - last);
        last = now;
    }
    findings.sent = number;
    Ok(findings)
}
