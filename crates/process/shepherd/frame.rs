//! What parent and shepherd say to each other: one `SOCK_SEQPACKET` message a frame, file descriptors beside it by
//! `SCM_RIGHTS`.
//!
//! ```text
//!  offset  size  header, little-endian (`HEADER` bytes)
//!       0     2  version   `VERSION`; any other is refused
//!       2     2  kind      `kind::*`
//!       4     4  id        chosen by the parent for a request; the acknowledgement repeats it; 0 where nothing is answered
//!       8     4  length    of the payload that follows
//!      12     4  zero
//! ```
//!
//! parent -> shepherd: `SPAWN` (once, already in the socket when the shepherd starts), `SIGNAL`, `STOP`.
//! shepherd -> parent: `STARTED` or `FAILED` (once), `ACK` (one for each request), `LEADER_ENDED` (once, with a
//! terminal, when others go on),
//! `EXIT` (once, the last).
//!
//! This file is pure bytes without allocation: the library and the shepherd both compile it.

pub const VERSION: u16 = 2;
pub const HEADER: usize = 16;

/// Kinds of frames.
pub mod kind {
    pub const SPAWN: u16 = 1;
    pub const SIGNAL: u16 = 2;
    pub const STOP: u16 = 3;
    pub const STARTED: u16 = 16;
    pub const FAILED: u16 = 17;
    pub const ACK: u16 = 18;
    pub const EXIT: u16 = 19;
    /// u64: a clock tick, as in `/proc/<pid>/stat`, at which the leader had not been reaped yet. From then on its
    /// number, which with a terminal is also the session's, may become somebody else's.
    pub const LEADER_ENDED: u16 = 20;
}

/// Bits of `Spawn::flags`.
pub mod flag {
    /// The shepherd is pid 1 of a new pid namespace: everybody else in it is the tree.
    pub const PID_NAMESPACE: u32 = 1;
    /// The second descriptor of the frame receives a copy of the `EXIT` frame.
    pub const REPORT: u32 = 4;
    /// The tree outlives the parent.
    pub const OUTLIVE_PARENT: u32 = 8;
    /// The standard streams are one pseudo-terminal.
    pub const PTY: u32 = 16;
    pub const PTY_RAW: u32 = 32;
    pub const PTY_NO_ECHO: u32 = 64;
    /// `Spawn::groups` is to be set, even when it is empty.
    pub const GROUPS: u32 = 128;
    pub const NICE: u32 = 256;
}

/// `Spawn::orphans`: what becomes of the tree when the leader has ended.
pub mod orphans {
    pub const KILL: u8 = 0;
    pub const WAIT: u8 = 1;
    pub const LEAVE: u8 = 2;
}

/// `Spawn::stdio`.
pub mod stdio {
    pub const NULL: u8 = 0;
    /// The next descriptor of the frame.
    pub const GIVEN: u8 = 1;
    pub const PIPE: u8 = 2;
    /// What stdout is (for stderr).
    pub const MERGED: u8 = 3;
    pub const PTY: u8 = 4;
}

/// `Stop::cause` and `Exit::cause`: why the tree ended.
pub mod cause {
    pub const LEADER: u8 = 0;
    pub const STOPPED: u8 = 1;
    pub const TIMEOUT: u8 = 2;
    pub const OUTPUT_LIMIT: u8 = 3;
    pub const PARENT_DEATH: u8 = 4;
    pub const SHEPHERD_SIGNALLED: u8 = 5;
}

/// `Signal::target`.
pub mod target {
    pub const LEADER: u8 = 0;
    pub const GROUP: u8 = 1;
    pub const TREE: u8 = 2;
}

/// `Failed::stage`.
pub mod stage {
    pub const FRAME: u8 = 1;
    pub const CGROUP: u8 = 3;
    pub const STDIO: u8 = 4;
    pub const PTY: u8 = 5;
    pub const FORK: u8 = 6;
    pub const SESSION: u8 = 7;
    pub const DESCRIPTORS: u8 = 8;
    pub const RLIMIT: u8 = 9;
    pub const NICE: u8 = 10;
    pub const AFFINITY: u8 = 11;
    pub const GROUPS: u8 = 12;
    pub const GID: u8 = 13;
    pub const UID: u8 = 14;
    pub const CWD: u8 = 15;
    pub const EXEC: u8 = 16;
}

