//! Methods that say what they touch, and run when the scheduler lets them.

use super::{ItemSink, Owned, Reply};
use crate::context::Context;
use crate::cost::Execution;
use crate::failure::Failure;
use crate::method::{Method, StreamMethod};
use crate::router::Router;
use crate::scheduler::{Access, KeyedScheduler, Turn};
use ginnel_codec::Codec;
use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

/// # Scheduled methods
///
/// A method may say what of the service's state a request touches, by an [`Access`]. Its requests are then run by a
/// [`KeyedScheduler`] on the scheduler's executor: reads of a key together, a write alone on its key.
///
/// * A connection sees its own earlier writes: its requests never overtake them, whatever the client has in flight.
/// * A request that is cancelled, out of time, or whose client is gone does not start any more; one that runs is told
///   by its [`Context`].
/// * A request is answered [`Failure::Unavailable`] if too many wait.
///
/// ```
/// use ginnel_service::{Access, Context, Interface, KeyedScheduler, Method, Pool, Router};
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
///
/// const GET: Method<String, Option<u64>> = Method::new(1, "get").idempotent();
/// const ADD: Method<(String, u64), u64> = Method::new(2, "add");
///
/// let accounts = Arc::new(Mutex::new(HashMap::<String, u64>::new()));
/// let scheduler = KeyedScheduler::new(Pool::new(), 10_000);
/// let (read, write) = (Arc::clone(&accounts), accounts);
/// let router = Router::new(Interface::named("accounts"))
///     .on_scheduled(
///         GET,
///         &scheduler,
///         |name: &String| Access::read(name.clone()),
///         move |name, _: &Context| Ok(read.lock().unwrap().get(&name).copied()),
///     )
///     .on_scheduled(
///         ADD,
///         &scheduler,
///         |(name, _): &(String, u64)| Access::write(name.clone()),
///         move |(name, amount), _: &Context| {
///             let mut accounts = write.lock().unwrap();
///             let account = accounts.entry(name).or_default();
///             *account += amount;
///             Ok(*account)
///         },
///     );
/// # drop(router);
/// ```
impl Router {
    /// A method whose requests run when `access` says that they may, and are answered before `handler` returns.
    ///
    /// `access` and decoding run on the reactor's thread, in the order in which requests arrive: keep `access` short.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on_scheduled<Req, Resp, C, K, A, F>(
        self,
        method: Method<Req, Resp, C>,
        scheduler: &KeyedScheduler<K>,
        access: A,
        handler: F,
    ) -> Self
    where
        Req: ?Sized + 'static,
        Resp: ?Sized + 'static,
        C: Codec<Req> + Codec<Resp> + 'static,
        Owned<Req, C>: Send,
        Owned<Resp, C>: Borrow<Resp>,
        K: Clone + Eq + Hash + Send + 'static,
        A: Fn(&Owned<Req, C>) -> Access<K> + Send + Sync + 'static,
        F: Fn(Owned<Req, C>, &Context) -> Result<Owned<Resp, C>, Failure> + Send + Sync + 'static,
    {
        self.on_scheduled_responder(method, scheduler, access, move |request, reply: Reply<Resp, C>, turn| {
            let outcome = handler(request, reply.context());
            reply.finish(outcome);
            drop(turn);
        })
    }

    /// A method whose requests begin when `access` says that they may. The [`Turn`] is over when it is dropped; the
    /// answer is given by the [`Reply`], before or after that, from any thread.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on_scheduled_responder<Req, Resp, C, K, A, F>(
        self,
        method: Method<Req, Resp, C>,
        scheduler: &KeyedScheduler<K>,
        access: A,
        begin: F,
    ) -> Self
    where
        Req: ?Sized + 'static,
        Resp: ?Sized + 'static,
        C: Codec<Req> + Codec<Resp> + 'static,
        Owned<Req, C>: Send,
        K: Clone + Eq + Hash + Send + 'static,
        A: Fn(&Owned<Req, C>) -> Access<K> + Send + Sync + 'static,
        F: Fn(Owned<Req, C>, Reply<Resp, C>, Turn) + Send + Sync + 'static,
    {
        let submit = submission(scheduler, access, begin);
        // On the reactor's thread: on an executor, requests of one session could overtake each other before they are
        // in the scheduler's order.
        self.on_responder(method, submit).execution(method.id(), Execution::Inline)
    }

    /// A method whose requests begin a stream when `access` says that they may. The [`Turn`] is over when it is
    /// dropped: where a snapshot is enough, drop it before the first item, because items wait for the client.
    ///
    /// # Panics
    /// If there is a method with this number already.
    pub fn on_scheduled_stream<Req, Item, C, K, A, F>(
        self,
        method: StreamMethod<Req, Item, C>,
        scheduler: &KeyedScheduler<K>,
        access: A,
        begin: F,
    ) -> Self
    where
        Req: ?Sized + 'static,
        Item: ?Sized + 'static,
        C: Codec<Req> + Codec<Item> + 'static,
        Owned<Req, C>: Send,
        K: Clone + Eq + Hash + Send + 'static,
        A: Fn(&Owned<Req, C>) -> Access<K> + Send + Sync + 'static,
        F: Fn(Owned<Req, C>, ItemSink<Item, C>, Turn) + Send + Sync + 'static,
    {
        let submit = submission(scheduler, access, begin);
        self.on_stream(method, submit).execution(method.id(), Execution::Inline)
    }
}

