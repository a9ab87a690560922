//! The user's terminal, handed through to a command that has one of its own.

use crate::outcome;
use ginnel_process::PtyMaster;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Raw mode of stdin while it lives: every key goes to the command's terminal, which gives it its meaning there.
pub(crate) struct Raw(Option<Termios>);

impl Raw {
    pub(crate) fn new() -> Raw {
        let stdin = io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(&stdin, OptionalActions::Now, &raw);
        }
        Raw(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// What the terminal calls end of file, when stdin is not one and has ended.
const END_OF_FILE: u8 = 0x04;

/// Stdin, typed at the terminal of whichever run is the current one.
///
/// One reader serves all runs: nothing can wake a thread from a terminal nobody types at, so one for each run would
/// outlive it, keep its terminal, and take the first keys meant for the next. The thread ends with the process.
pub(crate) struct Keyboard(Arc<Desk>);

#[derive(Default)]
struct Desk {
    seat: Mutex<Seat>,
    changed: Condvar,
    /// Whether keys may be taken from stdin; held while that is done.
    open: Mutex<bool>,
    opened: Condvar,
}

/// The terminal in front of the keyboard, and how many have been there.
#[derive(Default)]
struct Seat {
    terminal: Option<PtyMaster>,
    number: u64,
}

impl Keyboard {
    pub(crate) fn new() -> io::Result<Keyboard> {
        let desk = Arc::new(Desk::default());
        let typist = Typist { desk: Arc::clone(&desk), number: 0, line_is_empty: true };
        // Not by `ginnel_base::thread`: of a thread that blocks TTIN a read in the background fails, and does not stop
        // the job. What this process catches is caught in every thread.
        std::thread::Builder::new().name("keyboard".to_owned()).spawn(move || typist.type_stdin())?;
        Ok(Keyboard(desk))
    }

    /// From now on keys go to this terminal.
    pub(crate) fn attach(&self, terminal: PtyMaster) {
        let mut seat = self.0.seat();
        seat.terminal = Some(terminal);
        seat.number += 1;
        self.0.changed.notify_all();
        drop(seat);
        *self.0.open() = true;
        self.0.opened.notify_all();
    }

    /// Keys wait for the next terminal. False when they may still be taken from stdin, by a read that is on its way.
    pub(crate) fn detach(&self) -> bool {
        self.0.seat().terminal = None;
        // Not waited for: a read may block when somebody else was quicker.
        self.0.open.try_lock().map(|mut open| *open = false).is_ok()
    }
}

impl Desk {
    fn seat(&self) -> MutexGuard<'_, Seat> {
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, bool> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One read of stdin, when there is something to read and keys may be taken.
    fn read(&self, buf: &mut [u8]) -> Result<usize, Errno> {
        let stdin = rustix::stdio::stdin();
        const AT_ONCE: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        loop {
            // Without taking anything: what is typed after the end of a run is not for it.
            let _ = poll(&mut [PollFd::from_borrowed_fd(stdin, PollFlags::IN)], None);
            let open = self.opened.wait_while(self.open(), |open| !*open).unwrap_or_else(PoisonError::into_inner);
            let mut watched = [PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
            if !poll(&mut watched, Some(&AT_ONCE)).is_ok_and(|ready| ready > 0) {
                continue;
            }
            match rustix::io::read(stdin, &mut *buf) {
                // Whoever shares it with us may have made it so, and was quicker.
                Err(Errno::INTR | Errno::AGAIN) => drop(open),
                result => return result,
            }
        }
    }

    /// The terminal to type at, as soon as there is one that came after the first `seen`.
    fn occupied(&self, seen: u64) -> MutexGuard<'_, Seat> {
        self.changed
            .wait_while(self.seat(), |seat| seat.terminal.is_none() || seat.number <= seen)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

struct Typist {
    desk: Arc<Desk>,
    /// The terminal typed at last.
    number: u64,
    /// Whether what was typed there is all in lines that are complete.
    line_is_empty: bool,
}

impl Typist {
    fn type_stdin(mut self) {
        // Of a command that never starts, stdin is left alone.
        drop(self.desk.occupied(0));
        let mut buf = [0; 4096];
        while let Ok(len @ 1..) = self.desk.read(&mut buf) {
            self.type_all(&buf[..len]);
        }
        let mut ended = 0;
        loop {
            // The next run finds an end as well.
            drop(self.desk.occupied(ended));
            ended = self.type_end();
        }
    }

    /// What a terminal no longer takes is for the next one.
    fn type_all(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = &bytes[self.type_some(bytes)..];
        }
    }

    /// In the middle of a line the first end of file only hands over what there is of it; the second one is the end.
    /// Gives the number of the terminal that has had it.
    fn type_end(&mut self) -> u64 {
        loop {
            let was_empty = self.line_is_empty;
            let before = self.number;
            let len = self.type_some(&[END_OF_FILE]);
            if len == 1 && (was_empty || self.number != before) {
                return self.number;
            }
        }
    }

    /// Types what the current terminal takes; waits for one when there is none.
    fn type_some(&mut self, bytes: &[u8]) -> usize {
        let seat = self.desk.occupied(0);
        if seat.number != self.number {
            (self.number, self.line_is_empty) = (seat.number, true);
        }
        // A handle for this write only: a terminal is not kept by its keyboard, and can be detached meanwhile.
        let terminal = seat.terminal.as_ref().map(PtyMaster::try_clone);
        drop(seat);
        match terminal.map(|terminal| write(&mut terminal?, bytes)) {
            Some(Ok(len)) if len > 0 => {
                // A return is a newline to a terminal (ICRNL).
                self.line_is_empty = matches!(bytes[len - 1], b'\n' | b'\r' | END_OF_FILE);
                len
            }
            _ => {
                let mut seat = self.desk.seat();
                if seat.number == self.number {
                    seat.terminal = None;
                }
                0
            }
        }
    }
}

/// Makes reads and writes of the terminal, through whichever handle, return at once instead of blocking.
///
/// The kernel wakes a writer that waits in `write` for the command to read just before it counts the last close, which
/// the writer therefore does not see: it sleeps for ever. `poll` tells of the close in time.
pub(crate) fn unblock(master: &PtyMaster) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(master, true)?)
}

/// Waits until this can be done, or the command's side is closed: then true.
fn closed(master: &PtyMaster, wanted: PollFlags) -> io::Result<bool> {
    loop {
        let mut fds = [PollFd::new(master, wanted)];
        match poll(&mut fds, None) {
            Ok(_) => return Ok(fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Some of the bytes, as soon as the terminal takes any; 0 when it is closed.
fn write(master: &mut PtyMaster, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match master.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if closed(master, PollFlags::OUT)? {
                    return Ok(0);
                }
            }
            result => return result,
        }
    }
}

/// Some of what was shown; 0 when the terminal is closed.
fn read(master: &mut PtyMaster, buf: &mut [u8]) -> io::Result<usize> {
    loop {
        match master.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // What was written before the close is still there: the next read says when it is not.
                closed(master, PollFlags::IN)?;
            }
            result => return result,
        }
    }
}