/// Kinds of control groups, `Group::kind`.
pub mod group {
    /// Version 2: has `cgroup.kill`, and the limits of the unified hierarchy.
    pub const UNIFIED: u8 = 0;
    pub const MEMORY_V1: u8 = 1;
    pub const PIDS_V1: u8 = 2;
    pub const CPU_V1: u8 = 3;
}

/// The most steps of a ladder; the kill at its end is not one of them.
pub const STEPS: usize = 4;
/// Ids and masks that say "leave as it is".
pub const UNSET: u32 = u32::MAX;
/// Survivors that are named in an `EXIT` frame; all are counted.
pub const NAMED_SURVIVORS: usize = 8;
/// Most descriptors beside one frame (the kernel's `SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// Writes into a buffer; too small a buffer is remembered, not written past.
pub struct Put<'a> {
    buf: &'a mut [u8],
    at: usize,
    fits: bool,
}

impl<'a> Put<'a> {
    pub fn new(buf: &'a mut [u8], kind: u16, id: u32) -> Self {
        let mut put = Put { buf, at: 0, fits: true };
        put.raw(&VERSION.to_le_bytes());
        put.raw(&kind.to_le_bytes());
        put.u32(id);
        put.u64(0);
        put
    }

    fn raw(&mut self, bytes: &[u8]) {
        match self.buf.get_mut(self.at..).and_then(|rest| rest.get_mut(..bytes.len())) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.fits = false,
        }
    }

    pub fn u8(&mut self, value: u8) {
        self.raw(&[value]);
    }

    pub fn u32(&mut self, value: u32) {
        self.raw(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.raw(bytes);
    }

    /// The length of the whole frame, or `None` when the buffer was too small.
    pub fn finish(self) -> Option<usize> {
        let payload = self.at.checked_sub(HEADER)? as u32;
        self.buf.get_mut(8..12)?.copy_from_slice(&payload.to_le_bytes());
        self.fits.then_some(self.at)
    }
}

/// Reads what `Put` wrote; anything short or odd is `None`.
#[derive(Clone, Copy)]
pub struct Take<'a>(pub &'a [u8]);

impl<'a> Take<'a> {
    fn raw(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.raw(1).map(|bytes| bytes[0])
    }

    pub fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.raw(4)?.try_into().ok()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.raw(8)?.try_into().ok()?))
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.raw(len as usize)
    }
}

/// Splits a message into kind, id and payload.
pub fn open(message: &[u8]) -> Option<(u16, u32, Take<'_>)> {
    let header = message.get(..HEADER)?;
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let mut rest = Take(header.get(4..)?);
    let (id, length, zero) = (rest.u32()?, rest.u32()?, rest.u32()?);
    let payload = message.get(HEADER..)?;
    (u16_at(0) == VERSION && zero == 0 && payload.len() == length as usize).then_some((u16_at(2), id, Take(payload)))
}

/// One rung: this signal to the tree, then up to this long for the tree to be empty.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Step {
    pub signal: u32,
    pub grace_ns: u64,
}

