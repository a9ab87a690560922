//! The answer to a streaming call: items as the client allows them, then the end.
//!
//! ```text
//! sink --item, if it has credit and the session is not clogged--> mail --> reactor --> client
//!   ^                                                                         |
//!   `------------- flows: credit, bytes on their way, what is over -----------'
//! ```

use crate::context::Context;
use crate::failure::Failure;
use crate::mail::{self, Letter};
use crate::responder::{Answer, Responder};
use crate::sync::lock;
use ginnel_codec::EncodeError;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Bytes of items that a session may have on their way to the socket before its sinks wait, whatever the credit is.
const AHEAD: usize = 1 << 20;

/// What the sinks of one session share with the reactor.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Streams by the number of their call. One that is not here is over.
    streams: BTreeMap<u64, Stream>,
    /// Bytes of items in the mail.
    posted: usize,
    /// Bytes that the session has not written yet.
    queued: usize,
    /// Threads that sleep in `wait`.
    sleepers: usize,
    /// A sink waits until less is on its way.
    clogged: bool,
}

#[derive(Debug, Default)]
struct Stream {
    credit: u32,
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum May {
    Send,
    Wait,
    Over,
}

impl State {
    fn may(&mut self, number: u64) -> May {
        match self.streams.get(&number) {
            None => May::Over,
            Some(stream) if stream.credit == 0 => May::Wait,
            Some(_) if self.posted + self.queued >= AHEAD => {
                self.clogged = true;
                May::Wait
            }
            Some(_) => May::Send,
        }
    }

    /// Takes room for an item, if there is.
    fn take(&mut self, number: u64, len: usize) -> May {
        let may = self.may(number);
        if may == May::Send
            && let Some(stream) = self.streams.get_mut(&number)
        {
            stream.credit -= 1;
            self.posted += len;
        }
        may
    }
}

impl Flows {
    /// A stream begins.
    pub(crate) fn open(&self, number: u64, credit: u32) {
        lock(&self.state).streams.insert(number, Stream { credit, waker: None });
    }

    /// The client allows more items.
    pub(crate) fn add_credit(&self, number: u64, items: u32) {
        self.change(|state| {
            let stream = state.streams.get_mut(&number)?;
            stream.credit = stream.credit.saturating_add(items);
            stream.waker.take()
        });
    }

    /// A stream is over, or no longer wanted: its sink is told.
    pub(crate) fn close(&self, number: u64) {
        self.change(|state| state.streams.remove(&number)?.waker);
    }

    /// The session is over.
    pub(crate) fn close_all(&self) {
        let numbers: Vec<u64> = lock(&self.state).streams.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.close(number));
    }

    /// Whether there are streams.
    pub(crate) fn any(&self) -> bool {
        !lock(&self.state).streams.is_empty()
    }

    /// An item of `len` bytes has come out of the mail.
    pub(crate) fn arrived(&self, len: usize) {
        lock(&self.state).posted -= len;
    }

