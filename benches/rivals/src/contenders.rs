//! Which code plays a row for a contender: the table from names to types.

use crate::Outcome;
use crate::drive;
use crate::measure::{Assignment, Measurement, Side, Work, play as play_work};
use crate::meet::{
    Link, LoanLink, Meeting, Newest, Plan, Receiver, Sender, ginnel, iceoryx, ipc, kernel, line, ring, wake,
};
use crate::page::{Page, Report};
use crate::payload::{Tally, buffer};
use crate::rows::Kind;
use crate::setup::{self, Bare, SetUp};
use crate::sys::ticks;
use std::hint::black_box;

type Played = Outcome<Option<Measurement>>;

/// Plays one side of the row that the assignment names.
pub fn play(assignment: &Assignment, side: Side) -> Played {
    match assignment.plan.row.bytes {
        8 => sized::<1>(assignment, side),
        48 => sized::<6>(assignment, side),
        64 => sized::<8>(assignment, side),
        0x400 => sized::<0x80>(assignment, side),
        0x2000 => sized::<0x400>(assignment, side),
        0x1_0000 => sized::<0x2000>(assignment, side),
        0x10_0000 => sized::<0x2_0000>(assignment, side),
        0x40_0000 => sized::<0x8_0000>(assignment, side),
        bytes => Err(format!("no code was made for payloads of {bytes} bytes").into()),
    }
}

fn sized<const W: usize>(assignment: &Assignment, side: Side) -> Played {
    use wake::{Belled, EventBell, FutexBell};
    let contender = assignment.contender.as_str();
    match (assignment.plan.row.kind, contender) {
        (Kind::Calibration, _) => calibration(assignment, side),
        (Kind::RoundTrip, "ginnel") => round_trip::<W, ginnel::ChannelLink<W, ginnel::Typed>, _>(assignment, side),
        (Kind::RoundTrip, "ginnel-bytes") => {
            round_trip::<W, ginnel::ChannelLink<W, ginnel::Bytes>, _>(assignment, side)
        }
        (Kind::Loan, "ginnel") => loan::<W, ginnel::ChannelLink<W, ginnel::Typed>, _>(assignment, side),
        (Kind::Throughput, "ginnel") => stream::<W, ginnel::ChannelStream<W, ginnel::Typed>>(assignment, side),
        (Kind::Throughput, "ginnel-bytes") => stream::<W, ginnel::ChannelStream<W, ginnel::Bytes>>(assignment, side),
        (Kind::Publish, "ginnel") => publish::<W, ginnel::ChannelStream<W, ginnel::Typed>>(assignment, side),
        (Kind::LatestWrite | Kind::LatestRead, "ginnel") => newest::<ginnel::Newest>(assignment, side),
        (Kind::SetUp | Kind::Open, "ginnel") => set_up::<ginnel::ChannelSetUp>(assignment, side),
        (Kind::RoundTrip, "copy") => round_trip::<W, line::CopyFloor<W, 1>, _>(assignment, side),
        (Kind::RoundTrip, "copy-8") => round_trip::<W, line::CopyFloor<W, 8>, _>(assignment, side),
        (Kind::RoundTrip, "iceoryx2") => round_trip::<W, iceoryx::IceoryxLink<W>, _>(assignment, side),
        (Kind::RoundTrip, "futex") => round_trip::<W, Belled<W, FutexBell>, _>(assignment, side),
        (Kind::RoundTrip, "eventfd") => round_trip::<W, Belled<W, EventBell>, _>(assignment, side),
        (Kind::RoundTrip, "pipe") => round_trip::<W, kernel::KernelLink<W, kernel::Pipe>, _>(assignment, side),
        (Kind::RoundTrip, "seqpacket") => {
            round_trip::<W, kernel::KernelLink<W, kernel::SeqPacket>, _>(assignment, side)
        }
        (Kind::RoundTrip, "stream") => round_trip::<W, kernel::KernelLink<W, kernel::Stream>, _>(assignment, side),
        (Kind::RoundTrip, "ipc-channel") => round_trip::<W, ipc::IpcChannel<W>, _>(assignment, side),
        (Kind::Loan, "copy") => loan::<W, line::CopyFloor<W, 1>, _>(assignment, side),
        (Kind::LatestWrite | Kind::LatestRead, "copy") => newest::<line::Newest>(assignment, side),
        (Kind::Loan, "iceoryx2") => loan::<W, iceoryx::IceoryxLink<W>, _>(assignment, side),
        (Kind::Throughput, "ring") => stream::<W, ring::Ring<W>>(assignment, side),
        (Kind::Throughput, "iceoryx2") => stream::<W, iceoryx::IceoryxStream<W>>(assignment, side),
        (Kind::Throughput, "pipe") => stream::<W, kernel::KernelStream<W, kernel::Pipe>>(assignment, side),
        (Kind::Throughput, "stream") => stream::<W, kernel::KernelStream<W, kernel::Stream>>(assignment, side),
        (Kind::Throughput, "ipc-channel") => stream::<W, ipc::IpcChannel<W>>(assignment, side),
        (Kind::Publish, "iceoryx2") => publish::<W, iceoryx::IceoryxStream<W>>(assignment, side),
        (Kind::SetUp | Kind::Open, "iceoryx2") => set_up::<iceoryx::IceoryxSetUp>(assignment, side),
        (Kind::Copy, "local") => copy::<W, true>(assignment, side),
        (Kind::Copy, "remote") => copy::<W, false>(assignment, side),
        (kind, _) => Err(format!("{contender:?} is no contender of a {kind:?} row").into()),
    }
}