/// `SPAWN`: everything about the command except its arguments and environment, which are the shepherd's own (the kernel
/// carries them, and says exactly when they are too long).
///
/// Descriptors beside it, in order: the parent's pidfd, the report descriptor (`flag::REPORT`), one for each
/// `stdio::GIVEN`, one for each extra descriptor.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Spawn<'a> {
    pub flags: u32,
    pub orphans: u8,
    pub stdio: [u8; 3],
    pub ladder: [Step; STEPS],
    pub steps: u8,
    /// 0: none.
    pub timeout_ns: u64,
    pub umask: u32,
    pub uid: u32,
    pub gid: u32,
    pub nice: i32,
    /// Rows, columns, pixels across, pixels down.
    pub size: [u16; 4],
    /// `struct termios` of the kernel, or empty.
    pub termios: &'a [u8],
    /// u32 each: the numbers the extra descriptors get.
    pub targets: &'a [u8],
    /// u32 each.
    pub groups: &'a [u8],
    /// The kernel's cpu mask.
    pub affinity: &'a [u8],
    /// u32 resource, u64 soft, u64 hard each.
    pub rlimits: &'a [u8],
    /// NUL-terminated, or empty.
    pub cwd: &'a [u8],
    /// NUL-terminated paths to try, one after the other.
    pub candidates: &'a [u8],
    /// `Group`s, one after the other.
    pub cgroups: &'a [u8],
}

impl<'a> Spawn<'a> {
    pub fn put(&self, put: &mut Put<'_>) {
        put.u32(self.flags);
        put.u8(self.orphans);
        for mode in self.stdio {
            put.u8(mode);
        }
        put.u8(self.steps);
        for step in self.ladder {
            put.u32(step.signal);
            put.u64(step.grace_ns);
        }
        put.u64(self.timeout_ns);
        for word in [self.umask, self.uid, self.gid, self.nice as u32] {
            put.u32(word);
        }
        for word in self.size {
            put.u32(u32::from(word));
        }
        for list in self.lists() {
            put.bytes(list);
        }
    }

    fn lists(&self) -> [&'a [u8]; 8] {
        let Spawn { termios, targets, groups, affinity, rlimits, cwd, candidates, cgroups, .. } = *self;
        [termios, targets, groups, affinity, rlimits, cwd, candidates, cgroups]
    }

    pub fn take(take: &mut Take<'a>) -> Option<Self> {
        let mut spawn = Spawn { flags: take.u32()?, orphans: take.u8()?, ..Spawn::default() };
        for mode in &mut spawn.stdio {
            *mode = take.u8()?;
        }
        spawn.steps = take.u8()?;
        for step in &mut spawn.ladder {
            *step = Step { signal: take.u32()?, grace_ns: take.u64()? };
        }
        spawn.timeout_ns = take.u64()?;
        spawn.umask = take.u32()?;
        spawn.uid = take.u32()?;
        spawn.gid = take.u32()?;
        spawn.nice = take.u32()? as i32;
        for word in &mut spawn.size {
            *word = take.u32()?.try_into().ok()?;
        }
        spawn.termios = take.bytes()?;
        spawn.targets = take.bytes()?;
        spawn.groups = take.bytes()?;
        spawn.affinity = take.bytes()?;
        spawn.rlimits = take.bytes()?;
        spawn.cwd = take.bytes()?;
        spawn.candidates = take.bytes()?;
        spawn.cgroups = take.bytes()?;
        let terminated = |list: &[u8]| list.last().is_none_or(|&last| last == 0);
        let sound = spawn.steps as usize <= STEPS && terminated(spawn.cwd) && terminated(spawn.candidates);
        sound.then_some(spawn)
    }
}

/// One control group to make for the command. Paths and names are NUL-terminated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    pub kind: u8,
    /// A group that carries a limit the caller asked for: without it there is no command.
    pub required: bool,
    pub path: &'a [u8],
    /// `name NUL value NUL` each: files of the group to write, in order.
    pub writes: &'a [u8],
}

impl<'a> Group<'a> {
    pub fn put(&self, put: &mut Put<'_>) {
        put.u8(self.kind);
        put.u8(u8::from(self.required));
        put.bytes(self.path);
        put.bytes(self.writes);
    }

    pub fn take(take: &mut Take<'a>) -> Option<Self> {
        let kind = take.u8()?;
        let required = match take.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Group { kind, required, path: take.bytes()?, writes: take.bytes()? })
    }
}

/// `STARTED`. Descriptors beside it: the leader's pidfd, then the parent's end of every `stdio::PIPE` in order, or the
/// pty master.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Started {
    /// In the shepherd's pid namespace.
    pub leader: u32,
    /// Why there is no unified control group although one was asked for; 0 when there is one.
    pub cgroup_errno: u32,
    /// Why /proc does not show the tree (`EXDEV`: it shows another pid namespace); 0 when it does.
    pub proc_errno: u32,
}

