//! Shared memory with hand-written waiting: one slot or a ring in each direction, waited for by spinning, on a futex or
//! on an eventfd.

use super::{Facts, Link, Mechanism, Role, Transport};
use crate::page::shared_memory;
use crate::plan::{Form, Plan};
use crate::port::{For, Port, Watcher, yield_now};
use crate::sys::lane::{Asleep, Receiver, Sender, Shape};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::thread::futex;
use std::io;

/// Shared memory of one shape with one way to wait.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    name: &'static str,
    about: &'static str,
    cells: usize,
    waiting: Waiting,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    Spin,
    Futex,
    /// Only who sleeps is woken.
    Eventfd,
    /// Every message is announced and waited for: what a bare eventfd costs.
    EventfdAlways,
}

/// Cells of a ring, while they fit into [`RING_BYTES`].
const RING_CELLS: usize = 256;
const RING_BYTES: usize = 16 << 20;

impl Memory {
    pub(super) const EVENTFD: Self = Self {
        name: "eventfd",
        about: "one slot each way, every message announced by an eventfd",
        cells: 1,
        waiting: Waiting::EventfdAlways,
    };
    pub(super) const FUTEX: Self =
        Self { name: "futex", about: "one slot each way, waited for on a futex", cells: 1, waiting: Waiting::Futex };
    pub(super) const RING_SPIN: Self = Self {
        name: "shm-spin",
        about: "a ring each way, waited for by spinning",
        cells: RING_CELLS,
        waiting: Waiting::Spin,
    };
    pub(super) const RING_FUTEX: Self = Self {
        name: "shm-futex",
        about: "a ring each way, waited for on a futex",
        cells: RING_CELLS,
        waiting: Waiting::Futex,
    };
    pub(super) const RING_EVENTFD: Self = Self {
        name: "shm-eventfd",
        about: "a ring each way, a sleeper woken by an eventfd",
        cells: RING_CELLS,
        waiting: Waiting::Eventfd,
    };

    fn shape(self, message: usize) -> Shape {
        let fit = (RING_BYTES / (message + 72)).max(2);
        let fitting = 1 << fit.ilog2();
        Shape { cells: self.cells.min(fitting), message }
    }
}

impl Mechanism for Memory {
    type End = End;

    fn facts(&self) -> Facts {
        Facts::new(self.name, self.about)
    }

    fn refuses(&self, plan: &Plan) -> Option<String> {
        let one = plan.client_cpu.is_some() && plan.client_cpu == plan.server_cpu;
        let few = std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2);
        (self.waiting == Waiting::Spin && (one || few)).then(|| {
            "two sides that spin need a CPU each, else each waits for the other's time slice to end".to_owned()
        })
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let shape = self.shape(link.plan().size);
        // Two lanes, and for each that a message is there and that there is room.
        let fds: [OwnedFd; 6] = if role == Role::Client {
            link.take_fds()?
        } else {
            let kind = EventfdFlags::CLOEXEC | EventfdFlags::SEMAPHORE;
            let lane = || shared_memory(shape.bytes());
            let event = || eventfd(0, kind).map_err(io::Error::from);
            let fds = [lane()?, event()?, event()?, lane()?, event()?, event()?];
            link.give(&(), &fds.each_ref().map(AsFd::as_fd))?;
            fds
        };
        let [to_server, server_message, server_room, to_client, client_message, client_room] = fds;
        let (outgoing, incoming) = match role {
            Role::Client => ((to_server, server_message, server_room), (to_client, client_message, client_room)),
            Role::Server => ((to_client, client_message, client_room), (to_server, server_message, server_room)),
        };
        let sender = Sender::new(outgoing.0, shape)?;
        let receiver = Receiver::new(incoming.0, shape)?;
        let form = link.plan().form;
        let bell = |asleep: Asleep, event: OwnedFd| Bell::new(self.waiting, form, asleep, link.port(event)?);
        Ok(End {
            room: bell(sender.own(), outgoing.2)?,
            announce: bell(sender.other(), outgoing.1)?,
            message: bell(receiver.own(), incoming.1)?,
            free: bell(receiver.other(), incoming.2)?,
            sender,
            receiver,
            form,
            waiting: self.waiting,
        })
    }
}

