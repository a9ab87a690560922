//! iceoryx2 publish-subscribe with what its documentation recommends for latency: one publisher, no history, a buffer
//! as deep as the row needs, overflow on for lossy rows and off (retry until delivered) for lossless ones.

use super::{Handoff, Link, LoanLink, Meeting, Plan, Receiver, Sender};
use crate::Outcome;
use crate::payload::Source;
use crate::rows::Mode;
use crate::setup::SetUp;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;
use std::hint::black_box;

type Service<const W: usize> = PortFactory<ipc::Service, [u64; W], ()>;

/// A node of our own runtime directory and prefix, so that nothing of the user's iceoryx2 set-up is touched.
fn node(plan: &Plan) -> Outcome<Node<ipc::Service>> {
    let mut config = Config::default();
    config.global.prefix = FileName::new(format!("{}_", plan.name).as_bytes())?;
    config.global.set_root_path(&Path::new(plan.directory.join("iox2").as_os_str().as_encoded_bytes())?);
    set_log_level(LogLevel::Error);
    Ok(NodeBuilder::new().config(&config).signal_handling_mode(SignalHandlingMode::Disabled).create()?)
}

fn service<const W: usize>(node: &Node<ipc::Service>, plan: &Plan, direction: &str) -> Outcome<Service<W>> {
    let name = ServiceName::new(&format!("{}/{direction}", plan.name))?;
    Ok(node
        .service_builder(&name)
        .publish_subscribe::<[u64; W]>()
        .max_publishers(1)
        .max_subscribers(plan.row.readers.max(1))
        .max_nodes(plan.row.readers + 1)
        .history_size(0)
        .subscriber_max_buffer_size(plan.row.capacity)
        .subscriber_max_borrowed_samples(1)
        .enable_safe_overflow(plan.row.mode != Mode::Lossless)
        .open_or_create()?)
}

fn publisher<const W: usize>(service: &Service<W>, plan: &Plan) -> Outcome<Publisher<ipc::Service, [u64; W], ()>> {
    let strategy = match plan.row.mode {
        Mode::Lossless => BackpressureStrategy::RetryUntilDelivered,
        Mode::Lossy | Mode::Latest => BackpressureStrategy::DiscardData,
    };
    Ok(service.publisher_builder().max_loaned_samples(1).backpressure_strategy(strategy).create()?)
}

fn subscriber<const W: usize>(service: &Service<W>) -> Outcome<Subscriber<ipc::Service, [u64; W], ()>> {
    Ok(service.subscriber_builder().create()?)
}

/// A message copied from private memory into a loaned sample.
#[inline(always)]
fn send_copy<const W: usize>(publisher: &Publisher<ipc::Service, [u64; W], ()>, message: &[u64; W]) -> Outcome<()> {
    let mut sample = publisher.loan_uninit()?;
    sample.payload_mut().write(*message);
    // SAFETY: the payload was written in full on the line above.
    unsafe { sample.assume_init() }.send()?;
    Ok(())
}

#[inline(always)]
fn wait<const W: usize>(
    subscriber: &Subscriber<ipc::Service, [u64; W], ()>,
    shares_core: bool,
) -> Outcome<Sample<ipc::Service, [u64; W], ()>> {
    let mut idle = 0u32;
    loop {
        if let Some(sample) = subscriber.receive()? {
            return Ok(sample);
        }
        idle += 1;
        if shares_core && idle.is_multiple_of(64) {
            std::thread::yield_now();
        }
    }
}

/// A two-way link of two services.
pub struct IceoryxLink<const W: usize> {
    publisher: Publisher<ipc::Service, [u64; W], ()>,
    subscriber: Subscriber<ipc::Service, [u64; W], ()>,
    copy: Box<[u64; W]>,
    _node: Node<ipc::Service>,
}

impl<const W: usize> IceoryxLink<W> {
    fn end(plan: &Plan, out: &str, back: &str) -> Outcome<Self> {
        let node = node(plan)?;
        let publisher = publisher(&service(&node, plan, out)?, plan)?;
        let subscriber = subscriber(&service(&node, plan, back)?)?;
        Ok(Self { publisher, subscriber, copy: crate::payload::buffer(), _node: node })
    }
}

impl<const W: usize> Meeting for IceoryxLink<W> {
    type Founded = Self;
    type Parent = Self;
    type Child = Self;

    fn found(plan: &Plan) -> Outcome<(Self, Handoff)> {
        Ok((Self::end(plan, "there", "back")?, Handoff::default()))
    }

    fn join(plan: &Plan, _: Handoff, _: usize) -> Outcome<Self> {
        Self::end(plan, "back", "there")
    }

    fn connect(_: &Plan, founded: Self) -> Outcome<Self> {
        Ok(founded)
    }
}

