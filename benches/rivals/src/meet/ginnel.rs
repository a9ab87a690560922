//! Our channels: plain types, and bytes (the contender `ginnel-bytes`). Both are received into memory that is used
//! again.

use super::{Handoff, Link, LoanLink, Meeting, Plan, Receiver, Sender};
use crate::Outcome;
use crate::payload::{END, Source, buffer};
use crate::rows::{self, Wait};
use crate::setup::SetUp;
use ginnel_channel::{Codec, Mode, Plain, Reader, RecvError, Spin, Trust, Writer};
use std::hint::black_box;
use std::marker::PhantomData;
use std::time::Duration;
use zerocopy::{FromBytes, IntoBytes};

fn spin(plan: &Plan) -> Spin {
    match plan.row.wait {
        Wait::Spin => Spin::forever(),
        Wait::Park => Spin::new(0),
    }
}

fn mode(plan: &Plan) -> Mode {
    match plan.row.mode {
        rows::Mode::Lossless => Mode::Lossless,
        rows::Mode::Lossy => Mode::Lossy,
        rows::Mode::Latest => Mode::Latest,
    }
}

fn writer<T: ?Sized>(plan: &Plan, name: &str) -> Outcome<Writer<T>>
where
    Plain: Codec<T>,
{
    let builder = Writer::builder().run_dir(plan.directory.join("run")).mode(mode(plan)).spin(spin(plan));
    let builder = match (plan.row.mode, plan.row.is_stream()) {
        (rows::Mode::Latest, _) => builder,
        // Room for as many records as every other contender has.
        (_, true) => builder.capacity(plan.row.capacity * (plan.row.bytes + 16)),
        // The default, but for records of which it would hold less than a few.
        (_, false) => builder.capacity((256 << 10).max(8 * (plan.row.bytes + 16))),
    };
    Ok(builder.max_record(plan.row.bytes).create(name)?)
}

fn reader<T: ?Sized>(plan: &Plan, name: &str) -> Outcome<Reader<T>>
where
    Plain: Codec<T>,
{
    Ok(Reader::builder().run_dir(plan.directory.join("run")).spin(spin(plan)).open(name)?)
}

/// How payloads become records and come back.
pub trait Kind<const W: usize>: 'static {
    type Writer;
    type Reader;
    /// Private memory to receive into.
    type Room;

    fn room() -> Self::Room;
    fn writer(plan: &Plan, name: &str) -> Outcome<Self::Writer>;
    fn reader(plan: &Plan, name: &str) -> Outcome<Self::Reader>;
    /// Waits until so many readers are there.
    fn wait_for(writer: &mut Self::Writer, readers: usize) -> Outcome<()>;
    fn publish(writer: &mut Self::Writer, message: &[u64; W]) -> Outcome<()>;
    /// Private memory for the messages of one publication.
    type Sheaf;
    fn sheaf(plan: &Plan) -> Self::Sheaf;
    /// Publishes as many messages as the sheaf holds.
    fn publish_all(writer: &mut Self::Writer, sheaf: &mut Self::Sheaf, source: &mut Source<W>) -> Outcome<()>;
    fn receive(reader: &mut Self::Reader, room: &mut Self::Room) -> Result<(), RecvError>;
    fn received(room: &Self::Room) -> &[u64; W];

    /// Private memory for a run of messages of a stream.
    type Run;
    fn run() -> Self::Run;
    /// Waits for messages and says how many it copied out.
    fn receive_run(reader: &mut Self::Reader, run: &mut Self::Run) -> Result<usize, RecvError>;
    fn nth(run: &Self::Run, index: usize) -> &[u64; W];
}

/// A `Writer<[u64; W]>`: fixed slots, no lengths, no encoding.
pub struct Typed;

/// A `Writer<[u8]>`: records of any size.
pub struct Bytes;

fn wait_for<T: ?Sized>(writer: &mut Writer<T>, readers: usize) -> Outcome<()>
where
    Plain: Codec<T>,
{
    match writer.wait_for_readers(readers, Duration::from_secs(5))? {
        true => Ok(()),
        false => Err(format!("{readers} readers did not join within 5 s").into()),
    }
}

