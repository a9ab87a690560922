//! The typed clients as futures, against servers of both layouts.
#![cfg(feature = "tokio")]

use ginnel_netipc::*;
use ginnel_service::{ClientOptions, Failure, Handler, Request, Server, ServerOptions};
use ginnel_session::Endpoint;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Builder;

struct Service {
    server: Server,
    _directory: tempfile::TempDir,
}

impl Service {
    fn client<S>(&self) -> AsyncServiceClient<S> {
        AsyncServiceClient::new(self.server.endpoint(), ClientOptions::default()).unwrap()
    }
}

/// Limits in bytes; 0 is learned.
fn serve(code: u16, layout_2: bool, (request, response): (u32, u32), handler: impl Handler) -> Service {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(directory.path(), "service").unwrap();
    let mut options = ServerOptions::default();
    options.session.max_request_payload = request;
    options.session.max_response_payload = response;
    if !layout_2 {
        options.session.layout_2 = None;
    }
    Service { server: Server::start(&endpoint, options, code, handler).unwrap(), _directory: directory }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

#[test]
fn the_test_services_answer_many_tasks_and_limits_are_learned() {
    for layout_2 in [true, false] {
        let service = serve(INCREMENT_METHOD, layout_2, (64 << 10, 64 << 10), increment_handler());
        let client = service.client::<Increment>();
        block_on(async {
            let tasks: Vec<_> = (0..16u64)
                .map(|task| {
                    let client = client.clone();
                    tokio::spawn(async move {
                        for value in 0..50 {
                            assert_eq!(client.increment(task * 1000 + value).await.unwrap(), task * 1000 + value + 1);
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            for count in [0, 1, 2, 1000] {
                let values: Vec<u64> = (0..count).collect();
                let answers = client.increment_batch(&values).await.unwrap();
                assert!(answers.into_iter().eq(1..=count));
            }
        });
        assert_eq!((client.base().counters().connects, client.base().layout_2().is_some()), (1, layout_2));

        let service = serve(STRING_REVERSE_METHOD, layout_2, (0, 0), string_reverse_handler());
        let client = service.client::<StringReverse>();
        let long: Vec<u8> = (0..100_000u32).map(|index| index as u8).collect();
        block_on(async {
            assert_eq!(client.reverse(b"ginnel").await.unwrap(), b"lennig");
            assert!(client.reverse(&long).await.unwrap().iter().rev().eq(&long), "layout 2 {layout_2}");
        });
    }
}

#[test]
fn a_snapshot_and_its_cache_are_fed_by_a_future() {
    for layout_2 in [true, false] {
        let served = |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            let names: Vec<String> = (0..100).map(|index| format!("name-{index}")).collect();
            let mut builder = SnapshotBuilder::new(response, request.response_limit, 1, 7, names.len())?;
            for (name, hash) in names.iter().zip(0..) {
                let cgroup = Cgroup { hash, options: 0, enabled: 1, name: name.as_bytes(), path: b"/path" };
                builder.push(&cgroup)?;
            }
            builder.finish();
            Ok(())
        };
        let service = serve(SNAPSHOT_METHOD, layout_2, (0, 0), served);
        let client = service.client::<CgroupsSnapshot>();
        let snapshot = block_on(client.snapshot()).unwrap();
        assert_eq!(snapshot.get().unwrap().len(), 100);
    }
}

#[test]
fn lookups_are_split_by_the_code_of_the_blocking_client() {
    for layout_2 in [true, false] {
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        let answer = move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
            counted.fetch_add(1, Ordering::Relaxed);
            let keys = LookupRequest::<AppsLookup>::decode(request.payload).map_err(|_| Failure::Malformed)?;
            let mut dispatch = LookupDispatch::new(keys, response, request.response_limit)?;
            while dispatch.next_key().is_some() {
                dispatch.answer(&AppOutcome::Unknown)?;
            }
            dispatch.finish()?;
            Ok(())
        };
        let service = serve(AppsLookup::METHOD, layout_2, (512, 64 << 10), answer);
        let client = service.client::<AppsLookup>();
        let pids: Vec<u32> = (1..=1000).collect();
        block_on(async {
            for _ in 0..2 {
                assert_eq!(client.lookup(&pids).await.unwrap().response().len(), 1000);
            }
        });
        // (512 - 16) / 16 keys a request, 33 requests a lookup.
        assert_eq!(requests.load(Ordering::Relaxed), 66, "layout 2 {layout_2}");
        assert_eq!(client.base().agreement().unwrap().request.max_payload, 512);
    }
}
