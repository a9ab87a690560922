//! Round trips through a session's two rings, between two processes that spin, beside what the machine needs to move
//! one cache line there and back.
//!
//! `cargo bench -p ginnel-memory --bench byte_ring` prints the median of many blocks, and each as a multiple of the
//! line's. The two processors may move while it runs (see the line's row before and after): compare only what was
//! measured together.

use ginnel_memory::byte_ring::{ByteConsumer, ByteProducer, PairSizes, RingPair, Side};
use ginnel_memory::{Access, Expect, PARAMS, Segment, Spec, WordsMut};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::io::FdFlags;
use rustix::thread::CpuSet;
use std::error::Error;
use std::process::{Child, Command};
use std::sync::atomic::Ordering;
use std::time::Instant;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const BLOCKS: usize = 2_001;
const ROUNDS: usize = 100;
const RING: usize = 256 << 10;
/// The last one is 64 bytes behind an envelope and a timeout: what a call of 64 bytes is.
const SIZES: [usize; 7] = [8, 48, 64, 104, 1 << 10, 8 << 10, 64 << 10];
const KIND: u32 = 1;

fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--echo") {
        let mut fd = || -> Outcome<OwnedFd> {
            let number = arguments.next().ok_or("a descriptor")?.parse()?;
            // SAFETY: the parent has left this descriptor open for us, and nobody else here knows its number.
            Ok(unsafe { OwnedFd::from_raw_fd(number) })
        };
        return echo(fd()?, fd()?);
    }
    let spec = Spec { kind: KIND, layout: 0, instance: 1, params: [0; PARAMS], data: 4096, mirror: false };
    let line = Segment::memfd("line", &spec, false)?;
    let sizes = PairSizes::new(RING, RING).ok_or("ring sizes")?;
    let pair = RingPair::create(sizes, 1)?;
    let mut child = start(&[line.fd(), pair.fd()])?;
    let measured = measure(&line.data_mut(), pair.split(Side::Client));
    if measured.is_err() {
        child.kill()?;
    }
    child.wait()?;
    measured
}

fn start(fds: &[BorrowedFd<'_>]) -> Outcome<Child> {
    let kept: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<Result<_, _>>()?;
    for fd in &kept {
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?; // the child inherits it
    }
    let numbers = kept.iter().map(|fd| fd.as_fd().as_raw_fd().to_string());
    Ok(Command::new(std::env::current_exe()?).arg("--echo").args(numbers).spawn()?)
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    // Where that is not allowed the figures are those of wherever we are.
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

fn measure(line: &WordsMut, (mut producer, mut consumer): (ByteProducer, ByteConsumer)) -> Outcome {
    pin(0);
    ginnel_memory::fence::prepare();
    let floor = ping(line, 0);
    println!("{:28} p50 {floor:8.1} ns", "cache line, before");
    let mut buffer = vec![1; 64 << 10];
    for len in SIZES {
        let mut blocks = Vec::with_capacity(BLOCKS);
        let rounds = if len > 4096 { ROUNDS / 10 } else { ROUNDS };
        for _ in 0..BLOCKS {
            let begun = Instant::now();
            for _ in 0..rounds {
                send(&mut producer, &buffer[..len])?;
                receive(&mut consumer, &mut buffer)?;
            }
            blocks.push(begun.elapsed().as_nanos() as f64 / rounds as f64);
        }
        let (median, fastest) = median(blocks);
        println!(
            "{:28} p50 {median:8.1} ns   fastest {fastest:8.1} ns   {:5.2} x line",
            format!("ring, {len} B"),
            median / floor
        );
    }
    producer.close();
    println!("{:28} p50 {:8.1} ns", "cache line, after", ping(line, (BLOCKS * ROUNDS) as u64));
    Ok(())
}

/// The other process.
fn echo(line: OwnedFd, ring: OwnedFd) -> Outcome {
    pin(1);
    ginnel_memory::fence::prepare();
    let expect = Expect { kind: KIND, layout: None, instance: None, owner: None };
    let line = Segment::inherit("line", line, Access::ReadWrite, &expect)?.data_mut();
    let sizes = PairSizes::new(RING, RING).ok_or("ring sizes")?;
    let (mut producer, mut consumer) = RingPair::inherit(ring, sizes, 1)?.split(Side::Server);
    pong(&line, 0);
    let mut buffer = vec![0; 64 << 10];
    while let Some(len) = receive_or_end(&mut consumer, &mut buffer)? {
        send(&mut producer, &buffer[..len])?;
    }
    pong(&line, (BLOCKS * ROUNDS) as u64);
    Ok(())
}

fn send(producer: &mut ByteProducer, bytes: &[u8]) -> Outcome {
    while !producer.push(&[bytes])? {
        std::hint::spin_loop();
    }
    assert!(!producer.take_armed(), "nobody sleeps here");
    Ok(())
}

fn receive(consumer: &mut ByteConsumer, buffer: &mut [u8]) -> Outcome {
    receive_or_end(consumer, buffer)?.map(|_| ()).ok_or_else(|| "the other side has closed".into())
}

fn receive_or_end(consumer: &mut ByteConsumer, buffer: &mut [u8]) -> Outcome<Option<usize>> {
    loop {
        if let Some(record) = consumer.peek()? {
            let len = record.len();
            record.copy_out(0, &mut buffer[..len]);
            record.release();
            if consumer.should_flush() {
                let _ = consumer.flush();
            }
            return Ok(Some(len));
        }
        if consumer.closed() && !consumer.ready() {
            return Ok(None);
        }
        let _ = consumer.flush();
        std::hint::spin_loop();
    }
}

/// One word there, another on another line back.
fn ping(line: &WordsMut, first: u64) -> f64 {
    let mut blocks = Vec::with_capacity(BLOCKS);
    let mut seq = first;
    for _ in 0..BLOCKS {
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            seq += 1;
            line.store(0, seq, Ordering::Release);
            while line.load(32, Ordering::Acquire) != seq {
                std::hint::spin_loop();
            }
        }
        blocks.push(begun.elapsed().as_nanos() as f64 / ROUNDS as f64);
    }
    median(blocks).0
}

fn pong(line: &WordsMut, first: u64) {
    for seq in first + 1..=first + (BLOCKS * ROUNDS) as u64 {
        while line.load(0, Ordering::Acquire) != seq {
            std::hint::spin_loop();
        }
        line.store(32, seq, Ordering::Release);
    }
}

fn median(mut blocks: Vec<f64>) -> (f64, f64) {
    blocks.sort_by(f64::total_cmp);
    (blocks[blocks.len() / 2], blocks[0])
}
