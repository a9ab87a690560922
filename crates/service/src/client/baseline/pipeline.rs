//! Many calls of one method down one session, several of them under way at once.

use super::{BaselineClient, BaselineError};
use ginnel_base::Deadline;
use ginnel_session::{SessionError, Wait};
use ginnel_wire::{Envelope, Status};

impl BaselineClient {
    /// Calls method `code` with each of `payloads`, with up to `depth` requests in flight, until `deadline`.
    /// `on_response` gets the index of each payload with its answer, in the order in which answers come.
    ///
    /// If the session breaks, the requests without an answer are sent once more on a new one. Limits that are too small
    /// are negotiated anew, as for a single call and at any depth.
    ///
    /// # Errors
    /// As [`BaselineClient::call_until`]; statuses go to `on_response`, LIMIT_EXCEEDED only when no larger limit is to
    /// be had. Answers that came before an error were handed out.
    pub fn pipeline(
        &mut self,
        code: u16,
        payloads: &[&[u8]],
        depth: usize,
        deadline: impl Into<Deadline>,
        mut on_response: impl FnMut(usize, Result<&[u8], Status>),
    ) -> Result<(), BaselineError> {
        let deadline = deadline.into();
        self.check_ready()?;
        let first = self.last_id + 1;
        self.last_id += payloads.len() as u64;
        let mut open = Open { requests: vec![Progress::default(); payloads.len()], left: payloads.len() };
        if let Some(largest) = payloads.iter().map(|payload| payload.len()).max() {
            self.make_room(largest, deadline).map_err(|error| self.fail(error))?;
        }
        let mut retried = false;
        let round = Round { code, payloads, first, depth: depth.max(1) };
        loop {
            let next = match self.pipeline_once(&round, &mut open, deadline, &mut on_response) {
                Ok(RoundEnd::Answered) => return Ok(()),
                Ok(RoundEnd::Mismatch) => {
                    self.lose();
                    Err(BaselineError::Mismatch)
                }
                Ok(RoundEnd::ResponseOverflow(index)) => {
                    match self.grow_response(&mut open.requests[index].overflows, deadline) {
                        // There is a new session for the others.
                        Err(BaselineError::ResponseTooLarge { .. }) => {
                            open.answered(index);
                            self.counters.errors += 1;
                            on_response(index, Err(Status::LIMIT_EXCEEDED));
                            Ok(())
                        }
                        grown => grown,
                    }
                }
                Err(SessionError::PayloadTooLarge { len, limit }) => self.grow_request(len, limit, deadline),
                Err(error) => self.recover(error, &mut retried, 0, deadline),
            };
            next.map_err(|error| self.fail(error))?;
        }
    }

    /// One round of a pipeline over one session; what was answered leaves `open`.
    fn pipeline_once(
        &mut self,
        round: &Round<'_>,
        open: &mut Open,
        deadline: Deadline,
        on_response: &mut impl FnMut(usize, Result<&[u8], Status>),
    ) -> Result<RoundEnd, SessionError> {
        if self.abort.is_raised() {
            return Err(SessionError::Aborted);
        }
        let wait = Wait::until(deadline).or_abort(&self.abort);
        let session = self.session.as_mut().ok_or(SessionError::Closed)?;
        let (mut next, mut overflow, mut sending) = (0, None, true);
        while open.left > 0 {
            while sending && session.in_flight() < round.depth && next < round.payloads.len() {
                let request = &mut open.requests[next];
                if !request.answered {
                    let envelope = Envelope::request(round.code, round.first + next as u64, 0);
                    match session.send(&envelope, round.payloads[next], &wait) {
                        Ok(()) => self.counters.retries += u64::from(std::mem::replace(&mut request.sent, true)),
                        // What it has said before it left is still to be read.
                        Err(SessionError::Closed) => sending = false,
                        Err(error) => return Err(error),
                    }
                }
                next += 1;
            }
            // After an overflow a server leaves, or answers what it has and stays.
            if overflow.is_some() && session.in_flight() == 0 {
                break;
            }
            let response = match session.recv(&wait) {
                Ok(response) => response,
                Err(error @ (SessionError::TimedOut | SessionError::Aborted)) => return Err(error),
                Err(_) if overflow.is_some() => break,
                Err(error) => return Err(error),
            };
            if response.envelope.code != round.code {
                return Ok(RoundEnd::Mismatch);
            }
            // In range: it was in flight.
            let index = (response.envelope.message_id - round.first) as usize;
            let status = response.envelope.status;
            if status == Status::LIMIT_EXCEEDED {
                // It was not executed: to send it again is no retry. More sent to this session would only come back.
                open.requests[index].sent = false;
                overflow.get_or_insert(index);
                sending = false;
                continue;
            }
            open.answered(index);
            if status.is_ok() {
                self.counters.calls += 1;
                on_response(index, Ok(response.payload));
            } else {
                self.counters.errors += 1;
                on_response(index, Err(status));
            }
        }
        Ok(overflow.map_or(RoundEnd::Answered, RoundEnd::ResponseOverflow))
    }
}

/// Which requests of a pipeline have no answer yet.
struct Open {
    requests: Vec<Progress>,
    left: usize,
}

impl Open {
    fn answered(&mut self, index: usize) {
        self.requests[index].answered = true;
        self.left -= 1;
    }
}

#[derive(Clone, Default)]
struct Progress {
    answered: bool,
    /// It may have been executed.
    sent: bool,
    /// How often its answer did not fit.
    overflows: u32,
}

/// How a round of a pipeline ended, the session being whole.
enum RoundEnd {
    Answered,
    /// An answer was to another method.
    Mismatch,
    /// The answer to this request does not fit the session.
    ResponseOverflow(usize),
}

struct Round<'a> {
    code: u16,
    payloads: &'a [&'a [u8]],
    first: u64,
    depth: usize,
}