impl<const W: usize> Kind<W> for Typed {
    type Writer = Writer<[u64; W]>;
    type Reader = Reader<[u64; W]>;
    type Room = Box<[u64; W]>;
    type Sheaf = Vec<[u64; W]>;
    /// A page of small messages, which stays in the first cache; one large one.
    type Run = Vec<[u64; W]>;

    fn sheaf(plan: &Plan) -> Vec<[u64; W]> {
        vec![[1; W]; plan.row.batch]
    }

    fn room() -> Box<[u64; W]> {
        buffer()
    }

    fn writer(plan: &Plan, name: &str) -> Outcome<Writer<[u64; W]>> {
        writer(plan, name)
    }

    fn reader(plan: &Plan, name: &str) -> Outcome<Reader<[u64; W]>> {
        reader(plan, name)
    }

    fn wait_for(writer: &mut Writer<[u64; W]>, readers: usize) -> Outcome<()> {
        wait_for(writer, readers)
    }

    #[inline(always)]
    fn publish(writer: &mut Writer<[u64; W]>, message: &[u64; W]) -> Outcome<()> {
        Ok(writer.publish(message)?)
    }

    #[inline(always)]
    fn publish_all(writer: &mut Writer<[u64; W]>, sheaf: &mut Vec<[u64; W]>, source: &mut Source<W>) -> Outcome<()> {
        sheaf.iter_mut().for_each(|place| source.next(|message| *place = *message));
        Ok(writer.publish_all(black_box(sheaf))?)
    }

    #[inline(always)]
    fn receive(reader: &mut Reader<[u64; W]>, room: &mut Box<[u64; W]>) -> Result<(), RecvError> {
        reader.recv_into(room)
    }

    #[inline(always)]
    fn received(room: &Box<[u64; W]>) -> &[u64; W] {
        room
    }

    fn run() -> Vec<[u64; W]> {
        vec![[1; W]; (4096 / (8 * W)).clamp(1, 64)]
    }

    #[inline(always)]
    fn receive_run(reader: &mut Reader<[u64; W]>, run: &mut Vec<[u64; W]>) -> Result<usize, RecvError> {
        reader.recv_many(run)
    }

    #[inline(always)]
    fn nth(run: &Vec<[u64; W]>, index: usize) -> &[u64; W] {
        &run[index]
    }
}

impl<const W: usize> Kind<W> for Bytes {
    type Writer = Writer<[u8]>;
    type Reader = Reader<[u8]>;
    type Room = Vec<u8>;
    /// How many messages go together.
    type Sheaf = usize;
    type Run = Vec<u8>;

    fn sheaf(plan: &Plan) -> usize {
        plan.row.batch
    }

    fn room() -> Vec<u8> {
        let mut room = vec![1; 8 * W];
        room.clear();
        room
    }

    fn writer(plan: &Plan, name: &str) -> Outcome<Writer<[u8]>> {
        writer(plan, name)
    }

    fn reader(plan: &Plan, name: &str) -> Outcome<Reader<[u8]>> {
        reader(plan, name)
    }

    fn wait_for(writer: &mut Writer<[u8]>, readers: usize) -> Outcome<()> {
        wait_for(writer, readers)
    }

    #[inline(always)]
    fn publish(writer: &mut Writer<[u8]>, message: &[u64; W]) -> Outcome<()> {
        Ok(writer.publish(message.as_bytes())?)
    }

    #[inline(always)]
    fn publish_all(writer: &mut Writer<[u8]>, sheaf: &mut usize, source: &mut Source<W>) -> Outcome<()> {
        let mut batch = writer.batch();
        for _ in 0..*sheaf {
            source.next(|message| batch.push(message.as_bytes()))?;
        }
        Ok(batch.publish()?)
    }

    #[inline(always)]
    fn receive(reader: &mut Reader<[u8]>, room: &mut Vec<u8>) -> Result<(), RecvError> {
        reader.recv_into(room)
    }