/// What answers a call.
trait Answers: Send + 'static {
    fn context(&self) -> &Context;
    fn fail(self, failure: Failure);
}

impl<Resp: ?Sized + 'static, C: 'static> Answers for Reply<Resp, C> {
    fn context(&self) -> &Context {
        self.context()
    }

    fn fail(self, failure: Failure) {
        self.fail(failure);
    }
}

impl<Item: ?Sized + 'static, C: 'static> Answers for ItemSink<Item, C> {
    fn context(&self) -> &Context {
        self.context()
    }

    fn fail(self, failure: Failure) {
        self.fail(failure);
    }
}

/// Hands requests to the scheduler, which has `begin` run them.
fn submission<R: Send + 'static, A: Answers, K: Clone + Eq + Hash + Send + 'static>(
    scheduler: &KeyedScheduler<K>,
    access: impl Fn(&R) -> Access<K> + Send + Sync + 'static,
    begin: impl Fn(R, A, Turn) + Send + Sync + 'static,
) -> impl Fn(R, A) + Send + Sync + 'static {
    let (scheduler, begin) = (scheduler.clone(), Arc::new(begin));
    move |request, answers| {
        let context = answers.context().clone();
        let access = access(&request).in_session(context.session().session_id).until(context.deadline());
        let (begin, waiting) = (Arc::clone(&begin), Waiting(Some(answers)));
        let submitted = scheduler.submit_turn(access, move |turn| {
            let Some(answers) = waiting.starts() else { return };
            match answers.context().check() {
                Ok(()) => begin(request, answers, turn),
                Err(failure) => answers.fail(failure),
            }
        });
        // Else the job was dropped, and has answered.
        if let Ok(scheduled) = submitted {
            context.on_unwanted(move || {
                scheduled.cancel();
            });
        }
    }
}

/// A request that has not started. The scheduler drops it if it never will.
struct Waiting<A: Answers>(Option<A>);

impl<A: Answers> Waiting<A> {
    fn starts(mut self) -> Option<A> {
        self.0.take()
    }
}

impl<A: Answers> Drop for Waiting<A> {
    fn drop(&mut self) {
        if let Some(answers) = self.0.take() {
            let failure = answers.context().check().err().unwrap_or(Failure::Unavailable);
            answers.fail(failure);
        }
    }
}
