//! Letters to the reactor: the only way back in for other threads.

use crate::responder::{Answer, CallKey};
use crate::sys::Bell;
use ginnel_base::Mailbox;
use std::cell::Cell;
use std::time::Duration;

/// What other threads tell a reactor.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A call is answered; from the executor, or from elsewhere.
    Answer { call: CallKey, answer: Answer, executed: bool },
    /// An item of a stream.
    Item { call: CallKey, item: Vec<u8> },
    /// A session that another reactor has let in.
    #[cfg(target_os = "linux")]
    Admit(Box<ginnel_session::Parts>, crate::server::Place),
    /// Requests hold less: sessions that wait for room may be read from.
    Room,
    /// Accept nothing more, and end each session with its last answer. Clients are told how long that may take.
    Drain(Duration),
    /// End sessions whether they are idle or not; handlers are told.
    Stop,
    /// Close whatever is left, and end.
    End,
}

/// Where letters to a reactor are posted.
#[derive(Debug)]
pub(crate) struct Office(pub(crate) Mailbox<Letter, Bell>);

impl Office {
    /// Posts a letter. After the reactor's end it is dropped: nobody waits for it.
    pub(crate) fn post(&self, letter: Letter) {
        let _ = self.0.post(letter);
    }
}

thread_local! {
    static HERE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is in a turn of a reactor: whoever blocks it blocks every session.
pub(crate) fn is_here() -> bool {
    HERE.get()
}

/// While it lives, this thread is in a turn of a reactor.
pub(crate) struct Here;

impl Here {
    pub(crate) fn enter() -> Self {
        HERE.set(true);
        Self
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        HERE.set(false);
    }
}
