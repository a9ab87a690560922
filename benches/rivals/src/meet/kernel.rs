//! What the kernel carries: pipes and Unix sockets, blocking. The same message goes in by write and out by read.

use super::{Handoff, Link, Meeting, Plan, Receiver, Sender};
use crate::Outcome;
use crate::payload::{Source, buffer};
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read, write};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair, sockopt};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use std::marker::PhantomData;
use zerocopy::IntoBytes;

/// How a kernel mechanism makes its two ends.
pub trait Pair {
    /// Whether a write is a message: then a batch is as many writes.
    const PACKETS: bool;

    /// (the parent's outgoing end, the child's incoming end)
    fn make(message: usize) -> Outcome<(OwnedFd, OwnedFd)>;
}

pub struct Pipe;
pub struct SeqPacket;
pub struct Stream;

impl Pair for Pipe {
    const PACKETS: bool = false;

    fn make(_: usize) -> Outcome<(OwnedFd, OwnedFd)> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // The largest pipe that an unprivileged process may have.
        fcntl_setpipe_size(&writer, 1 << 20)?;
        Ok((writer, reader))
    }
}

fn sockets(kind: SocketType, message: usize) -> Outcome<(OwnedFd, OwnedFd)> {
    let (a, b) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let wanted = (4 * message).max(256 << 10);
    for end in [&a, &b] {
        // Beyond wmem_max with the right to it, else as far as it goes.
        if sockopt::set_socket_send_buffer_size_force(end, wanted).is_err() {
            sockopt::set_socket_send_buffer_size(end, wanted)?;
        }
    }
    Ok((a, b))
}

impl Pair for SeqPacket {
    const PACKETS: bool = true;

    fn make(message: usize) -> Outcome<(OwnedFd, OwnedFd)> {
        sockets(SocketType::SEQPACKET, message)
    }
}

impl Pair for Stream {
    const PACKETS: bool = false;

    fn make(message: usize) -> Outcome<(OwnedFd, OwnedFd)> {
        sockets(SocketType::STREAM, message)
    }
}

fn write_all(fd: &OwnedFd, mut bytes: &[u8]) -> Outcome<()> {
    while !bytes.is_empty() {
        match write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn read_all(fd: &OwnedFd, mut bytes: &mut [u8]) -> Outcome<()> {
    while !bytes.is_empty() {
        match read(fd, &mut *bytes) {
            Ok(0) => return Err("the other side hung up".into()),
            Ok(count) => bytes = &mut bytes[count..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// A two-way link: a pair each way.
pub struct KernelLink<const W: usize, P> {
    out: OwnedFd,
    back: OwnedFd,
    copy: Box<[u64; W]>,
    pair: PhantomData<P>,
}

impl<const W: usize, P: Pair> Meeting for KernelLink<W, P> {
    type Founded = Self;
    type Parent = Self;
    type Child = Self;

    fn found(_: &Plan) -> Outcome<(Self, Handoff)> {
        let (out, child_in) = P::make(8 * W)?;
        let (child_out, back) = P::make(8 * W)?;
        let handoff = Handoff { fds: vec![child_out, child_in], ..Handoff::default() };
        Ok((Self { out, back, copy: buffer(), pair: PhantomData }, handoff))
    }

    fn join(_: &Plan, handoff: Handoff, _: usize) -> Outcome<Self> {
        let [out, back]: [OwnedFd; 2] = handoff.fds.try_into().map_err(|_| "two descriptors were expected")?;
        Ok(Self { out, back, copy: buffer(), pair: PhantomData })
    }

    fn connect(_: &Plan, founded: Self) -> Outcome<Self> {
        Ok(founded)
    }
}

impl<const W: usize, P> Link<W> for KernelLink<W, P> {
    fn send(&mut self, message: &[u64; W]) -> Outcome<()> {
        write_all(&self.out, message.as_bytes())
    }

    fn receive(&mut self) -> Outcome<()> {
        read_all(&self.back, self.copy.as_mut_bytes())
    }

    #[inline(always)]
    fn received(&self) -> &[u64; W] {
        &self.copy
    }
}

/// A one-way stream. A batch is one write (of a byte stream; packets go one by one), and a read takes what is there.
pub struct KernelStream<const W: usize, P>(PhantomData<P>);

pub struct StreamSender<const W: usize> {
    fd: OwnedFd,
    batch: Vec<[u64; W]>,
    packets: bool,
}

pub struct StreamReceiver<const W: usize> {
    fd: OwnedFd,
    room: Box<[[u64; W]]>,
    filled: usize,
    packets: bool,
}

impl<const W: usize, P: Pair> Meeting for KernelStream<W, P> {
    type Founded = StreamSender<W>;
    type Parent = StreamSender<W>;
    type Child = StreamReceiver<W>;

    fn found(plan: &Plan) -> Outcome<(StreamSender<W>, Handoff)> {
        let (fd, child) = P::make(8 * W)?;
        let handoff = Handoff { fds: vec![child], ..Handoff::default() };
        Ok((StreamSender { fd, batch: Vec::with_capacity(plan.row.batch), packets: P::PACKETS }, handoff))
    }

    fn join(_: &Plan, handoff: Handoff, _: usize) -> Outcome<StreamReceiver<W>> {
        let fd = handoff.fds.into_iter().next().ok_or("no descriptor was handed over")?;
        let count = if W <= 1024 { (65536 / (8 * W)).max(1) } else { 1 };
        let room = (0..count).map(|_| [0; W]).collect();
        Ok(StreamReceiver { fd, room, filled: 0, packets: P::PACKETS })
    }

    fn connect(_: &Plan, founded: StreamSender<W>) -> Outcome<StreamSender<W>> {
        Ok(founded)
    }
}

impl<const W: usize> Sender<W> for StreamSender<W> {
    fn send_batch(&mut self, count: usize, source: &mut Source<W>) -> Outcome<()> {
        if self.packets || count == 1 {
            for _ in 0..count {
                source.next(|message| write_all(&self.fd, message.as_bytes()))?;
            }
            return Ok(());
        }
        self.batch.clear();
        for _ in 0..count {
            source.next(|message| self.batch.push(*message));
        }
        write_all(&self.fd, self.batch.as_bytes())
    }
}

impl<const W: usize> Receiver<W> for StreamReceiver<W> {
    fn drain(&mut self, mut take: impl FnMut(&[u64; W])) -> Outcome<()> {
        if self.packets || self.room.len() == 1 {
            read_all(&self.fd, self.room[0].as_mut_bytes())?;
            take(&self.room[0]);
            return Ok(());
        }
        while self.filled < 8 * W {
            match read(&self.fd, &mut self.room.as_mut_bytes()[self.filled..]) {
                Ok(0) => return Err("the other side hung up".into()),
                Ok(count) => self.filled += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let whole = self.filled / (8 * W);
        self.room[..whole].iter().for_each(&mut take);
        let rest = self.filled - whole * 8 * W;
        self.room.as_mut_bytes().copy_within(whole * 8 * W..self.filled, 0);
        self.filled = rest;
        Ok(())
    }
}
