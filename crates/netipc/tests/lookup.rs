//! Dispatch and split against each other: a server with any response limit, a client with any request limit, no I/O
//! between.

use ginnel_netipc::*;
use proptest::collection::vec;
use proptest::prelude::*;

type Names = Vec<(Vec<u8>, Vec<u8>)>;

/// Answers like a server of this response limit: names by position in `names`.
fn serve(names: &Names, request: &[u8], limit: usize, generation: u64) -> Result<Vec<u8>, EncodeError> {
    let mut out = Vec::new();
    let request = LookupRequest::<CgroupsLookup>::decode(request).unwrap();
    let mut dispatch = LookupDispatch::new(request, &mut out, limit)?;
    dispatch.set_generation(generation);
    while let Some(path) = dispatch.next_key() {
        let name = &names.iter().find(|(known, _)| known == path).expect("only known paths are asked").1;
        dispatch.answer(&CgroupOutcome::Known { orchestrator: Orchestrator::LXC, name, labels: Labels::NONE })?;
    }
    let len = dispatch.finish()?;
    assert_eq!(len, out.len());
    assert!(len <= limit);
    Ok(out)
}

fn statuses(payload: &[u8]) -> Vec<u16> {
    LookupResponse::<CgroupsLookup>::decode(payload)
        .unwrap()
        .iter()
        .map(|answer| match answer.outcome {
            CgroupOutcome::Known { .. } => 0,
            CgroupOutcome::PayloadExceeded => 3,
            CgroupOutcome::OversizedItem => 4,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn names(sizes: &[usize]) -> Names {
    sizes.iter().enumerate().map(|(index, size)| (format!("/{index}").into_bytes(), vec![b'n'; *size])).collect()
}

fn request(names: &Names) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = LookupRequestBuilder::<CgroupsLookup>::new(&mut out, usize::MAX, names.len()).unwrap();
    for (path, _) in names {
        builder.push(path).unwrap();
    }
    builder.finish();
    out
}

// A key "/0" costs 28 + 3 bytes plus name and NUL: 32 for a minimal item, 32 + name for a full one.

#[test]
fn what_fits_exactly_is_answered_in_full() {
    let names = names(&[8, 8, 8]);
    let full = 16 + 3 * 8 + 40 + 40 + 40;
    assert_eq!(statuses(&serve(&names, &request(&names), full, 1).unwrap()), [0, 0, 0]);
    assert_eq!(statuses(&serve(&names, &request(&names), full - 1, 1).unwrap()), [0, 0, 3]);
}

#[test]
fn an_answer_that_would_leave_no_room_for_the_tail_starts_it() {
    let names = names(&[8, 40, 0, 0]);
    // Items: 40, 72, 32, 32. The second fits, but not with 32 + 32 behind it.
    let limit = 16 + 4 * 8 + 40 + 72 + 32 + 32;
    assert_eq!(statuses(&serve(&names, &request(&names), limit, 1).unwrap()), [0, 0, 0, 0]);
    assert_eq!(statuses(&serve(&names, &request(&names), limit - 1, 1).unwrap()), [0, 3, 3, 3]);
}

#[test]
fn an_oversized_first_answer_does_not_stop_the_rest() {
    let names = names(&[500, 8, 8]);
    assert_eq!(statuses(&serve(&names, &request(&names), 16 + 24 + 32 + 40 + 40, 1).unwrap()), [4, 0, 0]);
}

#[test]
fn a_limit_below_the_minimal_items_is_refused_before_any_work() {
    let names = names(&[0, 0]);
    let smallest = 16 + 16 + 64;
    assert_eq!(statuses(&serve(&names, &request(&names), smallest, 1).unwrap()), [0, 0]);
    let refused = serve(&names, &request(&names), smallest - 1, 1).unwrap_err();
    assert_eq!(refused, EncodeError::TooLarge { needed: smallest as u64, limit: smallest as u64 - 1 });
}

#[test]
fn a_handler_that_stops_early_is_told() {
    let names = names(&[0, 0]);
    let request = request(&names);
    let mut out = Vec::new();
    let request = LookupRequest::<CgroupsLookup>::decode(&request).unwrap();
    let mut dispatch = LookupDispatch::new(request, &mut out, 4096).unwrap();
    dispatch.answer(&CgroupOutcome::UnknownPermanent).unwrap();
    assert_eq!(dispatch.finish().unwrap_err(), EncodeError::Unanswered { asked: 2, answered: 1 });
    assert!(out.is_empty());
}

fn limits(request: usize) -> RequestLimits {
    RequestLimits { request, response: 0 }
}

/// Drives a split against [`serve`] until it is done.
fn ask(
    names: &Names,
    keys: &[&[u8]],
    max_request: usize,
    max_response: usize,
    ceilings: LookupCeilings,
) -> Result<(LookupAnswer<CgroupsLookup>, u32), LookupError> {
    let mut split = LookupSplit::<CgroupsLookup>::new(keys, ceilings)?;
    let mut buffer = Vec::new();
    loop {
        match split.next(limits(max_request), &mut buffer)? {
            Step::Ask => {
                assert!(buffer.len() <= max_request);
                split.answer(&serve(names, &buffer, max_response, 5).expect("limits suffice"))?;
            }
            Step::Grow { payload } => split.cannot_grow(payload)?,
            Step::Done => {
                let subcalls = split.subcalls();
                return Ok((split.finish()?, subcalls));
            }
        }
    }
}

fn paths(names: &Names) -> Vec<&[u8]> {
    names.iter().map(|(path, _)| &path[..]).collect()
}

#[test]
fn an_item_called_oversized_in_company_is_asked_again_alone() {
    // Among three keys the tails take 64 + 16 bytes of the limit: the large answer fits only alone.
    let names = names(&[100, 0, 0]);
    let limit = 16 + 8 + 28 + 3 + 100 + 1;
    let together = serve(&names, &request(&names), limit, 5).unwrap();
    assert_eq!(statuses(&together), [4, 0, 0], "a naive client would take this for the final answer");
    let (answer, subcalls) = ask(&names, &paths(&names), 4096, limit, LookupCeilings::default()).unwrap();
    assert_eq!(statuses(answer.payload()), [0, 0, 0]);
    assert_eq!(subcalls, 2);
}

#[test]
fn an_item_oversized_even_alone_stays_so() {
    let names = names(&[8, 5000, 8]);
    let (answer, _) = ask(&names, &paths(&names), 4096, 256, LookupCeilings::default()).unwrap();
    assert_eq!(statuses(answer.payload()), [0, 4, 0]);
}

#[test]
fn a_path_too_long_for_any_request_is_answered_by_the_client() {
    let long = vec![b'l'; 300];
    let mut names = names(&[1, 1]);
    names.insert(1, (long.clone(), vec![]));
    let (answer, subcalls) = ask(&names, &paths(&names), 100, 4096, LookupCeilings::default()).unwrap();
    assert_eq!(statuses(answer.payload()), [0, 4, 0]);
    assert_eq!(answer.response().get(1).unwrap().key, long);
    assert_eq!(subcalls, 2, "one request on each side of it");
}

#[test]
fn pids_need_a_session_that_carries_at_least_one() {
    let mut split = LookupSplit::<AppsLookup>::new(&[1, 2, 3], LookupCeilings::default()).unwrap();
    let mut buffer = Vec::new();
    assert_eq!(split.next(limits(31), &mut buffer).unwrap(), Step::Grow { payload: 32 });
    assert_eq!(split.cannot_grow(32).unwrap_err(), LookupError::RequestLimit { needed: 32 });
    assert_eq!(split.next(limits(15), &mut buffer).unwrap(), Step::Grow { payload: 16 });
    // (cap - 16) / 16 keys a request.
    assert_eq!(split.next(limits(16 + 16 * 2 + 15), &mut buffer).unwrap(), Step::Ask);
    assert_eq!(LookupRequest::<AppsLookup>::decode(&buffer).unwrap().keys().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn no_more_keys_are_asked_than_the_response_has_room_to_refuse() {
    let pids: Vec<u32> = (1..100).collect();
    let mut split = LookupSplit::<AppsLookup>::new(&pids, LookupCeilings::default()).unwrap();
    let mut buffer = Vec::new();
    // A refusal takes 64 bytes and 8 in the directory.
    split.next(RequestLimits { request: 4096, response: 16 + 10 * 72 + 71 }, &mut buffer).unwrap();
    assert_eq!(LookupRequest::<AppsLookup>::decode(&buffer).unwrap().len(), 10);
    // Even where there is no room at all, one is asked: the server says what is wrong.
    split.next(RequestLimits { request: 4096, response: 1 }, &mut buffer).unwrap();
    assert_eq!(LookupRequest::<AppsLookup>::decode(&buffer).unwrap().len(), 1);
}

#[test]
fn no_keys_still_ask_once_for_the_generation() {
    let (answer, subcalls) = ask(&vec![], &[], 4096, 4096, LookupCeilings::default()).unwrap();
    assert_eq!((answer.response().len(), answer.response().generation(), subcalls), (0, 5, 1));
}

#[test]
fn ceilings_end_a_lookup() {
    let names = names(&[60; 20]);
    let keys = paths(&names);
    let mut ceilings = LookupCeilings::default();
    ceilings.items = 19;
    let error = ask(&names, &keys, 4096, 4096, ceilings).unwrap_err();
    assert_eq!(error, LookupError::TooManyKeys { keys: 20, ceiling: 19 });
    ceilings.items = 20;
    ceilings.subcalls = 3;
    assert_eq!(ask(&names, &keys, 64, 4096, ceilings).unwrap_err(), LookupError::TooManySubcalls { ceiling: 3 });
    ceilings.subcalls = 4096;
    ceilings.bytes = 1000;
    assert_eq!(ask(&names, &keys, 64, 4096, ceilings).unwrap_err(), LookupError::AnswerTooLarge { ceiling: 1000 });
}

fn app_response(generation: u64, items: &[(u32, AppOutcome<'_>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut builder = LookupResponseBuilder::<AppsLookup>::new(&mut out, usize::MAX, generation, 0).unwrap();
    for (pid, outcome) in items {
        builder.push(*pid, outcome).unwrap();
    }
    builder.finish();
    out
}

#[test]
fn responses_that_do_not_answer_the_request_are_refused() {
    use AppOutcome::{PayloadExceeded as Exceeded, Unknown};
    for (items, error) in [
        (&[(1, Unknown)][..], LookupError::Count { asked: 3, answered: 1 }),
        (&[(1, Unknown), (3, Unknown), (2, Unknown)], LookupError::Echo { index: 1 }),
        (&[(1, Exceeded), (2, Exceeded), (3, Exceeded)], LookupError::NoProgress { index: 0 }),
        (&[(1, Unknown), (2, Exceeded), (3, Unknown)], LookupError::NoProgress { index: 2 }),
    ] {
        let mut split = LookupSplit::<AppsLookup>::new(&[1, 2, 3], LookupCeilings::default()).unwrap();
        assert_eq!(split.next(limits(4096), &mut Vec::new()).unwrap(), Step::Ask);
        assert_eq!(split.answer(&app_response(1, items)).unwrap_err(), error);
    }
}

#[test]
fn data_that_changes_between_two_requests_is_not_stitched() {
    let mut split = LookupSplit::<AppsLookup>::new(&[1, 2], LookupCeilings::default()).unwrap();
    let mut buffer = Vec::new();
    assert_eq!(split.next(limits(32), &mut buffer).unwrap(), Step::Ask);
    split.answer(&app_response(8, &[(1, AppOutcome::Unknown)])).unwrap();
    assert_eq!(split.next(limits(32), &mut buffer).unwrap(), Step::Ask);
    let error = split.answer(&app_response(9, &[(2, AppOutcome::Unknown)])).unwrap_err();
    assert_eq!(error, LookupError::GenerationChanged { first: 8, now: 9 });
}

#[test]
fn a_request_written_twice_asks_for_the_same_first_key() {
    let mut split = LookupSplit::<AppsLookup>::new(&[1, 2, 3], LookupCeilings::default()).unwrap();
    let mut buffer = Vec::new();
    split.next(limits(64), &mut buffer).unwrap();
    split.next(limits(32), &mut buffer).unwrap();
    assert_eq!(LookupRequest::<AppsLookup>::decode(&buffer).unwrap().keys().collect::<Vec<_>>(), [1]);
    split.answer(&app_response(1, &[(1, AppOutcome::Unknown)])).unwrap();
    split.next(limits(64), &mut buffer).unwrap();
    assert_eq!(LookupRequest::<AppsLookup>::decode(&buffer).unwrap().keys().collect::<Vec<_>>(), [2, 3]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the limits, a lookup ends, keeps the order, and loses no item that fits a response of its own.
    #[test]
    fn any_limits(sizes in vec(0usize..400, 0..60), max_request in 40usize..600, max_response in 400usize..2000) {
        let names = names(&sizes);
        let keys = paths(&names);
        // Enough response for the minimal items of whatever fits a request of this size.
        let max_response = max_response.max(16 + (max_request / 16) * 48);
        let (answer, _) = ask(&names, &keys, max_request, max_response, LookupCeilings::default()).unwrap();
        let response = answer.response();
        prop_assert_eq!(response.len(), keys.len());
        for (answer, (path, name)) in response.iter().zip(&names) {
            prop_assert_eq!(answer.key, &path[..]);
            let alone = 16 + 8 + 28 + path.len() + 1 + name.len() + 1;
            match answer.outcome {
                CgroupOutcome::Known { name: found, .. } => prop_assert_eq!(found, &name[..]),
                CgroupOutcome::OversizedItem => prop_assert!(alone > max_response),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
