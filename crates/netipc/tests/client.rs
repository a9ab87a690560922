//! Typed clients against servers that answer what no good server would: each fault has its error, and none ends the
//! client.

use ginnel_netipc::*;
use ginnel_service::{BaselineError, BaselineOptions, Failure, Handler, Request, Server, ServerOptions, State};
use ginnel_session::Endpoint;
use ginnel_wire::{Profiles, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct Service {
    server: Server,
    _directory: tempfile::TempDir,
}

type Answer = Result<(), Failure>;

fn serve(code: u16, options: ServerOptions, handler: impl Handler) -> Service {
    let directory = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(directory.path(), "service").unwrap();
    let mut options = options;
    options.session.supported = Profiles::BASELINE | Profiles::SHM_HYBRID;
    Service { server: Server::start(&endpoint, options, code, handler).unwrap(), _directory: directory }
}

impl Service {
    fn client<S>(&self, profile: Profiles) -> ServiceClient<S> {
        let mut options = BaselineOptions::default();
        options.session.supported = profile;
        options.session.request.max_items = 1000;
        let mut client = ServiceClient::new(self.server.endpoint(), options).unwrap();
        assert_eq!(client.refresh(), State::Ready);
        client
    }
}

fn limits(request: u32, response: u32) -> ServerOptions {
    let mut options = ServerOptions::default();
    options.session.max_request_payload = request;
    options.session.max_response_payload = response;
    options
}

#[test]
fn the_test_services_do_what_their_names_say() {
    for profile in [Profiles::BASELINE, Profiles::SHM_HYBRID] {
        let service = serve(INCREMENT_METHOD, limits(64 << 10, 64 << 10), increment_handler());
        let mut client = service.client::<Increment>(profile);
        assert_eq!(client.increment(41).unwrap(), 42);
        assert_eq!(client.increment(u64::MAX).unwrap(), 0);
        let mut answers = Vec::new();
        for count in [1, 2, 1000] {
            let values: Vec<u64> = (0..count).collect();
            client.increment_batch(&values, &mut answers).unwrap();
            assert!(
                answers.iter().zip(&values).all(|(answer, value)| *answer == value + 1)
                    && answers.len() == values.len()
            );
        }
        let service = serve(STRING_REVERSE_METHOD, limits(0, 0), string_reverse_handler());
        let mut client = service.client::<StringReverse>(profile);
        assert_eq!(client.reverse(b"ginnel\xff").unwrap(), b"\xfflennig");
        assert_eq!(client.reverse(b"").unwrap(), b"");
        let long: Vec<u8> = (0..100_000u32).map(|index| index as u8).collect();
        assert!(client.reverse(&long).unwrap().iter().rev().eq(&long), "limits are learned");
    }
}

#[test]
fn malformed_requests_are_told_so_and_only_their_session_ends() {
    let handler = lookup_handler::<AppsLookup, _>(|dispatch| {
        while dispatch.next_key().is_some() {
            dispatch.answer(&AppOutcome::Unknown)?;
        }
        Ok(())
    });
    let service = serve(AppsLookup::METHOD, limits(0, 0), handler);
    let mut raw = ginnel_service::BaselineClient::new(service.server.endpoint(), BaselineOptions::default()).unwrap();
    raw.refresh();
    let mut healthy = service.client::<AppsLookup>(Profiles::BASELINE);
    let error = raw.call(AppsLookup::METHOD, b"not a lookup").unwrap_err();
    assert!(matches!(error, BaselineError::Status(Status::BAD_ENVELOPE)), "{error}");
    assert_eq!(healthy.lookup(&[7]).unwrap().response().get(0).unwrap().outcome, AppOutcome::Unknown);
}

#[test]
fn malformed_responses_are_errors_with_their_position() {
    let service = serve(SNAPSHOT_METHOD, limits(0, 0), |_: &Request<'_>, response: &mut Vec<u8>| -> Answer {
        response.extend_from_slice(&[1, 0, 0, 0, 9, 0, 0, 0]);
        response.resize(24, 0);
        Ok(())
    });
    let mut client = service.client::<CgroupsSnapshot>(Profiles::BASELINE);
    match client.snapshot().unwrap_err() {
        NetipcError::Response(error) => {
            assert_eq!(error, DecodeError { offset: 24, fault: Fault::Truncated { needed: 96, have: 24 } });
        }
        other => panic!("{other}"),
    }
    assert_eq!(client.refresh(), State::Ready, "the session itself is sound");
}

/// A provider whose data has changed with every one of its first `changes` requests.
fn restless(changes: u64) -> (Service, Arc<AtomicU64>) {
    let requests = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&requests);
    // 31 keys a request.
    let service = serve(
        AppsLookup::METHOD,
        limits(512, 64 << 10),
        move |request: &Request<'_>, response: &mut Vec<u8>| -> Answer {
            let generation = seen.fetch_add(1, Ordering::Relaxed).min(changes);
            let keys = LookupRequest::<AppsLookup>::decode(request.payload).map_err(|_| Failure::Malformed)?;
            let mut dispatch = LookupDispatch::new(keys, response, request.response_limit)?;
            dispatch.set_generation(generation);
            while dispatch.next_key().is_some() {
                dispatch.answer(&AppOutcome::Unknown)?;
            }
            dispatch.finish()?;
            Ok(())
        },
    );
    (service, requests)
}