    #[inline(always)]
    fn received(room: &Vec<u8>) -> &[u64; W] {
        <[u64; W]>::ref_from_bytes(room).expect("records have the size of the row, vectors the alignment of words")
    }

    fn run() -> Vec<u8> {
        <Self as Kind<W>>::room()
    }

    #[inline(always)]
    fn receive_run(reader: &mut Reader<[u8]>, run: &mut Vec<u8>) -> Result<usize, RecvError> {
        reader.recv_into(run).map(|()| 1)
    }

    #[inline(always)]
    fn nth(run: &Vec<u8>, _: usize) -> &[u64; W] {
        Self::received(run)
    }
}

/// One end of a two-way link: two channels.
pub struct ChannelLink<const W: usize, K: Kind<W>> {
    out: K::Writer,
    back: K::Reader,
    room: K::Room,
}

impl<const W: usize, K: Kind<W>> Meeting for ChannelLink<W, K> {
    type Founded = K::Writer;
    type Parent = Self;
    type Child = Self;

    fn found(plan: &Plan) -> Outcome<(K::Writer, Handoff)> {
        Ok((K::writer(plan, "there")?, Handoff::default()))
    }

    fn join(plan: &Plan, _: Handoff, _: usize) -> Outcome<Self> {
        Ok(Self { out: K::writer(plan, "back")?, back: K::reader(plan, "there")?, room: K::room() })
    }

    fn connect(plan: &Plan, mut out: K::Writer) -> Outcome<Self> {
        K::wait_for(&mut out, 1)?;
        Ok(Self { out, back: K::reader(plan, "back")?, room: K::room() })
    }
}

impl<const W: usize, K: Kind<W>> Link<W> for ChannelLink<W, K> {
    #[inline(always)]
    fn send(&mut self, message: &[u64; W]) -> Outcome<()> {
        K::publish(&mut self.out, message)
    }

    #[inline(always)]
    fn receive(&mut self) -> Outcome<()> {
        Ok(K::receive(&mut self.back, &mut self.room)?)
    }

    #[inline(always)]
    fn received(&self) -> &[u64; W] {
        K::received(&self.room)
    }
}

impl<const W: usize> LoanLink<W> for ChannelLink<W, Typed> {
    #[inline(always)]
    fn send_in_place(&mut self, number: u64) -> Outcome<()> {
        let mut loan = self.out.loan()?;
        loan[W - 1] = number;
        loan[0] = number;
        Ok(loan.publish()?)
    }

    #[inline(always)]
    fn receive_in_place(&mut self) -> Outcome<(u64, u64)> {
        // SAFETY: both writers are this program's, of lossless channels, and nobody else opens them.
        let trust = unsafe { Trust::assume_honest_writer() };
        loop {
            if let Some(record) = self.back.borrow(trust)? {
                let words = <[u64; W]>::ref_from_bytes(&record).map_err(|_| "a record of the wrong size arrived")?;
                let ends = (words[0], words[W - 1]);
                record.release()?;
                return Ok(ends);
            }
        }
    }
}

/// A stream to the readers of a row.
pub struct ChannelStream<const W: usize, K>(PhantomData<K>);

pub struct StreamSender<const W: usize, K: Kind<W>> {
    writer: K::Writer,
    sheaf: K::Sheaf,
}

pub struct StreamReceiver<const W: usize, K: Kind<W>> {
    reader: K::Reader,
    run: K::Run,
    next: u64,
}

impl<const W: usize, K: Kind<W>> Meeting for ChannelStream<W, K> {
    type Founded = K::Writer;
    type Parent = StreamSender<W, K>;
    type Child = StreamReceiver<W, K>;

    fn found(plan: &Plan) -> Outcome<(K::Writer, Handoff)> {
        Ok((K::writer(plan, "stream")?, Handoff::default()))
    }

    fn join(plan: &Plan, _: Handoff, _: usize) -> Outcome<StreamReceiver<W, K>> {
        Ok(StreamReceiver { reader: K::reader(plan, "stream")?, run: K::run(), next: 0 })
    }

