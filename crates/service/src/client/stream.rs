//! The items of a stream: a blocking iterator, and a stream of futures. The server may send a window of items ahead,
//! and is allowed more when half of them have been taken.

use super::callable::Streaming;
use super::core::Core;
use super::error::{CallError, Loss};
use super::response::Response;
use super::shared::Shared;
use super::slots::Key;
use ginnel_base::Deadline;
use ginnel_base::lead::{Waiter, Wish};
use std::marker::PhantomData;
use std::sync::Arc;

/// A stream that is open.
#[derive(Debug)]
struct Tap {
    shared: Arc<Shared>,
    /// `None` when it is over.
    key: Option<Key>,
    deadline: Deadline,
    /// Items taken since the server was last allowed more.
    taken: u32,
}

impl Tap {
    /// What is there: an item, the end, or nothing yet.
    fn take(&mut self, core: &mut Core) -> Option<Option<Result<Response, CallError>>> {
        let Some(key) = self.key else { return Some(None) };
        let Some(slot) = core.slots.get(key) else { return Some(None) };
        if let Some(item) = slot.answers.pop_front() {
            let item = Response(item);
            // The connection counts each item of a batch.
            self.taken += item.count();
            let window = core.stream_window(key);
            if self.taken >= window.div_ceil(2) {
                core.grant(key, std::mem::take(&mut self.taken));
                self.shared.alarm(core);
            }
            return Some(Some(Ok(item)));
        }
        let end = slot.end.take()?;
        core.slots.close(key);
        self.key = None;
        Some(end.err().map(|loss| {
            Err(match loss {
                Loss::Final(error) => *error,
                Loss::Lost(source) => CallError::Lost { source },
                Loss::NotBegun | Loss::Overflow => {
                    CallError::Lost { source: Arc::new(ginnel_session::SessionError::Leaving) }
                }
            })
        }))
    }

    fn give_up(&mut self, core: &mut Core) -> CallError {
        if let Some(key) = self.key.take() {
            core.abandon(key, true);
            self.shared.alarm(core);
        }
        CallError::TimedOut
    }
}

impl Tap {
    /// Takes the call back if it is not over.
    fn end(&mut self) {
        if self.key.is_none() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        if let Ok(mut core) = shared.enter() {
            _ = self.give_up(&mut core);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.end();
    }
}

struct Item(Key);

impl Wish<Core> for Item {
    fn granted(&mut self, core: &mut Core) -> bool {
        core.slots.get(self.0).is_none_or(|slot| slot.has_news())
    }

    fn enlist(&mut self, core: &mut Core, waiter: Waiter) {
        if let Some(slot) = core.slots.get(self.0) {
            slot.waiter = Some(waiter);
        }
    }
}

/// The items of a stream, as they come. Each `next` blocks until there is one, the stream is over, or its deadline
/// passes; an error is the last that comes. Dropping it before the end takes the call back: the server is told.
///
/// One that is not read costs the connection nothing but its window of items: other calls go on.
#[derive(Debug)]
pub struct Items<M = u16>(Tap, PhantomData<fn(M)>);

impl<M> Items<M> {
    pub(super) fn new(shared: Arc<Shared>, key: Key, deadline: Deadline) -> Self {
        Self(Tap { shared, key: Some(key), deadline, taken: 0 }, PhantomData)
    }

    fn next_raw(&mut self) -> Option<Result<Response, CallError>> {
        let key = self.0.key?;
        let shared = Arc::clone(&self.0.shared);
        let mut core = match shared.enter() {
            Ok(core) => core,
            Err(error) => {
                self.0.key = None;
                return Some(Err(error));
            }
        };
        loop {
            if let Some(taken) = self.0.take(&mut core) {
                return taken;
            }
            let granted;
            (core, granted) = shared.wait(core, self.0.deadline, &mut Item(key));
            if !granted {
                return Some(Err(self.0.give_up(&mut core)));
            }
        }
    }
}

impl<M: Streaming> Iterator for Items<M> {
    type Item = Result<M::Item, CallError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.next_raw()?.and_then(M::read);
        if item.is_err() {
            self.0.end();
        }
        Some(item)
    }
}

