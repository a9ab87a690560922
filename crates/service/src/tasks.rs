//! Handlers that are futures, on a runtime that the program has.

use crate::cost::Execution;
use crate::failure::Failure;
use crate::request::OwnedRequest;
use crate::responder::Responder;
use crate::router::Router;
use crate::sink::Sink;
use std::borrow::Cow;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;
use tokio::runtime::Handle;

impl Router {
    /// A method whose handler is an `async fn`, which runs as a task of `runtime`. A call that is no longer wanted
    /// (cancelled, out of time, its client gone) drops the future at its next `await`. A panic answers
    /// [`Failure::Internal`]. `handler` itself runs on the reactor's thread: work belongs into the future.
    ///
    /// ```
    /// use ginnel_service::{Failure, Interface, OwnedRequest, Router};
    ///
    /// async fn upper(request: OwnedRequest) -> Result<Vec<u8>, Failure> {
    ///     tokio::task::yield_now().await;
    ///     Ok(request.payload().to_ascii_uppercase())
    /// }
    ///
    /// let runtime = tokio::runtime::Runtime::new()?;
    /// let router = Router::new(Interface::named("shout")).async_handler(1, "upper", runtime.handle(), upper);
    /// # drop(router);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn async_handler<F, A>(self, id: u16, name: impl Into<Cow<'static, str>>, runtime: &Handle, handler: F) -> Self
    where
        F: Fn(OwnedRequest) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Vec<u8>, Failure>> + Send + 'static,
    {
        let runtime = runtime.clone();
        let begin = move |request: OwnedRequest, responder: Responder| {
            let (context, future) = (request.context().clone(), handler(request));
            let task = runtime.spawn(async move {
                let outcome = unless_it_panics(future).await;
                responder.finish(outcome.unwrap_or(Err(Failure::Internal)));
            });
            // The task drops its responder, which answers.
            context.on_unwanted(move || task.abort());
        };
        self.responder(id, name, begin).execution(id, Execution::Inline)
    }

    /// A method whose handler is an `async fn` that answers with a stream: see [`Sink::item_async`], and
    /// [`async_handler`](Self::async_handler) for what becomes of the future.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn async_stream<F, A>(self, id: u16, name: impl Into<Cow<'static, str>>, runtime: &Handle, handler: F) -> Self
    where
        F: Fn(OwnedRequest, Sink) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let runtime = runtime.clone();
        let begin = move |request: OwnedRequest, sink: Sink| {
            let context = request.context().clone();
            // A panic while the task is polled drops the sink, which answers.
            let task = runtime.spawn(handler(request, sink));
            context.on_unwanted(move || task.abort());
        };
        self.stream(id, name, begin).execution(id, Execution::Inline)
    }
}

/// What a future comes to; `None` if it panics.
pub(crate) async fn unless_it_panics<A: Future>(future: A) -> Option<A::Output> {
    let mut future = pin!(future);
    poll_fn(|task| {
        // Unwind safe: it is not polled again.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(task))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Err(_) => {
                tracing::error!("an asynchronous handler panicked");
                Poll::Ready(None)
            }
        }
    })
    .await
}
