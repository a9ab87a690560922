//! Shared memory under a process-shared, robust mutex with conditions: the plain way of the field.

use super::{Facts, Link, Mechanism, Role, Transport};
use crate::page::shared_memory;
use crate::plan::Form;
use crate::port::Watcher;
use crate::sys::slot::{Slot, bytes};
use std::io;
use std::os::fd::AsFd;

/// A slot in each direction.
pub(super) struct MutexSlot;

pub(super) struct End {
    incoming: Slot,
    outgoing: Slot,
    /// In the async form, threads wait for the conditions: that there is a message, that there is room.
    watchers: Option<(Watcher, Watcher)>,
}

impl Mechanism for MutexSlot {
    type End = End;

    fn facts(&self) -> Facts {
        Facts::new("mutex-condvar", "one slot each way under a robust process-shared mutex with conditions")
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let size = link.plan().size;
        let (incoming, outgoing) = if role == Role::Client {
            let [to_client, to_server] = link.take_fds()?;
            (Slot::map(to_client, size)?, Slot::map(to_server, size)?)
        } else {
            let (to_client, to_server) = (shared_memory(bytes(size))?, shared_memory(bytes(size))?);
            let ends = (Slot::make(&to_server, size)?, Slot::make(&to_client, size)?);
            link.give(&(), &[to_client.as_fd(), to_server.as_fd()])?;
            ends
        };
        let watchers = match link.plan().form {
            Form::Blocking => None,
            Form::Async => Some((watch(&incoming, true)?, watch(&outgoing, false)?)),
        };
        Ok(End { incoming, outgoing, watchers })
    }
}

fn watch(slot: &Slot, full: bool) -> io::Result<Watcher> {
    let slot = slot.clone();
    // An error shows in the attempt that follows.
    Watcher::start(move || _ = slot.wait(full))
}

impl Transport for End {
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let Some((_, room)) = &self.watchers else { return self.outgoing.send(message) };
        while !self.outgoing.try_send(message)? {
            room.wait().await?;
        }
        Ok(())
    }

    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        match &self.watchers {
            None => self.incoming.recv(message)?,
            Some((filled, _)) => {
                while !self.incoming.try_recv(message)? {
                    filled.wait().await?;
                }
            }
        }
        Ok(message.len())
    }
}