fn round_trip<const W: usize, M, L>(assignment: &Assignment, side: Side) -> Played
where
    M: Meeting<Parent = L, Child = L>,
    L: Link<W>,
{
    let parent = |_: &_, _: &_, link: &mut L, budget| drive::ping(link, budget);
    play_work::<M>(assignment, side, Work { parent, child: |_, _, link| drive::pong(link) })
}

fn loan<const W: usize, M, L>(assignment: &Assignment, side: Side) -> Played
where
    M: Meeting<Parent = L, Child = L>,
    L: LoanLink<W>,
{
    let parent = |_: &_, _: &_, link: &mut L, budget| drive::ping_in_place(link, budget);
    play_work::<M>(assignment, side, Work { parent, child: |_, _, link| drive::pong_in_place(link) })
}

fn stream<const W: usize, M>(assignment: &Assignment, side: Side) -> Played
where
    M: Meeting<Parent: Sender<W>, Child: Receiver<W>>,
{
    play_work::<M>(
        assignment,
        side,
        Work {
            parent: |plan, _, sender, budget| {
                let findings = drive::pour(sender, plan.row.batch, budget)?;
                Ok(drive::Findings { per_sample: drive::block::<W>(), ..findings })
            },
            child: |_, _, receiver| drive::drink(receiver),
        },
    )
}

/// The readers of a publish row, all in one process, attached and idle.
struct Attached<M>(std::marker::PhantomData<M>);

impl<M: Meeting> Meeting for Attached<M> {
    type Founded = M::Founded;
    type Parent = M::Parent;
    type Child = Vec<M::Child>;

    fn found(plan: &Plan) -> Outcome<(M::Founded, crate::meet::Handoff)> {
        M::found(plan)
    }

    fn join(plan: &Plan, handoff: crate::meet::Handoff, _: usize) -> Outcome<Vec<M::Child>> {
        (0..plan.row.readers).map(|index| M::join(plan, handoff.duplicate()?, index)).collect()
    }

    fn connect(plan: &Plan, founded: M::Founded) -> Outcome<M::Parent> {
        M::connect(plan, founded)
    }
}

fn publish<const W: usize, M>(assignment: &Assignment, side: Side) -> Played
where
    M: Meeting<Parent: Sender<W>>,
{
    play_work::<Attached<M>>(
        assignment,
        side,
        Work {
            parent: |_, page, sender, budget| {
                let findings = drive::publish(sender, budget)?;
                setup::over(page);
                Ok(findings)
            },
            child: |_, page, _| {
                setup::wait_until_over(page);
                Ok(nothing())
            },
        },
    )
}

fn set_up<S: SetUp>(assignment: &Assignment, side: Side) -> Played {
    play_work::<Bare>(
        assignment,
        side,
        Work {
            parent: |plan, page, _, budget| setup::parent::<S>(plan, page, budget),
            child: |plan, page, _| setup::child::<S>(plan, page),
        },
    )
}

/// Writes, and perhaps reads, the newest value in one process, with a reader's process beside it that does nothing.
fn newest<N: Newest>(assignment: &Assignment, side: Side) -> Played {
    let parent = if assignment.plan.row.kind == Kind::LatestRead { newest_read::<N> } else { newest_write::<N> };
    play_work::<Bare>(assignment, side, Work { parent, child: |_, _, ()| Ok(nothing()) })
}

fn newest_write<N: Newest>(plan: &Plan, _: &Page, _: &mut (), budget: drive::Budget) -> Outcome<drive::Findings> {
    let mut newest = N::create(plan)?;
    drive::repeat(budget, |number| newest.write(&[number; 8]))
}

fn newest_read<N: Newest>(plan: &Plan, _: &Page, _: &mut (), budget: drive::Budget) -> Outcome<drive::Findings> {
    let mut newest = N::create(plan)?;
    drive::repeat(budget, |number| {
        newest.write(&[number; 8])?;
        // Word by word: a comparison in wide vectors waits for the narrower stores of the copy, and would be what is
        // measured.
        if black_box(newest.read()?).iter().all(|&word| word == number) {
            Ok(())
        } else {
            Err("an old value was read as the newest".into())
        }
    })
}

fn calibration(assignment: &Assignment, side: Side) -> Played {
    let parent = |_: &_, _: &_, _: &mut (), _| Ok(drive::Findings::default());
    play_work::<Bare>(assignment, side, Work { parent, child: |_, _, _| Ok(nothing()) })
}

fn nothing() -> Report {
    Report { tally: Tally::default(), window: 0, samples: Vec::new() }
}

/// Copies a payload: from private memory that this core wrote last, or from shared memory that the other core did.
fn copy<const W: usize, const LOCAL: bool>(assignment: &Assignment, side: Side) -> Played {
    play_work::<setup::SharedPayload<W>>(
        assignment,
        side,
        Work {
            parent: |_, page, place, budget| {
                let mut into = buffer::<W>();
                let from = buffer::<W>();
                let mut findings = drive::Findings { per_sample: 1, ..drive::Findings::default() };
                let begin = ticks();
                let mut last = begin;
                while last - begin < budget.ticks && findings.sent < budget.messages.min(1 << 16) {
                    findings.sent += 1;
                    if !LOCAL {
                        setup::take_turns(page, findings.sent);
                    }
                    let start = ticks();
                    if LOCAL {
                        into.copy_from_slice(black_box(&from[..]));
                    } else {
                        setup::copy_out(place, &mut into);
                    }
                    black_box(&into);
                    last = ticks();
                    findings.samples.push(last - start);
                }
                setup::over(page);
                Ok(findings)
            },
            child: |_, page, place| {
                setup::write_in_turns(page, place);
                Ok(nothing())
            },
        },
    )
}
