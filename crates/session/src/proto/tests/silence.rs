use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn timing() -> Timing {
    Timing {
        unanswered: Some(Duration::from_secs(9)),
        handshake: Some(SECOND),
        within_message: Some(2 * SECOND),
        stalled: Some(3 * SECOND),
        idle: Some(9 * SECOND),
    }
}

fn open() -> Pair {
    Pair::open_with(Framing::Stream, timing())
}

#[test]
fn a_handshake_has_its_time_however_it_trickles() {
    let mut pair = Pair::fresh(false, 4096, timing());
    pair.up.piece = 1;
    pair.client.write(pair.now, &mut pair.up);
    assert_eq!(pair.server.connection.poll_timeout().instant(), Some(pair.now + SECOND));
    for _ in 0..9 {
        pair.server.read_once(pair.now, &mut pair.up);
        pair.pass(SECOND / 10);
        assert!(pair.server.told.is_empty());
    }
    pair.pass(SECOND / 10);
    assert_eq!(pair.server.end(), End::Silent(Silence::Handshake));
    assert_eq!(pair.client.end(), End::Silent(Silence::Handshake));
    assert_eq!(pair.server.connection.poll_timeout().instant(), None);
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_message_is_found_out_however_it_trickles() {
    let mut pair = open();
    pair.up.piece = 10;
    pair.ask(1, &pattern(20, 0));
    for _ in 0..4 {
        pair.server.read_once(pair.now, &mut pair.up);
        pair.server.take_events();
        assert!(pair.server.told.is_empty());
        pair.pass(SECOND / 2);
    }
    assert_eq!(pair.server.end(), End::Silent(Silence::WithinMessage));
    // A message that is whole in time ends the matter.
    let mut pair = open();
    pair.ask(1, &pattern(20, 0));
    pair.read_both();
    pair.pass(5 * SECOND);
    pair.server.message();
    assert!(pair.server.told.is_empty());
}

#[test]
fn a_client_that_takes_nothing_is_dropped_and_one_that_takes_little_is_not() {
    let mut pair = open();
    pair.ask(1, b"x");
    pair.read_both();
    pair.server.message();
    pair.down.room = 0;
    pair.answer(1, &pattern(100, 0));
    for _ in 0..5 {
        pair.pass(3 * SECOND - Duration::from_millis(1));
        assert!(pair.server.told.is_empty());
        pair.down.room = 10;
        pair.server.write(pair.now, &mut pair.down);
    }
    assert_eq!(pair.server.connection.poll_timeout().instant(), Some(pair.now + 3 * SECOND));
    pair.pass(3 * SECOND);
    assert_eq!(pair.server.end(), End::Silent(Silence::Stalled));
}

#[test]
fn idle_is_who_has_nothing_in_flight() {
    let mut pair = open();
    pair.pass(8 * SECOND);
    pair.ask(1, b"x");
    pair.read_both();
    pair.server.message();
    pair.pass(100 * SECOND);
    assert!(pair.server.told.is_empty() && pair.client.told.is_empty(), "the handler takes its time");
    assert_eq!(pair.server.connection.poll_timeout().instant(), None);
    pair.answer(1, b"y");
    pair.read_both();
    pair.client.message();
    pair.pass(9 * SECOND - Duration::from_millis(1));
    assert!(pair.server.told.is_empty() && pair.client.told.is_empty());
    pair.pass(Duration::from_millis(1));
    assert_eq!((pair.client.end(), pair.server.end()), (End::Silent(Silence::Idle), End::Silent(Silence::Idle)));
}

#[test]
fn without_a_limit_nothing_is_ever_too_long() {
    let mut pair = Pair::open(Framing::Stream);
    pair.up.piece = 10;
    pair.ask(1, b"x");
    pair.server.read_once(pair.now, &mut pair.up);
    pair.pass(Duration::from_secs(1 << 30));
    assert!(pair.server.told.is_empty());
    assert_eq!(pair.server.connection.poll_timeout().instant(), None);
}

#[test]
fn a_client_whose_server_does_not_read_is_not_silent() {
    let mut pair = open();
    pair.up.piece = 40;
    pair.ask(1, &pattern(20, 0));
    pair.server.read_once(pair.now, &mut pair.up);
    pair.server.connection.hold();
    assert_eq!(pair.server.connection.poll_timeout().instant().map(|at| at - pair.now), Some(9 * SECOND), "idle alone");
    pair.pass(5 * SECOND);
    pair.server.connection.resume(pair.now);
    pair.pass(2 * SECOND - Duration::from_millis(1));
    assert!(pair.server.told.is_empty(), "its time begins anew");
    pair.read_both();
    assert_eq!(pair.server.message().payload(), pattern(20, 0));
}

#[test]
fn what_follows_a_request_that_fills_the_window_has_its_time_from_when_there_is_room() {
    let mut pair = open();
    pair.server.connection.set_window(1);
    pair.ask(1, b"x");
    pair.ask(2, &pattern(20, 0));
    // A message, and half of the next.
    pair.up.queue = [pair.up.queue.drain(..).collect::<Vec<_>>().concat()].into();
    pair.up.piece = 33 + 40;
    pair.server.read_once(pair.now, &mut pair.up);
    pair.server.take_events();
    pair.server.message();
    pair.pass(20 * SECOND);
    assert!(pair.server.told.is_empty(), "the handler takes its time");
    pair.answer(1, b"y");
    pair.server.take_events();
    pair.pass(2 * SECOND - Duration::from_millis(1));
    assert!(pair.server.told.is_empty());
    pair.server.read(pair.now, &mut pair.up);
    assert_eq!(pair.server.message().payload(), pattern(20, 0));
}
