//! A look at a state channel from outside.

use crate::error::RecvError;
use ginnel_codec::{Codec, Plain};
use ginnel_memory::Segment;
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Geometry, View};
use std::marker::PhantomData;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Looks at a channel of [`Mode::Latest`](crate::Mode::Latest) without taking part in it: made by
/// [`ReaderBuilder::glimpse`](crate::ReaderBuilder::glimpse).
///
/// It takes no place among the readers, opens no connection, and writes nothing: the writer makes no system call
/// because of it, and cannot know of it. Therefore it cannot be waited for either; look again when it is time. It also
/// shows the last value of a writer that is dead, or that is stopped.
///
/// ```
/// use ginnel_channel::{Mode, Reader, Writer};
/// # let temporary = tempfile::tempdir()?;
/// # let dir = temporary.path().join("run");
/// let mut writer: Writer<u64> = Writer::builder().mode(Mode::Latest).run_dir(&dir).create("level")?;
/// let glimpse = Reader::<u64>::builder().run_dir(&dir).glimpse("level")?;
/// assert_eq!(glimpse.newest()?, None);
/// writer.publish(&7)?;
/// assert_eq!(glimpse.newest()?, Some(7));
/// assert_eq!(glimpse.newest()?, Some(7), "a state is not used up");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Glimpse<T, C: Codec<T> = Plain> {
    view: View,
    writer: Identity,
    // What the view looks at, kept mapped.
    _data: Segment,
    _types: PhantomData<fn() -> (C, T)>,
}

impl<T: FromBytes + IntoBytes + Immutable, C: Codec<T, Owned = T>> Glimpse<T, C> {
    pub(crate) fn new(geometry: Geometry, data: Segment) -> Self {
        let view = View::new(geometry, data.header_words(), data.data());
        Self { view, writer: data.owner(), _data: data, _types: PhantomData }
    }

    /// The newest value, whole; `None` before the first.
    ///
    /// # Errors
    /// [`RecvError::Corrupt`] if the channel's memory makes no sense, or its file was shrunk.
    pub fn newest(&self) -> Result<Option<T>, RecvError> {
        let mut value = T::new_zeroed();
        Ok(self.view.copy_newest(value.as_mut_bytes())?.then_some(value))
    }

    /// Whether the writer has closed the channel.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.view.closed()
    }

    /// Who writes it.
    #[must_use]
    pub fn writer(&self) -> Identity {
        self.writer
    }
}