#[cfg(feature = "tokio")]
pub use asynchronous::{AsyncItems, StreamFuture};

#[cfg(feature = "tokio")]
mod asynchronous {
    use super::super::future::{RawCall, Timer};
    use super::super::op::Next;
    use super::super::task;
    use super::{CallError, Item, Response, Streaming, Tap};
    use ginnel_base::lead::{Waiter, Wish};
    use ginnel_codec::EncodeError;
    use std::marker::PhantomData;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, ready};

    /// A stream that is about to be opened: see [`Client::stream_async`](crate::Client::stream_async).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct StreamFuture<'p, M = u16> {
        call: Result<RawCall<'p>, Option<EncodeError>>,
        _method: PhantomData<fn(M)>,
    }

    impl<'p, M> StreamFuture<'p, M> {
        pub(in super::super) fn new(call: Result<RawCall<'p>, EncodeError>) -> Self {
            Self { call: call.map_err(Some), _method: PhantomData }
        }
    }

    impl<M> Future for StreamFuture<'_, M> {
        type Output = Result<AsyncItems<M>, CallError>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
            let call = match &mut self.call {
                Ok(call) => call,
                Err(error) => return Poll::Ready(Err(error.take().map_or(CallError::Mismatch, CallError::Encode))),
            };
            let deadline = call.deadline();
            Poll::Ready(match ready!(call.poll_next(cx)) {
                Next::Open(key) => {
                    let shared = Arc::clone(call.shared());
                    let tap = Tap { shared, key: Some(key), deadline, taken: 0 };
                    Ok(AsyncItems { tap, timer: Timer::default(), _method: PhantomData })
                }
                Next::Done(Err(error)) => Err(error),
                _ => Err(CallError::Closed),
            })
        }
    }

    /// The items of a stream, as they come, until its end or an error, which is the last that comes. Dropping it before
    /// the end takes the call back: the server is told.
    #[derive(Debug)]
    pub struct AsyncItems<M = u16> {
        tap: Tap,
        timer: Timer,
        _method: PhantomData<fn(M)>,
    }

    impl<M: Streaming> AsyncItems<M> {
        /// The next item. Dropping the future loses nothing.
        pub async fn next(&mut self) -> Option<Result<M::Item, CallError>> {
            std::future::poll_fn(|cx| self.poll_item(cx)).await
        }

        fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<M::Item, CallError>>> {
            let item = ready!(self.poll(cx)).map(|item| item.and_then(M::read));
            if item.as_ref().is_some_and(Result::is_err) {
                self.tap.end();
            }
            Poll::Ready(item)
        }

        fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Response, CallError>>> {
            let Some(key) = self.tap.key else { return Poll::Ready(None) };
            let shared = Arc::clone(&self.tap.shared);
            let mut core = match shared.enter() {
                Ok(core) => core,
                Err(error) => {
                    self.tap.key = None;
                    return Poll::Ready(Some(Err(error)));
                }
            };
            if let Some(taken) = self.tap.take(&mut core) {
                return Poll::Ready(taken);
            }
            if self.tap.deadline.passed_at(core.now) {
                return Poll::Ready(Some(Err(self.tap.give_up(&mut core))));
            }
            Item(key).enlist(&mut core, Waiter::Task(cx.waker().clone()));
            task::ensure(&shared, &mut core);
            drop(core);
            self.timer.wake_at(self.tap.deadline, cx);
            Poll::Pending
        }
    }

    impl<M: Streaming> futures_core::Stream for AsyncItems<M> {
        type Item = Result<M::Item, CallError>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.poll_item(cx)
        }
    }
}