/// Shows what the command writes, until its terminal is closed; then `shown` hears how that went. When it cannot be
/// shown, `lost` hears so, once; the rest is read all the same, so that the command can go on to its end. `progress`
/// counts the bytes.
pub(crate) fn show(
    mut master: PtyMaster,
    progress: Arc<AtomicU64>,
    lost: impl FnOnce(&io::Error) + Send + 'static,
    shown: impl FnOnce(io::Result<()>) + Send + 'static,
) -> io::Result<()> {
    let thread = ginnel_base::thread::spawn("screen", move || {
        let mut buf = [0; 64 * 1024];
        let result = copy(&mut master, &mut buf, &progress);
        if let Err(error) = &result {
            lost(error);
            while read(&mut master, &mut buf).is_ok_and(|len| len > 0) {}
        }
        shown(result);
    });
    thread.map(drop)
}

fn copy(master: &mut PtyMaster, buf: &mut [u8], progress: &AtomicU64) -> io::Result<()> {
    loop {
        let len = read(master, buf)?;
        if len == 0 {
            return Ok(());
        }
        write_all(rustix::stdio::stdout(), &buf[..len], |len| {
            progress.fetch_add(len as u64, Ordering::Relaxed);
        })?;
    }
}

/// Writes all of it to a descriptor that may not block, because whoever shares it with us may have made it so.
/// `progress` hears of each piece.
pub(crate) fn write_all(fd: impl AsFd, mut bytes: &[u8], mut progress: impl FnMut(usize)) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(&fd, bytes) {
            Ok(len) => {
                progress(len);
                bytes = &bytes[len..];
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Writes all of it to a pipe or file. When nothing was taken for a second, and `patient` says that there was enough
/// waiting, it is [`TimedOut`](io::ErrorKind::TimedOut).
pub(crate) fn write_patiently(fd: impl AsFd, mut bytes: &[u8], patient: impl Fn() -> bool) -> io::Result<()> {
    const ROUND: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
    /// What a pipe takes without blocking once it is ready (`PIPE_BUF`).
    const PIECE: usize = 4096;
    while !bytes.is_empty() {
        match poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&ROUND)) {
            Ok(0) if patient() => continue,
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")),
            Err(Errno::INTR) => continue,
            result => result?,
        };
        match rustix::io::write(&fd, &bytes[..bytes.len().min(PIECE)]) {
            Ok(len) => bytes = &bytes[len..],
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One line for people, on standard error.
pub(crate) fn tell(message: &str) {
    outcome::tell(format_args!("ginnel run: {message}"));
}
