//! What the fuzz targets share: a fuzzer's bytes read as a sequence of choices, and a peer that writes while others
//! work.

pub mod ends;

use ginnel_memory::{Access, Expect, Segment, WordsMut};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// The fuzzer's bytes as choices. At the end every choice is zero.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }

    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }

    /// A word that means something to somebody: small, near a power of two, near `base`, or anything at all.
    pub fn word(&mut self, base: u64) -> u64 {
        match self.byte() % 6 {
            0 => u64::from(self.byte()),
            1 => base.wrapping_add(u64::from(self.short())),
            2 => base.wrapping_sub(u64::from(self.short())),
            3 => u64::MAX - u64::from(self.byte()),
            4 => (1_u64 << (self.byte() % 64)).wrapping_sub(u64::from(self.byte() % 2)),
            _ => u64::from_le_bytes(self.take()),
        }
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    fn take<const N: usize>(&mut self) -> [u8; N] {
        let n = N.min(self.0.len());
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..n].copy_from_slice(taken);
        bytes
    }
}

/// Runs `work` while another thread keeps writing the words that a peer can write, in an order that `seed` decides.
///
/// The thread is joined by name: a scope alone waits for its closure only, and the fuzzer's search for leaks then meets
/// a thread that is just ending and takes what it has yet to free for lost.
pub fn beside_a_mad_writer<T>(words: &[WordsMut], seed: u64, work: impl FnOnce() -> T) -> T {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed); // also when the work panics: the scope waits for the thread
        }
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mad = scope.spawn(|| {
            let mut state = seed | 1;
            while !done.load(Ordering::Relaxed) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let area = &words[(state >> 60) as usize % words.len()];
                // The first words of an area are the ones that mean most.
                let span = if state & 1 == 0 { area.len() } else { area.len().min(96) };
                let value = if state & 2 == 0 { state >> 56 } else { state };
                area.store((state >> 8) as usize % span, value, Ordering::Relaxed);
            }
        });
        let stop = Stop(&done);
        let result = work();
        drop(stop);
        mad.join().expect("the mad writer only writes");
        result
    })
}

/// The memfd `segment`, mapped once more.
pub fn reopen(segment: &Segment, access: Access) -> Segment {
    let header = segment.header();
    let expect = Expect { kind: header.kind, layout: None, instance: Some(header.instance), owner: None };
    // By its path: a descriptor of the writer's could not be mapped read-only and be another description.
    let flags = match access {
        Access::Read => rustix::fs::OFlags::RDONLY,
        Access::ReadWrite => rustix::fs::OFlags::RDWR,
    };
    let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
    let fd = rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty()).unwrap();
    Segment::inherit("fuzz-again", fd, access, &expect).unwrap()
}
