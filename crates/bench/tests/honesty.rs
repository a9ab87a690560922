//! Transports that do a known thing: delay by a set time, damage, drop and double messages. What is measured is that.

mod common;

use common::{plan, suite};
use ginnel_bench::{Amount, Facts, Form, Link, Mechanism, Mechanisms, Mode, Plan, Repetition, Role, Row, Transport};
use std::io;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What a test double does.
#[derive(Clone, Copy, PartialEq)]
enum Does {
    /// Each message arrives this long after it was sent.
    Delay(Duration),
    /// Every so many messages of the client, one of these in turn: damage, send twice, drop.
    Harm { every: u32, drop: bool },
}

struct Double(&'static str, Does);

struct End {
    stream: UnixStream,
    does: Does,
    role: Role,
    sent: u32,
}

const DELAY: Duration = Duration::from_millis(2);

fn mechanisms() -> Mechanisms {
    Mechanisms::all()
        .with(Double("delaying", Does::Delay(DELAY)))
        .with(Double("harming", Does::Harm { every: 10, drop: true }))
        .with(Double("damaging", Does::Harm { every: 10, drop: false }))
}

impl Mechanism for Double {
    type End = End;

    fn facts(&self) -> Facts {
        Facts::new(self.0, "does what a test wants")
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let stream = match role {
            Role::Server => {
                let (own, other) = UnixStream::pair()?;
                link.give(&(), &[std::os::fd::AsFd::as_fd(&other)])?;
                own
            }
            Role::Client => link.take::<()>()?.1.pop().unwrap().into(),
        };
        Ok(End { stream, does: self.1, role, sent: 0 })
    }
}

fn now() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl End {
    fn write(&mut self, message: &[u8]) -> io::Result<()> {
        use io::Write;
        let stamp = u64::try_from(now().as_nanos()).unwrap();
        self.stream.write_all(&[&stamp.to_le_bytes(), message].concat())
    }
}

impl Transport for End {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let last = message[4..8] == [0xff; 4];
        let Does::Harm { every, drop } = self.does else { return self.write(message) };
        if self.role == Role::Server || last {
            return self.write(message);
        }
        let number = self.sent;
        self.sent += 1;
        match (number % every, number / every % 3) {
            (5, 0) => {
                let mut damaged = message.to_vec();
                *damaged.last_mut().unwrap() ^= 1;
                self.write(&damaged)
            }
            (5, 1) => {
                self.write(message)?;
                self.write(message)
            }
            (5, 2) if drop => Ok(()),
            _ => self.write(message),
        }
    }

    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        use io::Read;
        let mut stamp = [0; 8];
        self.stream.read_exact(&mut stamp)?;
        self.stream.read_exact(message)?;
        if let Does::Delay(delay) = self.does {
            let due = Duration::from_nanos(u64::from_le_bytes(stamp)) + delay;
            // Asleep for the most of it: others need the CPU, too.
            if let Some(left) = due.checked_sub(now() + Duration::from_micros(100)) {
                std::thread::sleep(left);
            }
            while now() < due {
                std::hint::spin_loop();
            }
        }
        Ok(message.len())
    }
}

#[test]
fn a_side_of_a_measurement() {
    common::become_side(&mechanisms());
}

fn measured(plan: &Plan) -> Row {
    let row = suite(mechanisms()).measure(plan);
    assert_eq!(row.failure, None, "{} {} {}", plan.mechanism, plan.form, plan.mode);
    row
}

/// The median of `pick` is `expected`, within 5 percent and the clock's cost. A busy machine gets more tries.
fn agrees(plan: &Plan, expected: Duration, pick: fn(&Repetition) -> u64) {
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(45);
    while Instant::now() < deadline {
        let row = measured(plan);
        let one = &row.repetitions[0];
        let (got, wanted) = (pick(one) as f64, expected.as_nanos() as f64);
        let clock = one.calibration[0].clock_ns;
        if (got - wanted).abs() <= 0.05 * wanted + clock {
            return;
        }
        seen.push(got);
    }
    panic!("{} {} {:?}: {seen:?} ns, not {expected:?}", plan.form, plan.mode, plan.interval);
}

fn forms() -> Vec<Form> {
    if cfg!(feature = "tokio") { vec![Form::Blocking, Form::Async] } else { vec![Form::Blocking] }
}