impl<const W: usize> Link<W> for IceoryxLink<W> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; W]) -> Outcome<()> {
        send_copy(&self.publisher, message)
    }

    #[inline(always)]
    fn receive(&mut self) -> Outcome<()> {
        *self.copy = *wait(&self.subscriber, false)?.payload();
        Ok(())
    }

    #[inline(always)]
    fn received(&self) -> &[u64; W] {
        &self.copy
    }
}

impl<const W: usize> LoanLink<W> for IceoryxLink<W> {
    #[inline(always)]
    fn send_in_place(&mut self, number: u64) -> Outcome<()> {
        let mut sample = self.publisher.loan_uninit()?;
        let words: *mut u64 = sample.payload_mut().as_mut_ptr().cast();
        // SAFETY: first and last word of the loaned payload; the memory is a shared mapping that started as zeros,
        // so every other word is initialised too.
        let sample = unsafe {
            words.add(W - 1).write(number);
            words.write(number);
            sample.assume_init()
        };
        sample.send()?;
        Ok(())
    }

    #[inline(always)]
    fn receive_in_place(&mut self) -> Outcome<(u64, u64)> {
        let sample = wait(&self.subscriber, false)?;
        let payload = sample.payload();
        Ok((payload[0], payload[W - 1]))
    }
}

/// A stream from one publisher to every child's subscriber.
pub struct IceoryxStream<const W: usize>;

pub struct StreamSender<const W: usize> {
    publisher: Publisher<ipc::Service, [u64; W], ()>,
    _node: Node<ipc::Service>,
}

pub struct StreamReceiver<const W: usize> {
    subscriber: Subscriber<ipc::Service, [u64; W], ()>,
    copy: Box<[u64; W]>,
    shares_core: bool,
    _node: Node<ipc::Service>,
}

impl<const W: usize> Meeting for IceoryxStream<W> {
    type Founded = StreamSender<W>;
    type Parent = StreamSender<W>;
    type Child = StreamReceiver<W>;

    fn found(plan: &Plan) -> Outcome<(StreamSender<W>, Handoff)> {
        let node = node(plan)?;
        let publisher = publisher(&service(&node, plan, "stream")?, plan)?;
        Ok((StreamSender { publisher, _node: node }, Handoff::default()))
    }

    fn join(plan: &Plan, _: Handoff, _: usize) -> Outcome<StreamReceiver<W>> {
        let node = node(plan)?;
        let subscriber = subscriber(&service(&node, plan, "stream")?)?;
        let shares_core = plan.row.children_share_a_core();
        Ok(StreamReceiver { subscriber, copy: crate::payload::buffer(), shares_core, _node: node })
    }

    fn connect(_: &Plan, founded: StreamSender<W>) -> Outcome<StreamSender<W>> {
        // Subscribers that came after the publisher are found here, before the clock runs.
        use iceoryx2::port::update_connections::UpdateConnections;
        founded.publisher.update_connections()?;
        Ok(founded)
    }
}

impl<const W: usize> Sender<W> for StreamSender<W> {
    #[inline(always)]
    fn send_batch(&mut self, count: usize, source: &mut Source<W>) -> Outcome<()> {
        for _ in 0..count {
            source.next(|message| send_copy(&self.publisher, message))?;
        }
        Ok(())
    }
}

impl<const W: usize> Receiver<W> for StreamReceiver<W> {
    #[inline(always)]
    fn drain(&mut self, mut take: impl FnMut(&[u64; W])) -> Outcome<()> {
        *self.copy = *wait(&self.subscriber, self.shares_core)?.payload();
        take(black_box(&self.copy));
        Ok(())
    }
}

/// From nothing to the first message: service and port on both sides. The node of each process exists already.
pub struct IceoryxSetUp;

impl SetUp for IceoryxSetUp {
    type Base = Node<ipc::Service>;
    type Host = Publisher<ipc::Service, [u64; 8], ()>;
    type Guest = Subscriber<ipc::Service, [u64; 8], ()>;

    fn base(plan: &Plan) -> Outcome<Node<ipc::Service>> {
        node(plan)
    }

    fn host(base: &Node<ipc::Service>, plan: &Plan, round: u64) -> Outcome<Self::Host> {
        publisher(&service(base, plan, &format!("round{round}"))?, plan)
    }

    fn guest(base: &Node<ipc::Service>, plan: &Plan, round: u64) -> Outcome<Self::Guest> {
        subscriber(&service(base, plan, &format!("round{round}"))?)
    }

    fn greet(host: &mut Self::Host, round: u64) -> Outcome<()> {
        send_copy(host, &[round; 8])
    }

    fn hear(guest: &mut Self::Guest) -> Outcome<u64> {
        Ok(wait(guest, false)?.payload()[0])
    }
}
