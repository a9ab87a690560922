//! A call as a future.

use super::callable::Callable;
use super::error::CallError;
use super::op::{Next, Op};
use super::response::Response;
use super::shared::Shared;
use super::task;
use ginnel_base::Deadline;
use ginnel_base::lead::{Waiter, Wish};
use ginnel_codec::EncodeError;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep};

/// Wakes its task at a deadline.
#[derive(Debug, Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Wakes the task of `cx` at `deadline`, or at once if it has come.
    pub(super) fn wake_at(&mut self, deadline: Deadline, cx: &mut Context<'_>) {
        let Some(at) = deadline.instant().map(Instant::from_std) else { return };
        let sleep = match &mut self.0 {
            Some(sleep) => {
                if sleep.deadline() != at {
                    sleep.as_mut().reset(at);
                }
                sleep
            }
            none => none.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        if sleep.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// An attempt to connect, on a thread that may block. A runtime that ends may drop it before it is made.
struct Attempt {
    shared: Option<Arc<Shared>>,
    deadline: Deadline,
}

impl Attempt {
    fn make(mut self) {
        if let Some(shared) = self.shared.take() {
            shared.connect(self.deadline);
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.take() {
            shared.not_connected();
        }
    }
}

/// A call that is on its way once it has been polled: see [`Client::call_async`](crate::Client::call_async).
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<'p, M = u16> {
    /// Taken when it is over.
    call: Result<RawCall<'p>, Option<EncodeError>>,
    _method: PhantomData<fn(M)>,
}

impl<'p, M> CallFuture<'p, M> {
    pub(super) fn new(call: Result<RawCall<'p>, EncodeError>) -> Self {
        Self { call: call.map_err(Some), _method: PhantomData }
    }
}

impl<M: Callable> Future for CallFuture<'_, M> {
    type Output = Result<M::Response, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.call {
            Ok(call) => Poll::Ready(ready!(Pin::new(call).poll(cx)).and_then(M::read)),
            Err(error) => Poll::Ready(Err(error.take().map_or(CallError::Mismatch, CallError::Encode))),
        }
    }
}

/// A call of bytes.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub(super) struct RawCall<'p> {
    shared: Arc<Shared>,
    op: Op,
    payload: Cow<'p, [u8]>,
    timer: Timer,
    over: bool,
}

impl<'p> RawCall<'p> {
    pub(super) fn new(shared: &Arc<Shared>, op: Op, payload: Cow<'p, [u8]>) -> Self {
        Self { shared: Arc::clone(shared), op, payload, timer: Timer::default(), over: false }
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.op.deadline
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What came of it, for calls that have no response.
    pub(super) async fn outcome(mut self) -> Result<Option<Response>, CallError> {
        match std::future::poll_fn(|cx| self.poll_next(cx)).await {
            Next::Done(done) => done,
            _ => Err(CallError::Closed),
        }
    }

    /// The end of it: done or open.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let mut core = match self.shared.enter() {
            Ok(core) => core,
            Err(error) => return Poll::Ready(Next::Done(Err(error))),
        };
        loop {
            match self.op.next(&mut core, &self.payload) {
                Next::Wait(until) => {
                    // Granted while it was prepared: its wake would have been told to nobody.
                    if self.op.granted(&mut core) {
                        continue;
                    }
                    self.op.enlist(&mut core, Waiter::Task(cx.waker().clone()));
                    task::ensure(&self.shared, &mut core);
                    self.shared.alarm(&mut core);
                    drop(core);
                    self.timer.wake_at(until, cx);
                    return Poll::Pending;
                }
                Next::Connect => {
                    // It wakes all that wait for a connection, and so this.
                    let attempt = Attempt { shared: Some(Arc::clone(&self.shared)), deadline: self.op.deadline };
                    drop(tokio::task::spawn_blocking(move || attempt.make()));
                }
                done => {
                    self.shared.alarm(&mut core);
                    self.over = true;
                    return Poll::Ready(done);
                }
            }
        }
    }
}

impl Future for RawCall<'_> {
    type Output = Result<Response, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.poll_next(cx)) {
            Next::Done(done) => done.and_then(|response| response.ok_or(CallError::Mismatch)),
            _ => Err(CallError::Closed),
        })
    }
}

impl Drop for RawCall<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Ok(mut core) = self.shared.enter() {
            self.op.cancel(&mut core);
            self.shared.alarm(&mut core);
        }
    }
}