/// `FAILED`: the command never ran.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Failed {
    pub stage: u8,
    pub errno: u32,
    /// Which one of several (descriptor, limit) it was.
    pub index: u32,
}

/// `EXIT`: the one report.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Exit {
    pub cause: u8,
    /// The signal that came to the shepherd, for `cause::SHEPHERD_SIGNALLED`.
    pub cause_signal: u32,
    /// 1 when `status` holds the leader's wait status.
    pub ended: u8,
    pub status: u32,
    /// User and system time in microseconds, peak resident KiB, minor and major faults, blocks in and out, voluntary
    /// and involuntary switches.
    pub rusage: [u64; 9],
    pub duration_ns: u64,
    /// Processes the ladder had to SIGKILL.
    pub killed: u32,
    /// Processes that ended when the ladder had begun, without being killed.
    pub obeyed: u32,
    /// Processes reaped in all, the leader among them.
    pub reaped: u32,
    pub survivors: u32,
    pub named: [u32; NAMED_SURVIVORS],
    pub oom_kills: u64,
    pub fork_refusals: u64,
    /// Peak of the memory control group in bytes; 0 without one.
    pub group_peak: u64,
    /// 1: the reader of the report's copy is slow, and the shepherd waits for it after this frame.
    pub lingers: u8,
}

impl Exit {
    pub fn put(&self, put: &mut Put<'_>) {
        put.u8(self.cause);
        put.u32(self.cause_signal);
        put.u8(self.ended);
        put.u32(self.status);
        for word in self.rusage {
            put.u64(word);
        }
        put.u64(self.duration_ns);
        for word in [self.killed, self.obeyed, self.reaped, self.survivors] {
            put.u32(word);
        }
        for pid in self.named {
            put.u32(pid);
        }
        for word in [self.oom_kills, self.fork_refusals, self.group_peak] {
            put.u64(word);
        }
        put.u8(self.lingers);
    }

