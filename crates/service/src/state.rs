//! What a client knows about its service, and when it tries again. No clock and no socket: instants come in.

use ginnel_session::{ConnectError, Refusal};
use std::fmt;
use std::time::{Duration, Instant};

/// First pause before a refused client tries again, and the longest.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What a client knows about its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Not connected: not tried yet, closed, or the last attempt failed in a way that the next may not.
    Disconnected,
    /// An attempt is under way.
    Connecting,
    /// Calls can be made.
    Ready,
    /// Nobody listens at the endpoint.
    NotFound,
    /// The server refuses the token or the user. Tried again with growing pauses, since providers restart.
    AuthFailed,
    /// The server speaks another protocol. Tried again with growing pauses, since providers restart.
    Incompatible,
    /// A call failed in the middle; the next refresh reconnects.
    Broken,
}

impl State {
    /// Whether calls can be made.
    #[must_use]
    pub fn is_ready(self) -> bool {
        self == Self::Ready
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "disconnected",
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::NotFound => "not found",
            Self::AuthFailed => "authentication failed",
            Self::Incompatible => "incompatible",
            Self::Broken => "broken",
        })
    }
}

/// State and back-off.
#[derive(Debug)]
pub(crate) struct Cadence {
    state: State,
    pause: Duration,
    not_before: Option<Instant>,
    /// Pauses after a server was not there: the first, and the longest. `None`: it is tried at every refresh.
    absent: Option<(Duration, Duration)>,
}

impl Cadence {
    pub(crate) fn new() -> Self {
        Self { state: State::Disconnected, pause: BACK_OFF.0, not_before: None, absent: None }
    }

    /// One that also pauses while nobody is there, growing from the first pause to the second.
    pub(crate) fn pausing_while_absent(pauses: (Duration, Duration)) -> Self {
        Self { pause: pauses.0, absent: Some(pauses), ..Self::new() }
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether a refresh at `now` should try to connect.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        match self.state {
            State::Ready | State::Connecting => false,
            _ => self.not_before.is_none_or(|due| now >= due),
        }
    }

    /// When the next attempt is due, if not at once.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.not_before
    }

    pub(crate) fn connecting(&mut self) {
        self.state = State::Connecting;
    }

    pub(crate) fn connected(&mut self) {
        let first = self.absent.map_or(BACK_OFF.0, |(first, _)| first);
        *self = Self { state: State::Ready, pause: first, not_before: None, absent: self.absent };
    }

    pub(crate) fn disconnected(&mut self) {
        (self.state, self.not_before) = (State::Disconnected, None);
    }

    pub(crate) fn broke(&mut self) {
        (self.state, self.not_before) = (State::Broken, None);
    }

    /// An attempt failed at `now`. `jitter` is any number: clients that were refused together come back apart.
    pub(crate) fn failed(&mut self, error: &ConnectError, now: Instant, jitter: u64) {
        self.state = match (error, error.refusal()) {
            (ConnectError::NotFound { .. }, _) => State::NotFound,
            (_, Some(Refusal::AuthFailed)) => State::AuthFailed,
            (_, Some(Refusal::NoCommonProfile | Refusal::Incompatible)) => State::Incompatible,
            _ => State::Disconnected,
        };
        let refused = matches!(self.state, State::AuthFailed | State::Incompatible);
        let pauses = if refused { Some(BACK_OFF) } else { self.absent };
        self.not_before = None;
        if let Some((first, longest)) = pauses {
            self.pause = self.pause.max(first);
            // Between three quarters and all of the pause.
            let part = self.pause / 4;
            let pause = self.pause - part.mul_f64((jitter % 1000) as f64 / 1000.0);
            self.not_before = now.checked_add(pause);
            self.pause = (self.pause * 2).min(longest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(refusal: Refusal) -> ConnectError {
        ConnectError::Refused(refusal)
    }

    #[test]
    fn each_failure_leads_to_its_state() {
        let absent = ConnectError::NotFound { endpoint: String::new(), source: std::io::ErrorKind::NotFound.into() };
        let cases = [
            (absent, State::NotFound),
            (refused(Refusal::AuthFailed), State::AuthFailed),
            (refused(Refusal::NoCommonProfile), State::Incompatible),
            (refused(Refusal::Incompatible), State::Incompatible),
            (ConnectError::Refused2 { refusal: Refusal::AuthFailed, server: Box::default() }, State::AuthFailed),
            (refused(Refusal::LimitExceeded { proposed: 1 }), State::Disconnected),
            (refused(Refusal::Unavailable { status: ginnel_wire::Status::INTERNAL_ERROR }), State::Disconnected),
            (ConnectError::Session(ginnel_session::SessionError::Closed), State::Disconnected),
        ];
        for (error, expected) in cases {
            let mut cadence = Cadence::new();
            cadence.failed(&error, Instant::now(), 0);
            assert_eq!(cadence.state(), expected, "{error}");
        }
    }

    #[test]
    fn a_refused_client_waits_longer_each_time_but_never_stops_trying() {
        let mut cadence = Cadence::new();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            cadence.failed(&refused(Refusal::AuthFailed), now, 0);
            assert!(!cadence.is_due(now), "at once is too soon");
            let due = cadence.not_before.unwrap();
            assert!(!cadence.is_due(due - Duration::from_nanos(1)) && cadence.is_due(due));
            pauses.push(due - now);
            now = due;
        }
        assert_eq!(pauses[..3], [100, 200, 400].map(Duration::from_millis));
        assert_eq!(pauses[11], Duration::from_secs(10));
        cadence.connected();
        cadence.failed(&refused(Refusal::Incompatible), now, 999);
        let first = cadence.not_before.unwrap() - now;
        assert!(first >= Duration::from_millis(75) && first < Duration::from_millis(76), "{first:?}");
    }

    #[test]
    fn an_absent_or_broken_service_is_tried_at_every_refresh() {
        let mut cadence = Cadence::new();
        let now = Instant::now();
        assert!(cadence.is_due(now));
        let absent = ConnectError::NotFound { endpoint: String::new(), source: std::io::ErrorKind::NotFound.into() };
        cadence.failed(&absent, now, 0);
        assert!(cadence.is_due(now));
        cadence.connected();
        assert!(!cadence.is_due(now));
        cadence.broke();
        assert!(cadence.is_due(now));
    }
}
