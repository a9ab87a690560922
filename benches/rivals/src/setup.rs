//! The rows that time beginnings: from nothing to the first message in another process, and opening what exists.

use crate::Outcome;
use crate::drive::{Budget, Findings};
use crate::meet::{Handoff, Meeting, Plan};
use crate::page::{Page, Report};
use crate::payload::Tally;
use crate::sys::{Place, Region, shared_memory, ticks};
use std::sync::atomic::Ordering;

/// A mechanism that can be set up over and over; `round` tells the set-ups apart.
pub trait SetUp: Sized + 'static {
    /// What a process makes once, however many channels it has. Not timed.
    type Base;
    type Host;
    type Guest;

    fn base(plan: &Plan) -> Outcome<Self::Base>;
    /// Everything that the sending side makes; sends at once if the mechanism keeps the message for a later reader.
    fn host(base: &Self::Base, plan: &Plan, round: u64) -> Outcome<Self::Host>;
    /// Everything that the receiving side makes.
    fn guest(base: &Self::Base, plan: &Plan, round: u64) -> Outcome<Self::Guest>;
    /// Sends, if `host` could not.
    fn greet(host: &mut Self::Host, round: u64) -> Outcome<()>;
    /// Waits for the first message and returns its first word.
    fn hear(guest: &mut Self::Guest) -> Outcome<u64>;
}

/// No mechanism at all: the set-up itself is what is measured, the sides meet over the page only.
pub struct Bare;

impl Meeting for Bare {
    type Founded = ();
    type Parent = ();
    type Child = ();

    fn found(_: &Plan) -> Outcome<((), Handoff)> {
        Ok(((), Handoff::default()))
    }

    fn join(_: &Plan, _: Handoff, _: usize) -> Outcome<()> {
        Ok(())
    }

    fn connect(_: &Plan, (): ()) -> Outcome<()> {
        Ok(())
    }
}

/// More set-ups than this say nothing new.
const ROUNDS: u64 = 400;
/// The steps of a round, as the baton counts them.
const STEPS: u64 = 4;
const OVER: u64 = u64::MAX;

fn pass(page: &Page, value: u64) {
    page.baton().store(value, Ordering::Release);
}

fn wait_for(page: &Page, value: u64) -> bool {
    loop {
        match page.baton().load(Ordering::Acquire) {
            OVER => return false,
            // The other side may have gone a step further already.
            now if now >= value => return true,
            _ => std::hint::spin_loop(),
        }
    }
}

pub fn parent<S: SetUp>(plan: &Plan, page: &Page, budget: Budget) -> Outcome<Findings> {
    let mut findings = Findings { per_sample: 1, ..Findings::default() };
    let base = S::base(plan)?;
    let begin = ticks();
    for round in 0..ROUNDS.min(budget.messages) {
        let start = ticks();
        let mut host = S::host(&base, plan, round)?;
        pass(page, STEPS * round + 1);
        wait_for(page, STEPS * round + 2);
        S::greet(&mut host, round)?;
        wait_for(page, STEPS * round + 3);
        findings.samples.push(ticks() - start);
        findings.sent += 1;
        drop(host);
        // The next round shall not wait for the guest of this one to be taken down.
        wait_for(page, STEPS * round + 4);
        if ticks() - begin > budget.ticks {
            break;
        }
    }
    pass(page, OVER);
    Ok(findings)
}

/// The samples here are the guest's own: opening and the first message.
pub fn child<S: SetUp>(plan: &Plan, page: &Page) -> Outcome<Report> {
    let mut tally = Tally::default();
    let mut samples = Vec::new();
    let base = S::base(plan)?;
    for round in 0.. {
        if !wait_for(page, STEPS * round + 1) {
            break;
        }
        let start = ticks();
        let mut guest = S::guest(&base, plan, round)?;
        let opened = ticks() - start;
        pass(page, STEPS * round + 2);
        let resumed = ticks();
        let heard = S::hear(&mut guest)?;
        samples.push(opened + ticks() - resumed);
        tally.received += 1;
        tally.corrupt += u64::from(heard != round);
        pass(page, STEPS * round + 3);
        drop(guest);
        pass(page, STEPS * round + 4);
    }
    Ok(Report { tally, window: 0, samples })
}

/// Tells a child that has nothing more to do.
pub fn over(page: &Page) {
    pass(page, OVER);
}

/// Waits for [`over`] without using the core much: the parent is being measured on the other one.
pub fn wait_until_over(page: &Page) {
    while page.baton().load(Ordering::Acquire) != OVER {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A payload in shared memory that one side writes and the other copies out, in turns.
pub struct SharedPayload<const W: usize>;

impl<const W: usize> Meeting for SharedPayload<W> {
    type Founded = Place<W>;
    type Parent = Place<W>;
    type Child = Place<W>;

    fn found(_: &Plan) -> Outcome<(Place<W>, Handoff)> {
        let fd = shared_memory(8 * W)?;
        let place = Region::map(&fd, 8 * W)?.place(0);
        Ok((place, Handoff { fds: vec![fd], ..Handoff::default() }))
    }

    fn join(_: &Plan, handoff: Handoff, _: usize) -> Outcome<Place<W>> {
        let fd = handoff.fds.into_iter().next().ok_or("no memory was handed over")?;
        Ok(Region::map(&fd, 8 * W)?.place(0))
    }

    fn connect(_: &Plan, founded: Place<W>) -> Outcome<Place<W>> {
        Ok(founded)
    }
}

/// Asks the child to write the payload anew, and waits until it has.
pub fn take_turns(page: &Page, round: u64) {
    pass(page, 2 * round - 1);
    wait_for(page, 2 * round);
}

/// The child's side of [`take_turns`], until it is over.
pub fn write_in_turns<const W: usize>(page: &Page, place: &mut Place<W>) {
    let message = crate::payload::buffer::<W>();
    for round in 1.. {
        if !wait_for(page, 2 * round - 1) {
            break;
        }
        // SAFETY: the baton says that the parent does not read now.
        unsafe { place.write(&message) };
        pass(page, 2 * round);
    }
}

/// Copies out what the child wrote.
pub fn copy_out<const W: usize>(place: &mut Place<W>, into: &mut [u64; W]) {
    // SAFETY: the baton says that the child does not write now.
    unsafe { place.read(into) };
}
