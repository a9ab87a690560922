//! What a session is lent while it is driven.

use crate::context::Context;
use crate::dispatch::{self, Ran, Task};
use crate::mail::Office;
use crate::request::{Budget, batch};
use crate::responder::{CallKey, Responder};
use crate::server::Shared;
use crate::sink::Flows;
use ginnel_base::Deadline;
use ginnel_session::Agreement;
use ginnel_session::proto::{Pool, Received};
use std::sync::Arc;
use std::time::Instant;

/// Calls that go to the executor with a buffer for their answer. What waits behind them gets one when it runs.
const MOST_WITH_BUFFER: usize = 8;

/// What a session needs of its reactor while it is driven.
pub(super) struct Turn<'a> {
    pub(super) pool: &'a mut Pool,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) office: &'a Arc<Office>,
    pub(super) now: Instant,
    /// Nothing else is ready.
    pub(super) alone: bool,
    /// Calls that are on the executor.
    pub(super) executing: &'a mut usize,
    /// For requests that have no answer yet.
    pub(super) budget: &'a Arc<Budget>,
    /// The memory of a call that is over.
    pub(super) spare: &'a mut Option<Context>,
}

impl Turn<'_> {
    /// The circumstances of a call.
    pub(super) fn context(&mut self, agreement: Agreement, deadline: Deadline) -> Context {
        match self.spare.take() {
            Some(mut context) => {
                context.reuse(agreement, deadline);
                context
            }
            None => Context::new(agreement, deadline),
        }
    }

    /// Whether requests are to be left where they are, because too many bytes of them are under way.
    pub(super) fn paused(&self) -> bool {
        self.budget.is_full()
    }

    /// Runs a request: here, or on the executor.
    pub(super) fn dispatch(
        &mut self,
        call: CallKey,
        message: Received,
        context: Context,
        flows: Option<Arc<Flows>>,
    ) -> Ran {
        let alone = self.alone && *self.executing == 0;
        let responder = Responder::new(Arc::clone(self.office), call, context, batch(&message));
        let may_hold = *self.executing < MOST_WITH_BUFFER;
        let task = Task { message, responder, flows, may_hold };
        let ran = dispatch::run(self.shared, task, alone, self.pool, self.budget);
        if let Ran::Later { executed: true } = ran {
            *self.executing += 1;
        }
        ran
    }
}