    /// The session has so many bytes to write now.
    pub(crate) fn set_queued(&self, queued: usize) {
        let mut state = lock(&self.state);
        state.queued = queued;
        if state.posted + queued >= AHEAD || !std::mem::take(&mut state.clogged) {
            return;
        }
        let wakers: Vec<Waker> = state.streams.values_mut().filter_map(|stream| stream.waker.take()).collect();
        let sleepers = state.sleepers;
        drop(state);
        if sleepers > 0 {
            self.changed.notify_all();
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    fn change(&self, change: impl FnOnce(&mut State) -> Option<Waker>) {
        let mut state = lock(&self.state);
        let waker = change(&mut state);
        let sleepers = state.sleepers;
        drop(state);
        if sleepers > 0 {
            self.changed.notify_all();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Waits until an item may be sent, and takes the room for it. False if the stream is over.
    fn wait(&self, number: u64, len: usize) -> bool {
        let mut state = lock(&self.state);
        loop {
            match state.take(number, len) {
                May::Send => return true,
                May::Over => return false,
                May::Wait => {
                    state.sleepers += 1;
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                    state.sleepers -= 1;
                }
            }
        }
    }
}

/// Why an item was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// Nobody waits for it any more: cancelled, out of time, or the client is gone. No further item will be taken.
    #[error("the stream is over: {0}")]
    Over(Failure),
    /// It is larger than the session allows ([`OwnedRequest::response_limit`](crate::OwnedRequest::response_limit)). A
    /// smaller one may follow.
    #[error("an item of {len} bytes is larger than the limit of {limit}")]
    TooLarge {
        /// Its length.
        len: usize,
        /// What the session allows.
        limit: usize,
    },
    /// It cannot be encoded. Another one may follow.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The client has not allowed another one yet, or has not taken what is on its way. The item comes back.
    #[error("the client takes no item now")]
    WouldBlock(Vec<u8>),
}

/// Answers a streaming call: items, then [`finish`](Self::finish) or [`fail`](Self::fail). One that is dropped before
/// answers [`Failure::Aborted`], or [`Failure::Internal`] in a panic. It may go to another thread; the session goes on
/// meanwhile.
///
/// What it takes is bounded: by the credit that the client gives, and by about a mebibyte of items that a session may
/// have on their way.
#[must_use = "a sink that is dropped answers ABORTED"]
pub struct Sink {
    responder: Responder,
    flows: Arc<Flows>,
}

impl Sink {
    pub(crate) fn new(responder: Responder, flows: Arc<Flows>) -> Self {
        Self { responder, flows }
    }

    /// The circumstances of the call.
    #[must_use]
    pub fn context(&self) -> &Context {
        self.responder.context()
    }

    /// Sends an item; blocks while the client takes none. It must not block on the reactor's thread
    /// ([`Execution::Inline`](crate::Execution::Inline)): there it is [`try_item`](Self::try_item).
    ///
    /// # Errors
    /// See [`SinkError`]; [`SinkError::WouldBlock`] only on the reactor's thread.
    pub fn item(&mut self, item: Vec<u8>) -> Result<(), SinkError> {
        if mail::is_here() {
            return self.try_item(item);
        }
        self.check(item.len())?;
        if !self.flows.wait(self.number(), item.len()) {
            return Err(self.over());
        }
        self.post(item);
        Ok(())
    }

    /// Sends an item if the client takes one now. Never blocks.
    ///
    /// # Errors
    /// See [`SinkError`].
    pub fn try_item(&mut self, item: Vec<u8>) -> Result<(), SinkError> {
        self.check(item.len())?;
        let may = lock(&self.flows.state).take(self.number(), item.len());
        match may {
            May::Send => {
                self.post(item);
                Ok(())
            }
            May::Wait => Err(SinkError::WouldBlock(item)),
            May::Over => Err(self.over()),
        }
    }

    /// For asynchronous code: ready when [`try_item`](Self::try_item) is worth a try; else the task is woken when it
    /// is. An item may still come back, because the streams of a session share what may be on its way.
    ///
    /// # Errors
    /// [`SinkError::Over`].
    pub fn poll_ready(&mut self, task: &mut std::task::Context<'_>) -> Poll<Result<(), SinkError>> {
        let number = self.number();
        let mut state = lock(&self.flows.state);
        match state.may(number) {
            May::Send => Poll::Ready(Ok(())),
            May::Wait => {
                if let Some(stream) = state.streams.get_mut(&number) {
                    stream.waker = Some(task.waker().clone());
                }
                Poll::Pending
            }
            May::Over => {
                drop(state);
                Poll::Ready(Err(self.over()))
            }
        }
    }

    /// Sends an item; waits, asynchronously, while the client takes none.
    ///
    /// # Errors
    /// [`SinkError::Over`], [`SinkError::TooLarge`].
    pub async fn item_async(&mut self, item: Vec<u8>) -> Result<(), SinkError> {
        let mut item = Some(item);
        std::future::poll_fn(|task| {
            loop {
                match self.try_item(item.take().unwrap_or_default()) {
                    Err(SinkError::WouldBlock(back)) => item = Some(back),
                    done => return Poll::Ready(done),
                }
                match self.poll_ready(task) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(over)) => return Poll::Ready(Err(over)),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Ends the stream: the client has all of it.
    pub fn finish(self) {
        self.responder.answer(Answer::End);
    }

    /// Ends the stream with an error.
    pub fn fail(self, failure: impl Into<Failure>) {
        self.responder.fail(failure);
    }

    fn number(&self) -> u64 {
        self.responder.call().number
    }

    fn check(&self, len: usize) -> Result<(), SinkError> {
        let limit = self.context().session().response.max_payload as usize;
        if len > limit { Err(SinkError::TooLarge { len, limit }) } else { Ok(()) }
    }

    fn over(&self) -> SinkError {
        SinkError::Over(self.context().check().err().unwrap_or(Failure::Cancelled))
    }

    fn post(&self, item: Vec<u8>) {
        self.responder.office().post(Letter::Item { call: self.responder.call(), item });
    }
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sink").field(&self.responder).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_go_while_there_is_credit_and_not_too_much_on_its_way() {
        let flows = Flows::default();
        flows.open(1, 2);
        let take = |len| lock(&flows.state).take(1, len);
        assert_eq!((take(10), take(10), take(10)), (May::Send, May::Send, May::Wait));
        flows.add_credit(1, 3);
        assert_eq!((take(AHEAD), take(1)), (May::Send, May::Wait));
        flows.arrived(AHEAD + 20);
        flows.set_queued(AHEAD);
        assert_eq!(take(1), May::Wait);
        flows.set_queued(AHEAD - 1);
        assert_eq!(take(1), May::Send);
        flows.close(1);
        assert_eq!(take(1), May::Over);
    }

    #[test]
    fn a_sleeper_is_woken_by_credit_and_by_the_end() {
        let flows = Flows::default();
        flows.open(1, 0);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| (flows.wait(1, 5), flows.wait(1, 5)));
            flows.add_credit(1, 1);
            flows.close(1);
            // The credit may be seen together with the end.
            assert!(!sleeper.join().unwrap().1);
        });
    }
}
