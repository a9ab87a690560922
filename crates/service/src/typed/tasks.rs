//! Methods that are answered by an asynchronous task.

use super::{Owned, Reply};
use crate::context::Context;
use crate::cost::Execution;
use crate::failure::Failure;
use crate::method::Method;
use crate::router::Router;
use crate::tasks::unless_it_panics;
use ginnel_codec::Codec;
use std::borrow::Borrow;
use std::future::Future;
use tokio::runtime::Handle;

/// # Asynchronous methods
///
/// With the feature `tokio`, an `async` function is a handler.
///
/// ```
/// use ginnel_service::{Context, Interface, Method, Router};
///
/// const ECHO: Method<String, String> = Method::new(1, "echo");
///
/// let runtime = tokio::runtime::Runtime::new()?;
/// let router = Router::new(Interface::named("echo")).on_async(
///     ECHO,
///     runtime.handle(),
///     |request: String, _: Context| async move {
///         tokio::task::yield_now().await;
///         Ok(request)
///     },
/// );
/// # drop(router);
/// # Ok::<(), std::io::Error>(())
/// ```
impl Router {
    /// A method whose requests are answered by a task of `runtime` each: [`async_handler`](Self::async_handler) with
    /// types.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on_async<Req, Resp, C, F, Fut>(self, method: Method<Req, Resp, C>, runtime: &Handle, handler: F) -> Self
    where
        Req: ?Sized + 'static,
        Resp: ?Sized + 'static,
        C: Codec<Req> + Codec<Resp> + 'static,
        Owned<Req, C>: Send,
        Owned<Resp, C>: Borrow<Resp>,
        F: Fn(Owned<Req, C>, Context) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Owned<Resp, C>, Failure>> + Send + 'static,
    {
        let runtime = runtime.clone();
        self.on_responder(method, move |request, reply: Reply<Resp, C>| {
            let context = reply.context().clone();
            let work = handler(request, context.clone());
            let task = runtime.spawn(async move {
                reply.finish(unless_it_panics(work).await.unwrap_or(Err(Failure::Internal)));
            });
            // The task drops its reply, which answers.
            context.on_unwanted(move || task.abort());
        })
        .execution(method.id(), Execution::Inline)
    }
}