    fn connect(plan: &Plan, mut writer: K::Writer) -> Outcome<StreamSender<W, K>> {
        K::wait_for(&mut writer, plan.row.readers)?;
        Ok(StreamSender { writer, sheaf: K::sheaf(plan) })
    }
}

impl<const W: usize, K: Kind<W>> Sender<W> for StreamSender<W, K> {
    #[inline(always)]
    fn send_batch(&mut self, count: usize, source: &mut Source<W>) -> Outcome<()> {
        if count == 1 {
            source.next(|message| K::publish(&mut self.writer, message))
        } else {
            K::publish_all(&mut self.writer, &mut self.sheaf, source)
        }
    }
}

impl<const W: usize, K: Kind<W>> Receiver<W> for StreamReceiver<W, K> {
    #[inline(always)]
    fn drain(&mut self, mut take: impl FnMut(&[u64; W])) -> Outcome<()> {
        match K::receive_run(&mut self.reader, &mut self.run) {
            Ok(received) => {
                self.next += received as u64;
                (0..received).for_each(|index| take(black_box(K::nth(&self.run, index))));
                Ok(())
            }
            Err(RecvError::Lagged { skipped }) => self.lag(skipped, take),
            Err(error) => Err(error.into()),
        }
    }
}

impl<const W: usize, K: Kind<W>> StreamReceiver<W, K> {
    /// The count of missed messages must be exactly what the numbers of the messages say.
    #[cold]
    fn lag(&mut self, skipped: u64, mut take: impl FnMut(&[u64; W])) -> Outcome<()> {
        let expected = self.next + skipped;
        let received = match K::receive_run(&mut self.reader, &mut self.run) {
            Ok(received) => received,
            Err(RecvError::Lagged { skipped: more }) => {
                self.next = expected;
                return self.lag(more, take);
            }
            Err(error) => return Err(error.into()),
        };
        let number = K::nth(&self.run, 0)[0] & !END;
        if number != expected {
            return Err(
                format!("told to have missed {skipped}, which makes {expected} the next, but got {number}").into()
            );
        }
        self.next = number + received as u64;
        (0..received).for_each(|index| take(K::nth(&self.run, index)));
        Ok(())
    }
}

/// The newest value, written and read by one process.
pub struct Newest {
    writer: Writer<[u64; 8]>,
    reader: Reader<[u64; 8]>,
    room: Box<[u64; 8]>,
}

impl super::Newest for Newest {
    fn create(plan: &Plan) -> Outcome<Self> {
        let mut writer = writer(plan, "newest")?;
        let reader = reader(plan, "newest")?;
        wait_for(&mut writer, 1)?;
        Ok(Self { writer, reader, room: buffer() })
    }

    #[inline(always)]
    fn write(&mut self, value: &[u64; 8]) -> Outcome<()> {
        Ok(self.writer.publish(value)?)
    }

    #[inline(always)]
    fn read(&mut self) -> Outcome<&[u64; 8]> {
        if self.reader.try_recv_into(&mut self.room)? {
            Ok(&self.room)
        } else {
            Err("a value that was just written is not there".into())
        }
    }
}

/// Channel and reader made anew, the first message read.
pub struct ChannelSetUp;

impl SetUp for ChannelSetUp {
    type Base = ();
    type Host = Writer<[u64; 8]>;
    type Guest = Reader<[u64; 8]>;

    fn base(_: &Plan) -> Outcome<()> {
        Ok(())
    }

    fn host(_: &(), plan: &Plan, round: u64) -> Outcome<Writer<[u64; 8]>> {
        let mut host: Writer<[u64; 8]> = writer(plan, &format!("round{round}"))?;
        host.publish(&[round; 8])?;
        Ok(host)
    }

    fn guest(_: &(), plan: &Plan, round: u64) -> Outcome<Reader<[u64; 8]>> {
        reader(plan, &format!("round{round}"))
    }

    fn greet(_: &mut Writer<[u64; 8]>, _: u64) -> Outcome<()> {
        Ok(())
    }

    fn hear(guest: &mut Reader<[u64; 8]>) -> Outcome<u64> {
        Ok(guest.recv()?[0])
    }
}