pub(super) struct End {
    sender: Sender,
    receiver: Receiver,
    form: Form,
    waiting: Waiting,
    /// For room in the outgoing lane; the other side rings it.
    room: Bell,
    /// That there is a message in the outgoing lane.
    announce: Bell,
    /// For a message in the incoming lane; the other side rings it.
    message: Bell,
    /// That there is room in the incoming lane.
    free: Bell,
}

/// Where one side of a lane sleeps and the other one wakes it.
struct Bell {
    asleep: Asleep,
    event: Port,
    /// In the async form, a thread that sleeps on the futex.
    watcher: Option<Watcher>,
}

impl Bell {
    fn new(waiting: Waiting, form: Form, asleep: Asleep, event: Port) -> io::Result<Self> {
        let watcher = match (waiting, form) {
            (Waiting::Futex, Form::Async) => {
                let asleep = asleep.clone();
                Some(Watcher::start(move || sleep(&asleep))?)
            }
            _ => None,
        };
        Ok(Self { asleep, event, watcher })
    }

    /// Wakes the other side if it sleeps.
    #[inline]
    fn ring(&self, waiting: Waiting) -> io::Result<()> {
        match waiting {
            Waiting::Spin => {}
            Waiting::Futex if self.asleep.claim() => _ = futex::wake(self.asleep.word(), futex::Flags::empty(), 1)?,
            Waiting::Eventfd | Waiting::EventfdAlways if self.asleep.claim() => self.write()?,
            _ => {}
        }
        Ok(())
    }

    fn write(&self) -> io::Result<()> {
        rustix::io::write(&self.event, &1u64.to_ne_bytes())?;
        Ok(())
    }

    async fn read(&self) -> io::Result<()> {
        self.event.attempt(For::Reading, |fd| rustix::io::read(fd, &mut [0; 8])).await.map(|_| ())
    }

    /// Sleeps until the other side rings. It has been armed.
    async fn sleep(&self, waiting: Waiting) -> io::Result<()> {
        match (waiting, &self.watcher) {
            (Waiting::Futex, Some(watcher)) => watcher.wait().await,
            (Waiting::Futex, None) => {
                sleep(&self.asleep);
                Ok(())
            }
            _ => self.read().await,
        }
    }
}

/// Sleeps on the futex while the word says so.
fn sleep(asleep: &Asleep) {
    while asleep.word().load(std::sync::atomic::Ordering::Relaxed) == 1 {
        match futex::wait(asleep.word(), futex::Flags::empty(), 1, None) {
            Ok(()) | Err(Errno::INTR | Errno::AGAIN) => {}
            // Nothing else is said of a word that is mapped; the caller looks again.
            Err(_) => return,
        }
    }
}

impl End {
    /// Makes the attempt until it succeeds.
    #[inline]
    async fn until((form, waiting): (Form, Waiting), bell: &Bell, mut attempt: impl FnMut() -> bool) -> io::Result<()> {
        loop {
            if attempt() {
                return Ok(());
            }
            if waiting == Waiting::Spin {
                std::hint::spin_loop();
                yield_now(form).await;
                continue;
            }
            bell.asleep.arm();
            if attempt() {
                bell.asleep.disarm();
                return Ok(());
            }
            bell.sleep(waiting).await?;
        }
    }
}

impl Transport for End {
    #[inline]
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let how = (self.form, self.waiting);
        let sender = &mut self.sender;
        Self::until(how, &self.room, || sender.try_send(message)).await?;
        if self.waiting == Waiting::EventfdAlways { self.announce.write() } else { self.announce.ring(self.waiting) }
    }

    #[inline]
    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        let how = (self.form, self.waiting);
        let receiver = &mut self.receiver;
        if self.waiting == Waiting::EventfdAlways {
            self.message.read().await?;
            if !receiver.try_recv(message) {
                return Err(io::Error::other("a message was announced that is not there"));
            }
        } else {
            Self::until(how, &self.message, || receiver.try_recv(message)).await?;
        }
        self.free.ring(self.waiting)?;
        Ok(message.len())
    }
}