    pub fn take(take: &mut Take<'_>) -> Option<Self> {
        let mut exit = Exit {
            cause: take.u8()?,
            cause_signal: take.u32()?,
            ended: take.u8()?,
            status: take.u32()?,
            ..Exit::default()
        };
        for word in &mut exit.rusage {
            *word = take.u64()?;
        }
        exit.duration_ns = take.u64()?;
        exit.killed = take.u32()?;
        exit.obeyed = take.u32()?;
        exit.reaped = take.u32()?;
        exit.survivors = take.u32()?;
        for pid in &mut exit.named {
            *pid = take.u32()?;
        }
        exit.oom_kills = take.u64()?;
        exit.fork_refusals = take.u64()?;
        exit.group_peak = take.u64()?;
        exit.lingers = take.u8()?;
        Some(exit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u32 = 0x0403_0201;

    /// The frame that is written, after every buffer too small for it has been refused and nothing written past its
    /// end.
    fn frame(write: impl Fn(&mut Put<'_>)) -> Vec<u8> {
        let mut buf = [0xee; 1024];
        let finish = |buf: &mut [u8]| {
            let mut put = Put::new(buf, kind::SPAWN, ID);
            write(&mut put);
            put.finish()
        };
        let len = finish(&mut buf).unwrap();
        for short in 0..len {
            let mut small = [0xee; 1024];
            assert_eq!(finish(&mut small[..short]), None, "{short} bytes for {len}");
            assert!(small[short..].iter().all(|byte| *byte == 0xee));
        }
        buf[..len].to_vec()
    }

    /// Reads the payload whole, and makes sure that no shorter one can be read.
    fn read<'a, T: std::fmt::Debug>(message: &'a [u8], take: impl Fn(&mut Take<'a>) -> Option<T>) -> T {
        let (kind, id, payload) = open(message).unwrap();
        assert_eq!((kind, id), (kind::SPAWN, ID));
        for short in 0..payload.0.len() {
            let cut = take(&mut Take(&payload.0[..short]));
            assert!(cut.is_none(), "{short} of {} bytes were read as {cut:?}", payload.0.len());
        }
        let mut rest = payload;
        let value = take(&mut rest).unwrap();
        assert_eq!(rest.0, b"", "unread");
        value
    }

    fn spawn() -> Spawn<'static> {
        Spawn {
            flags: flag::PTY | flag::GROUPS,
            orphans: orphans::WAIT,
            stdio: [stdio::NULL, stdio::PIPE, stdio::MERGED],
            ladder: [1, 2, 3, 4].map(|signal| Step { signal, grace_ns: u64::MAX - u64::from(signal) }),
            steps: 3,
            timeout_ns: 1 << 40,
            umask: 0o22,
            uid: 1000,
            gid: UNSET,
            nice: -20,
            size: [24, 80, u16::MAX, 1],
            termios: b"termios",
            targets: &[9, 0, 0, 0],
            groups: &[1, 2, 3, 4, 5, 6, 7, 8],
            affinity: &[3],
            rlimits: &[7; 20],
            cwd: b"/tmp\0",
            candidates: b"/bin/true\0/usr/bin/true\0",
            cgroups: b"any bytes",
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let message = frame(|put| spawn().put(put));
        assert_eq!(read(&message, Spawn::take), spawn());

        let group = Group { kind: group::PIDS_V1, required: true, path: b"/sys/x\0", writes: b"pids.max\x0010\0" };
        let message = frame(|put| group.put(put));
        assert_eq!(read(&message, Group::take), group);

        let exit = Exit {
            cause: cause::TIMEOUT,
            cause_signal: 15,
            ended: 1,
            status: 0x8b,
            rusage: [1, 2, 3, 4, 5, 6, 7, 8, u64::MAX],
            duration_ns: 10,
            killed: 11,
            obeyed: 17,
            reaped: 12,
            survivors: 13,
            named: [1, 2, 3, 4, 5, 6, 7, 8],
            oom_kills: 14,
            fork_refusals: 15,
            group_peak: 16,
            lingers: 1,
        };
        let message = frame(|put| exit.put(put));
        assert_eq!(read(&message, Exit::take), exit);
    }

    #[test]
    fn a_frame_that_is_not_exactly_one_is_refused() {
        let message = frame(|put| put.bytes(b"payload"));
        assert!(open(&message).is_some());
        for short in 0..message.len() {
            assert!(open(&message[..short]).is_none(), "{short} bytes");
        }
        assert!(open(&[&message[..], b"!"].concat()).is_none(), "one byte too many");
        // The version, and the four bytes that are zero.
        for at in [0, 1, 12, 13, 14, 15] {
            let mut odd = message.clone();
            odd[at] ^= 0x80;
            assert!(open(&odd).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_command_that_would_be_read_past_its_end_is_refused() {
        let refused = |spawn: Spawn<'_>| {
            let message = frame(|put| spawn.put(put));
            let (_, _, mut payload) = open(&message).unwrap();
            assert_eq!(Spawn::take(&mut payload), None, "{spawn:?}");
        };
        refused(Spawn { steps: STEPS as u8 + 1, ..spawn() });
        refused(Spawn { cwd: b"/tmp", ..spawn() });
        refused(Spawn { candidates: b"/bin/true\0/usr/bin/true", ..spawn() });
    }

    #[test]
    fn numbers_that_nobody_writes_are_refused() {
        let message = frame(|put| spawn().put(put));
        // Rows: the first of the four words before the lists.
        let rows = message.windows(4).position(|bytes| bytes == 24u32.to_le_bytes()).unwrap();
        let mut odd = message.clone();
        odd[rows + 2] = 1;
        assert_eq!(Spawn::take(&mut Take(&odd[HEADER..])), None);
        assert_eq!(Group::take(&mut Take(&[group::UNIFIED, 2, 0, 0, 0, 0, 0, 0, 0, 0])), None);
    }
}
