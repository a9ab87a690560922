//! The task that serves futures: it drives the connection whenever no thread does. There is one for each client, in the
//! runtime that polled a future first; it ends with the client, and another takes its place if its runtime ends.

use super::core::Core;
use super::future::Timer;
use super::link::{Nap, Watch};
use super::shared::Shared;
use ginnel_base::lead::Driven;
use ginnel_session::tokio::Readiness;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

/// Turns of one poll, so that a server that never pauses does not keep the runtime from its other tasks.
const TURNS: u32 = 64;

/// Starts the task if there is none. Within a runtime.
pub(super) fn ensure(shared: &Arc<Shared>, core: &mut Core) {
    if !std::mem::replace(&mut core.has_task, true) {
        tokio::spawn(Task { shared: Arc::downgrade(shared), eyes: Vec::new(), timer: Timer::default() });
    }
}

struct Task {
    shared: Weak<Shared>,
    eyes: Vec<Eyes>,
    timer: Timer,
}

/// The descriptors of one connection, known to the runtime.
struct Eyes {
    serial: u64,
    socket: Readiness,
    bell: Option<Readiness>,
}

impl Eyes {
    fn new(watch: &Watch, serial: u64) -> std::io::Result<Self> {
        let socket = Readiness::new(watch.socket.try_clone()?, watch.bell.is_none())?;
        let bell = watch.bell.as_ref().map(|bell| Readiness::new(bell.try_clone()?, false)).transpose()?;
        Ok(Self { serial, socket, bell })
    }

    /// Whether something has happened since the last turn. If not, the task is woken when it does.
    fn saw(&self, write: bool, cx: &mut Context<'_>) -> std::io::Result<bool> {
        let polls = [
            self.socket.poll_readable(cx),
            if write { self.socket.poll_writable(cx) } else { Poll::Pending },
            self.bell.as_ref().map_or(Poll::Pending, |bell| bell.poll_readable(cx)),
        ];
        let mut saw = false;
        for poll in polls {
            if let Poll::Ready(ready) = poll {
                ready?;
                saw = true;
            }
        }
        Ok(saw)
    }
}

impl Task {
    /// Whether something has happened since the last turn. If not, the task is woken when it does.
    fn saw(&mut self, nap: &Nap, cx: &mut Context<'_>) -> std::io::Result<bool> {
        self.eyes.retain(|eyes| nap.beds().any(|bed| bed.serial == eyes.serial));
        let mut saw = false;
        for bed in nap.beds() {
            let eyes = match self.eyes.iter().position(|eyes| eyes.serial == bed.serial) {
                Some(at) => &self.eyes[at],
                None => {
                    self.eyes.push(Eyes::new(&bed.watch, bed.serial)?);
                    &self.eyes[self.eyes.len() - 1]
                }
            };
            saw |= eyes.saw(bed.write, cx)?;
        }
        Ok(saw)
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(shared) = self.shared.upgrade() else { return Poll::Ready(()) };
        let Ok(mut core) = shared.enter() else { return Poll::Ready(()) };
        core.lead.set_task(Some(cx.waker().clone()));
        for _ in 0..TURNS {
            if core.lead.is_driven() {
                // The thread that drives passes the role on.
                return Poll::Pending;
            }
            if !Shared::can_drive(&core) {
                self.eyes.clear();
                return Poll::Pending;
            }
            let nap;
            (core, nap) = shared.turn_once(core, false);
            core.alarm = false;
            let Some(nap) = nap else { continue };
            let saw = self.saw(&nap, cx);
            match saw {
                Ok(true) => {}
                Ok(false) => {
                    drop(core);
                    self.timer.wake_at(nap.until(), cx);
                    return Poll::Pending;
                }
                // The runtime ends, or cannot watch it.
                Err(error) => {
                    core.lose_for(error);
                    return Poll::Ready(());
                }
            }
        }
        drop(core);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let Some(shared) = self.shared.upgrade() else { return };
        let Ok(mut core) = shared.enter() else { return };
        core.task_ended();
    }
}
