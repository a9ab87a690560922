//! Floors of blocking: shared memory for the payload, a futex or an eventfd for every wake.

use super::{Handoff, Link, Meeting, Plan, line::CopyFloor};
use crate::Outcome;
use crate::sys::{Region, shared_memory};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use rustix::thread::futex;
use std::sync::atomic::{AtomicU32, Ordering};

/// One direction of wakes.
pub trait Bell: Sized {
    fn make() -> Outcome<OwnedFd>;
    fn open(fds: &mut dyn Iterator<Item = OwnedFd>) -> Outcome<Self>;
    fn ring(&mut self) -> Outcome<()>;
    fn wait(&mut self) -> Outcome<()>;
}

/// A futex word in shared memory: waits and wakes are system calls, always.
pub struct FutexBell {
    word: &'static AtomicU32,
    heard: u32,
}

impl Bell for FutexBell {
    fn make() -> Outcome<OwnedFd> {
        shared_memory(4096)
    }

    fn open(fds: &mut dyn Iterator<Item = OwnedFd>) -> Outcome<Self> {
        let fd = fds.next().ok_or("no futex memory was handed over")?;
        Ok(Self { word: Region::map(fd, 4096)?.half_word(0), heard: 0 })
    }

    fn ring(&mut self) -> Outcome<()> {
        self.word.fetch_add(1, Ordering::Release);
        futex::wake(self.word, futex::Flags::empty(), 1)?;
        Ok(())
    }

    fn wait(&mut self) -> Outcome<()> {
        loop {
            let now = self.word.load(Ordering::Acquire);
            if now != self.heard {
                self.heard = now;
                return Ok(());
            }
            match futex::wait(self.word, futex::Flags::empty(), now, None) {
                Ok(()) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A blocking eventfd.
pub struct EventBell {
    fd: OwnedFd,
}

impl Bell for EventBell {
    fn make() -> Outcome<OwnedFd> {
        Ok(eventfd(0, EventfdFlags::CLOEXEC)?)
    }

    fn open(fds: &mut dyn Iterator<Item = OwnedFd>) -> Outcome<Self> {
        Ok(Self { fd: fds.next().ok_or("no eventfd was handed over")? })
    }

    fn ring(&mut self) -> Outcome<()> {
        rustix::io::write(&self.fd, &1u64.to_ne_bytes())?;
        Ok(())
    }

    fn wait(&mut self) -> Outcome<()> {
        rustix::io::read(&self.fd, &mut [0u8; 8])?;
        Ok(())
    }
}

/// The copy floor with a bell in each direction.
pub struct Belled<const W: usize, B> {
    floor: CopyFloor<W, 1>,
    out: B,
    back: B,
}

impl<const W: usize, B: Bell> Belled<W, B> {
    fn end(floor: CopyFloor<W, 1>, fds: Vec<OwnedFd>, parent: bool) -> Outcome<Self> {
        let fds = &mut fds.into_iter();
        let there = B::open(fds)?;
        let back = B::open(fds)?;
        Ok(if parent { Self { floor, out: there, back } } else { Self { floor, out: back, back: there } })
    }
}

impl<const W: usize, B: Bell> Meeting for Belled<W, B> {
    type Founded = Self;
    type Parent = Self;
    type Child = Self;

    fn found(plan: &Plan) -> Outcome<(Self, Handoff)> {
        let (floor, mut handoff) = CopyFloor::found(plan)?;
        let bells = [B::make()?, B::make()?];
        let own = bells.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>()?;
        handoff.fds.extend(bells);
        Ok((Self::end(floor, own, true)?, handoff))
    }

    fn join(plan: &Plan, mut handoff: Handoff, index: usize) -> Outcome<Self> {
        let bells = handoff.fds.split_off(handoff.fds.len() - 2);
        Self::end(CopyFloor::join(plan, handoff, index)?, bells, false)
    }

    fn connect(_: &Plan, founded: Self) -> Outcome<Self> {
        Ok(founded)
    }
}

impl<const W: usize, B: Bell> Link<W> for Belled<W, B> {
    fn send(&mut self, message: &[u64; W]) -> Outcome<()> {
        self.floor.send(message)?;
        self.out.ring()
    }

    fn receive(&mut self) -> Outcome<()> {
        self.back.wait()?;
        self.floor.receive()
    }

    #[inline(always)]
    fn received(&self) -> &[u64; W] {
        self.floor.received()
    }
}
