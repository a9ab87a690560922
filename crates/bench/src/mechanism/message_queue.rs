//! POSIX message queues, one for each direction.

use super::{Facts, Link, Mechanism, Role, Transport};
use crate::payload::ACK;
use crate::plan::Plan;
use crate::port::{For, Port};
use crate::sys::message_queue::{self, Size};
use std::io;

/// Two queues.
pub(super) struct MessageQueue;

pub(super) struct End {
    incoming: Port,
    outgoing: Port,
    priority: u32,
}

/// Messages that a queue holds, unless the system allows fewer.
const MESSAGES: usize = 10;
/// Priorities are below this on Linux.
const PRIORITIES: u32 = 32_768;

fn limit(name: &str) -> Option<usize> {
    std::fs::read_to_string(format!("/proc/sys/fs/mqueue/{name}")).ok()?.trim().parse().ok()
}

impl Mechanism for MessageQueue {
    type End = End;

    fn facts(&self) -> Facts {
        Facts::new("posix-mq", "two POSIX message queues")
    }

    fn refuses(&self, plan: &Plan) -> Option<String> {
        let Some(most) = limit("msgsize_max") else {
            return Some("this kernel has no POSIX message queues".to_owned());
        };
        if plan.size > most {
            return Some(format!("a message of a queue has at most {most} bytes (fs.mqueue.msgsize_max)"));
        }
        let priority = plan.priority;
        (priority >= PRIORITIES).then(|| format!("priority {priority}: the highest is {}", PRIORITIES - 1))
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let [to_server, to_client] = link.names()?.queues();
        let priority = link.plan().priority;
        let (incoming, outgoing) = if role == Role::Client {
            link.take::<()>()?;
            let ends = (message_queue::open(&to_client, None)?, message_queue::open(&to_server, None)?);
            link.give(&(), &[])?;
            ends
        } else {
            let messages = limit("msg_max").unwrap_or(MESSAGES).min(MESSAGES);
            let back = if link.plan().flows() { ACK } else { link.plan().size };
            let made = (|| {
                let incoming = message_queue::open(&to_server, Some(Size { messages, bytes: link.plan().size }))?;
                let outgoing = message_queue::open(&to_client, Some(Size { messages, bytes: back }))?;
                link.give(&(), &[])?;
                link.take::<()>()?;
                Ok((incoming, outgoing))
            })();
            for name in [&to_server, &to_client] {
                let _ = message_queue::unlink(name); // it may not even have been made
            }
            made.map_err(|error: io::Error| match error.raw_os_error() {
                Some(libc::EMFILE) => {
                    io::Error::other("this user's message queues have no room left (`ulimit -q`, RLIMIT_MSGQUEUE)")
                }
                _ => error,
            })?
        };
        Ok(End { incoming: link.port(incoming)?, outgoing: link.port(outgoing)?, priority })
    }
}

impl Transport for End {
    #[inline]
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let priority = self.priority;
        self.outgoing.attempt(For::Writing, |fd| message_queue::send(fd, message, priority)).await
    }

    #[inline]
    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        self.incoming.attempt(For::Reading, |fd| message_queue::receive(fd, message)).await
    }
}
