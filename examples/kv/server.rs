//! The store as a service: which method touches what.

use crate::interface::{COMMIT, FORK, FORKS, Fork, GET, Get, SCAN, Scan, View, WRITE, Write};
use crate::store::Store;
use ginnel::service::{Access, Context, Interface, ItemSink, KeyedScheduler, Pool, Router, Turn};
use std::sync::Arc;

/// Requests that may wait for their turn.
const WAITING: usize = 10_000;

/// Reads of a fork run together, on as many threads as there are processors; a write runs alone on its fork. What was
/// committed is read without waiting for anybody.
fn reads(fork: &str, view: View) -> Access<String> {
    match view {
        View::Committed => Access::snapshot(),
        View::Uncommitted => Access::read(fork.to_owned()),
    }
}

pub(crate) fn router() -> Router {
    let store = Arc::new(Store::new("main"));
    let scheduler = KeyedScheduler::new(Pool::new(), WAITING);
    let of = || Arc::clone(&store);
    let (get, write, commit, fork, forks, scan) = (of(), of(), of(), of(), of(), of());
    Router::new(Interface::named("kv"))
        .on_scheduled(
            GET,
            &scheduler,
            |request: &Get| reads(&request.fork, request.view),
            move |request, _: &Context| get.get(&request.fork, request.view, &request.key),
        )
        .on_scheduled(
            WRITE,
            &scheduler,
            |request: &Write| Access::write(request.fork.clone()),
            move |request, _: &Context| write.write(&request.fork, request.changes),
        )
        .on_scheduled(
            COMMIT,
            &scheduler,
            |fork: &String| Access::write(fork.clone()),
            move |fork, _: &Context| commit.commit(&fork),
        )
        .on_scheduled(
            FORK,
            &scheduler,
            |request: &Fork| Access::write(request.name.clone()).and_read(request.from.clone()),
            move |request, _: &Context| fork.fork_off(&request.from, request.name),
        )
        .on_scheduled(FORKS, &scheduler, |(): &()| Access::snapshot(), move |(), _: &Context| Ok(forks.forks()))
        .on_scheduled_stream(
            SCAN,
            &scheduler,
            |request: &Scan| reads(&request.fork, request.view),
            move |request, mut items: ItemSink<(String, String)>, turn: Turn| {
                let range = scan.range(&request.fork, request.view, &request.from, request.to.as_deref());
                // The fork may be written again while the client takes its time.
                drop(turn);
                match range {
                    // An error means that nobody waits for more.
                    Ok(range) => {
                        if range.iter().try_for_each(|item| items.item(item)).is_ok() {
                            items.finish();
                        }
                    }
                    Err(failure) => items.fail(failure),
                }
            },
        )
}
