//! Waiting for whichever of many commands ends first.

use crate::child::Child;
use crate::error::WaitError;
use crate::report::ExitReport;
use ginnel_base::Deadline;
use rustix::event::{PollFd, PollFlags};
use std::time::{Duration, Instant};

/// Waits until one of these trees has ended, and gives its place and its report; `None` when the time is over (`None`:
/// no limit) or there is none. One that had ended before is given at once: leave it out of the next call.
///
/// Blocks without a thread for each, and without a runtime. As [`Child::wait_timeout`] it leaves stdin open and reads
/// no stream: a command whose piped output nobody reads does not end. Costs two descriptors' polling for each child.
///
/// ```
/// use ginnel_process::{Command, wait_any};
///
/// let mut slow = Command::new("sleep").arg("1000").spawn()?;
/// let mut quick = Command::new("sh").args(["-c", "exit 3"]).spawn()?;
/// let (place, report) = wait_any([&mut slow, &mut quick], None).unwrap();
/// assert_eq!((place, report.unwrap().code()), (1, Some(3)));
/// slow.kill().unwrap();
/// # Ok::<(), ginnel_process::SpawnError>(())
/// ```
pub fn wait_any<'a>(
    children: impl IntoIterator<Item = &'a mut Child>,
    timeout: Option<Duration>,
) -> Option<(usize, Result<ExitReport, WaitError>)> {
    let deadline = Deadline::after_some(timeout);
    let mut children: Vec<&mut Child> = children.into_iter().collect();
    while !children.is_empty() {
        for (place, child) in children.iter_mut().enumerate() {
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(report)) => return Some((place, Ok(report))),
                Err(error) => return Some((place, Err(error))),
            }
        }
        if deadline.passed() {
            break;
        }
        let links = || children.iter().map(|child| child.link());
        let look = links().filter_map(|link| link.next_look()).min();
        let until = look.map_or(Deadline::NEVER, Deadline::at).min(deadline);
        // One that was killed has nothing more to say on its socket.
        let sockets =
            links().filter(|link| !link.is_lost()).map(|link| PollFd::from_borrowed_fd(link.socket(), PollFlags::IN));
        let mut watched: Vec<PollFd<'_>> =
            links().map(|link| PollFd::new(&link.shepherd, PollFlags::IN)).chain(sockets).collect();
        let timeout = until.remaining_at(Instant::now()).and_then(|left| rustix::event::Timespec::try_from(left).ok());
        // An interruption is one more look.
        let _ = rustix::event::poll(&mut watched, timeout.as_ref());
    }
    None
}
