//! Handlers that are futures of tokio.
#![cfg(feature = "tokio")]

#[path = "common/mod.rs"]
mod common;
#[path = "common/peer.rs"]
mod peer;

use common::PATIENCE;
use ginnel_service::{Failure, Interface, OwnedRequest, Router, SinkError};
use ginnel_wire::Status;
use peer::{Told, WAYS};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// Says when it is dropped.
struct Guard(Sender<&'static str>);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[test]
fn an_async_handler_answers_and_is_dropped_when_it_is_no_longer_wanted() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (say, said) = channel();
        let handler = move |request: OwnedRequest| {
            let say = say.clone();
            async move {
                match request.payload() {
                    b"!panic" => panic!("told to"),
                    b"!for ever" => {
                        let _guard = Guard(say.clone());
                        say.send("begun").unwrap();
                        std::future::pending::<()>().await;
                        unreachable!("it is dropped");
                    }
                    payload => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        Ok::<_, Failure>(payload.to_ascii_uppercase())
                    }
                }
            }
        };
        let router = Router::new(Interface::named("async")).async_handler(1, "upper", runtime.handle(), handler);
        let server = way.serve(dir.path(), router, |_| ());
        let mut peer = way.connect(&server);
        // All at the same time.
        let ids: Vec<u64> = (0..32).map(|_| peer.ask(1, b"x")).collect();
        let mut answered: Vec<u64> = ids
            .iter()
            .map(|_| {
                let (id, told) = peer.told();
                assert_eq!(told, Told::Response(b"X".to_vec()));
                id
            })
            .collect();
        answered.sort();
        assert_eq!(answered, ids);
        let id = peer.ask(1, b"!panic");
        peer.expect(id, Told::Error(Status::INTERNAL_ERROR));

        let heard = |what| assert_eq!(said.recv_timeout(PATIENCE).unwrap(), what);
        let id = peer.ask(1, b"!for ever");
        heard("begun");
        peer.cancel(id);
        heard("dropped");
        let id = peer.ask_within(1, b"!for ever", Duration::from_millis(20));
        peer.expect(id, Told::Error(Status::DEADLINE_EXCEEDED));
        heard("begun");
        heard("dropped");
        peer.ask(1, b"!for ever");
        heard("begun");
        drop(peer);
        heard("dropped");
    }
}

#[test]
fn an_async_stream_waits_for_credit_without_a_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (say, said) = channel();
        let router = Router::new(Interface::named("async")).async_stream(
            1,
            "count",
            runtime.handle(),
            move |request, mut sink| {
                let say = say.clone();
                async move {
                    let count = request.payload()[0];
                    for item in 0..count {
                        if let Err(error) = sink.item_async(vec![item; 1000]).await {
                            say.send(error).unwrap();
                            return;
                        }
                    }
                    sink.finish();
                }
            },
        );
        let server = way.serve(dir.path(), router, |_| ());
        let mut peer = way.connect_with(server.endpoint(), |config| {
            config.layout_2.as_mut().unwrap().stream_window = 2;
        });
        // More streams than threads, each of which waits.
        let ids: Vec<u64> = (0..4).map(|_| peer.stream(1, &[5])).collect();
        let mut counts = vec![0; ids.len()];
        while counts.iter().any(|count| *count < 6) {
            let (id, told) = peer.told();
            let at = ids.iter().position(|other| *other == id).unwrap();
            match told {
                Told::Item(item) => {
                    assert_eq!(item, vec![counts[at]; 1000]);
                    peer.grant(id, 1);
                }
                told => assert_eq!((told, counts[at]), (Told::End, 5)),
            }
            counts[at] += 1;
        }
        drop(peer);
        assert_eq!(said.try_iter().collect::<Vec<SinkError>>(), [], "none was cut short");
    }
}