fn small_client(service: &Service) -> ServiceClient<AppsLookup> {
    let mut options = BaselineOptions::default();
    options.session.request.max_payload = 512;
    let mut client = ServiceClient::new(service.server.endpoint(), options).unwrap();
    assert_eq!(client.refresh(), State::Ready);
    client
}

#[test]
fn a_lookup_whose_data_changes_under_it_starts_again() {
    let pids: Vec<u32> = (1..=60).collect();
    let (service, requests) = restless(2);
    let mut client = small_client(&service);
    let answer = client.lookup(&pids).unwrap();
    assert_eq!((answer.response().len(), answer.response().generation()), (60, 2));
    assert_eq!(requests.load(Ordering::Relaxed), 4, "two of one attempt, two of the next");
}

#[test]
fn a_lookup_whose_data_never_rests_fails_and_says_why() {
    let pids: Vec<u32> = (1..=60).collect();
    let (service, requests) = restless(u64::MAX);
    let error = small_client(&service).lookup(&pids).unwrap_err();
    assert!(matches!(error, NetipcError::Lookup(LookupError::GenerationChanged { first: 4, now: 5 })), "{error}");
    assert_eq!(requests.load(Ordering::Relaxed), 6);
}

#[test]
fn a_server_that_refuses_larger_requests_is_asked_in_small_ones() {
    let pids: Vec<u32> = (1..=1000).collect();
    let (service, requests) = restless(0);
    let mut client = small_client(&service);
    for _ in 0..2 {
        assert_eq!(client.lookup(&pids).unwrap().response().len(), 1000);
    }
    // (512 - 16) / 16 keys a request, 33 requests a lookup; the refusal happens in a handshake, once.
    assert_eq!(requests.load(Ordering::Relaxed), 66);
    assert_eq!(client.base().counters().overflows, 1);
    assert_eq!(client.base().agreement().unwrap().request.max_payload, 512);
}

#[test]
fn one_deadline_covers_all_requests_of_a_lookup() {
    // Each request is in time; all of them together are not.
    let slow = Duration::from_millis(60);
    let requests = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&requests);
    let service = serve(
        AppsLookup::METHOD,
        limits(512, 64 << 10),
        move |request: &Request<'_>, response: &mut Vec<u8>| -> Answer {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(slow);
            let keys = LookupRequest::<AppsLookup>::decode(request.payload).map_err(|_| Failure::Malformed)?;
            let mut dispatch = LookupDispatch::new(keys, response, request.response_limit)?;
            while dispatch.next_key().is_some() {
                dispatch.answer(&AppOutcome::Unknown)?;
            }
            dispatch.finish()?;
            Ok(())
        },
    );
    let mut options = BaselineOptions { call_timeout: slow * 5, ..Default::default() };
    options.session.request.max_payload = 512;
    let mut client = ServiceClient::<AppsLookup>::new(service.server.endpoint(), options).unwrap();
    assert_eq!(client.refresh(), State::Ready);
    let pids: Vec<u32> = (1..=1000).collect();
    let said = client.lookup(&pids).map(|_| ()).unwrap_err();
    assert!(matches!(said, NetipcError::Call(BaselineError::TimedOut)), "{said:?}");
    // Of 33 requests at most as many were sent as have room until the deadline.
    assert!((1..=5).contains(&requests.load(Ordering::Relaxed)), "{requests:?}");
}

#[test]
fn a_server_too_small_for_its_own_answers_loses_no_item_that_fits_alone() {
    // Room for the one large answer alone; with company it is called oversized.
    let service =
        serve(CgroupsLookup::METHOD, limits(4096, 400), |request: &Request<'_>, response: &mut Vec<u8>| -> Answer {
            let keys = LookupRequest::<CgroupsLookup>::decode(request.payload).map_err(|_| Failure::Malformed)?;
            let mut dispatch = LookupDispatch::new(keys, response, request.response_limit)?;
            while let Some(path) = dispatch.next_key() {
                let name = vec![b'n'; if path == b"/large" { 320 } else { 10 }];
                dispatch.answer(&CgroupOutcome::Known {
                    orchestrator: Orchestrator::LXC,
                    name: &name,
                    labels: Labels::NONE,
                })?;
            }
            dispatch.finish()?;
            Ok(())
        });
    for profile in [Profiles::BASELINE, Profiles::SHM_HYBRID] {
        let mut client = service.client::<CgroupsLookup>(profile);
        let answer = client.lookup(&[b"/large", b"/a", b"/large", b"/b"]).unwrap();
        let names: Vec<usize> = answer
            .response()
            .iter()
            .map(|answer| match answer.outcome {
                CgroupOutcome::Known { name, .. } => name.len(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, [320, 10, 320, 10]);
    }
}