fn delaying(mode: Mode, form: Form) -> Plan {
    let mut plan = plan("delaying", mode);
    (plan.form, plan.amount, plan.warm_up) = (form, Amount::Count(40), 5);
    plan
}

#[test]
fn a_known_delay_is_what_round_trips_show_and_one_way_is_half_of_it() {
    for form in forms() {
        let mut plan = delaying(Mode::PingPong, form);
        plan.one_way = true;
        agrees(&plan, 2 * DELAY, |one| one.round_trip.quantile(0.5));
        agrees(&plan, DELAY, |one| one.one_way.quantile(0.5));
        for mode in [Mode::FanOut, Mode::FanIn] {
            let mut plan = delaying(mode, form);
            plan.pairs = 2;
            // Two servers, or two ends of one, share a CPU and a delay: what is behind the first waits for it.
            if (mode, form) != (Mode::FanIn, Form::Async) {
                agrees(&plan, 2 * DELAY, |one| one.round_trip.quantile(0.5));
            }
        }
    }
}

#[test]
fn a_known_delay_is_what_flows_show_whatever_the_send_delay() {
    for form in forms() {
        let mut plan = delaying(Mode::Throughput, form);
        plan.depth = 1;
        agrees(&plan, DELAY, |one| one.one_way.quantile(0.5));
        for interval in [Duration::from_millis(3), Duration::from_millis(8)] {
            let mut plan = delaying(Mode::Paced, form);
            plan.interval = interval;
            agrees(&plan, DELAY, |one| one.one_way.quantile(0.5));
            agrees(&plan, DELAY, |one| one.corrected.quantile(0.5));
        }
    }
}

#[test]
fn a_sender_that_is_held_up_hides_nothing_in_a_paced_row() {
    // One message every millisecond, answered after four: each is sent later than it was to be by three more.
    let mut plan = delaying(Mode::Paced, Form::Blocking);
    (plan.interval, plan.round_trip, plan.warm_up) = (Duration::from_millis(1), true, 0);
    plan.amount = Amount::Count(41);
    let one = &measured(&plan).repetitions[0];
    // The first was on time; the last arrived the whole window later, and was to be sent 40 ms after the first.
    let late = |first: u64| one.window_ns + first - 40_000_000;
    let (least, most) = (late(one.round_trip.min()), late(one.round_trip.max()));
    let last = one.corrected.max();
    assert!(least * 99 / 100 <= last && last <= most * 101 / 100, "{last} ns, not {least} to {most}");
    assert!(last > 3 * one.round_trip.min(), "a closed loop would hide this");
}

#[test]
fn every_message_that_is_damaged_dropped_or_doubled_is_counted() {
    let counts = |plan: &mut Plan| {
        (plan.warm_up, plan.include_first, plan.amount) = (0, true, Amount::Count(3000));
        measured(plan).repetitions[0].counts
    };
    // 300 messages are harmed, 100 in each way.
    let flowed = counts(&mut plan("harming", Mode::Throughput));
    assert_eq!((flowed.sent, flowed.received), (3000, 2800));
    assert_eq!((flowed.corrupt, flowed.duplicated, flowed.lost, flowed.reordered), (100, 100, 100, 0));
    let answered = counts(&mut plan("damaging", Mode::PingPong));
    assert_eq!((answered.sent, answered.received), (3000, 3000));
    assert_eq!((answered.corrupt, answered.duplicated, answered.lost, answered.reordered), (100, 100, 0, 0));
}

#[test]
fn a_question_that_is_lost_is_an_error_in_bounded_time() {
    let mut plan = plan("harming", Mode::PingPong);
    plan.patience = Duration::from_millis(700);
    let row = suite(mechanisms()).measure(&plan);
    assert!(row.failure.unwrap().contains("nothing has moved for 700ms"));
    assert!(row.repetitions.is_empty());
}

#[test]
fn four_pairs_of_8000_messages_are_32000_in_every_count() {
    for mode in [Mode::PingPong, Mode::Throughput] {
        let mut plan = plan("uds-seqpacket", mode);
        (plan.pairs, plan.amount) = (4, Amount::Count(8000));
        let row = measured(&plan);
        let one = &row.repetitions[0];
        let samples = if mode == Mode::PingPong { &one.round_trip } else { &one.one_way };
        assert_eq!((one.counts.sent, one.counts.received, samples.len()), (32_000, 32_000, 32_000), "{mode}");
        assert_eq!(row.summary.unwrap().samples, 32_000);
    }
}
