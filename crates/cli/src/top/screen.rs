//! The terminal while it is a screen: put back as it was, however the command ends.

use crate::interrupt::Interrupt;
use crate::terminal::{Raw, write_all};
use ginnel_base::Deadline;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signal_hook::consts::SIGWINCH;
use std::io::{self, IsTerminal, Read};
use std::os::unix::net::UnixStream;

/// The other screen, without cursor and line wrap.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// It is time for a new look.
    Time,
    Signal,
    Quit,
    Sort,
    Reverse,
    /// A key without a meaning, or another size: only to be shown anew.
    Other,
}

pub(super) struct Screen<'a> {
    interrupt: &'a Interrupt,
    /// Readable when the terminal has got another size.
    resized: UnixStream,
    /// Whether keys may come.
    keys: bool,
    pub(super) colour: bool,
    // Put back last.
    _raw: Raw,
}

impl<'a> Screen<'a> {
    pub(super) fn open(interrupt: &'a Interrupt) -> io::Result<Self> {
        let (resized, write) = UnixStream::pair()?;
        resized.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGWINCH, write)?;
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let keys = io::stdin().is_terminal();
        let screen = Self { interrupt, resized, keys, colour, _raw: Raw::new() };
        write_all(rustix::stdio::stdout(), ENTER, |_| ())?;
        Ok(screen)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        match rustix::termios::tcgetwinsize(rustix::stdio::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }

    pub(super) fn show(&mut self, lines: &[String]) -> io::Result<()> {
        // In one piece, and over what is there: nothing flickers. The terminal is in raw mode.
        let text = format!("\x1b[H{}\x1b[K\x1b[J", lines.join("\x1b[K\r\n"));
        write_all(rustix::stdio::stdout(), text.as_bytes(), |_| ())
    }

    /// Waits until `deadline` for something to do.
    pub(super) fn wait(&mut self, deadline: Deadline) -> Result<Key, Errno> {
        loop {
            let stdin = rustix::stdio::stdin();
            let mut fds = vec![
                PollFd::from_borrowed_fd(self.interrupt.wake(), PollFlags::IN),
                PollFd::new(&self.resized, PollFlags::IN),
            ];
            if self.keys {
                fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
            }
            let came = wait(&mut fds, deadline)?;
            let ready = |at: usize| fds.get(at).is_some_and(|fd: &PollFd<'_>| !fd.revents().is_empty());
            let (resized, key) = (ready(1), ready(2));
            if self.interrupt.came() {
                return Ok(Key::Signal);
            }
            if resized {
                while self.resized.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
                return Ok(Key::Other);
            }
            if key {
                return self.key();
            }
            if !came && deadline.passed() {
                return Ok(Key::Time);
            }
        }
    }

    fn key(&mut self) -> Result<Key, Errno> {
        let mut typed = [0; 64];
        let len = match rustix::io::read(rustix::stdio::stdin(), &mut typed) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Key::Other),
            // The terminal has gone: there is nobody to show anything to.
            Ok(0) | Err(Errno::IO) => return Ok(Key::Quit),
            read => read?,
        };
        let mut key = Key::Other;
        for byte in &typed[..len] {
            key = match byte {
                // Ctrl-C and Ctrl-D too: in raw mode they are keys as all others.
                b'q' | b'Q' | 0x03 | 0x04 => return Ok(Key::Quit),
                b's' => Key::Sort,
                b'r' => Key::Reverse,
                _ => key,
            };
        }
        Ok(key)
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        let _ = write_all(rustix::stdio::stdout(), LEAVE, |_| ());
    }
}

/// Where there is no screen: waits until `deadline`, or a signal.
pub(super) fn sleep(interrupt: &Interrupt, deadline: Deadline) -> Result<Key, Errno> {
    loop {
        wait(&mut [PollFd::from_borrowed_fd(interrupt.wake(), PollFlags::IN)], deadline)?;
        if interrupt.came() {
            return Ok(Key::Signal);
        }
        if deadline.passed() {
            return Ok(Key::Time);
        }
    }
}

/// Whether something came before `deadline`, or a signal.
fn wait(fds: &mut [PollFd<'_>], deadline: Deadline) -> Result<bool, Errno> {
    let timeout = deadline.remaining().and_then(|left| Timespec::try_from(left).ok());
    match poll(fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error),
    }
}
