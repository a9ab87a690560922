//! The user's terminal, handed through to a command that has one of its own.

use ginnel_process::PtyMaster;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{self, IsTerminal, Read, Write};
use std::thread::JoinHandle;

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
const END_OF_FILE: &[u8] = b"\x04";

/// Types what comes from stdin. The thread ends with the process: nothing can wake it from a terminal nobody types at.
pub(crate) fn type_stdin(mut master: PtyMaster) {
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        let mut stdin = io::stdin();
        loop {
            match stdin.read(&mut buf) {
                Ok(0) => break,
                Ok(len) if master.write_all(&buf[..len]).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let _ = master.write_all(END_OF_FILE);
    });
}

/// Shows what the command writes, until its terminal is closed.
pub(crate) fn show(mut master: PtyMaster) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        let mut buf = [0; 64 * 1024];
        let mut stdout = io::stdout();
        loop {
            let len = master.read(&mut buf)?;
            if len == 0 {
                return Ok(());
            }
            stdout.write_all(&buf[..len])?;
            stdout.flush()?;
        }
    })
}
