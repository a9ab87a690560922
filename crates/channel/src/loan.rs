//! Records in place: lent to a writer before they are published, to a trusting reader afterwards.

use crate::error::{PublishError, RecvError};
use crate::hub::Hub;
use crate::reader::Reader;
use crate::writer::announce;
use ginnel_codec::{Codec, Plain};
use ginnel_memory::ring::Grant;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The next record of a channel, to be filled in shared memory. Made by [`Writer::loan`](crate::Writer::loan).
#[derive(Debug)]
#[must_use = "a loan that is dropped publishes nothing"]
pub struct Loan<'a, T: ?Sized>
where
    Plain: Codec<T>,
{
    grant: Grant<'a>,
    hub: &'a mut Hub,
    _type: PhantomData<&'a mut T>,
}

impl<'a, T: ?Sized> Loan<'a, T>
where
    Plain: Codec<T>,
{
    pub(crate) fn new(grant: Grant<'a>, hub: &'a mut Hub) -> Self {
        Self { grant, hub, _type: PhantomData }
    }

    /// Publishes the record.
    pub fn publish(self) -> Result<(), PublishError> {
        announce(self.grant.publish(), self.hub)
    }
}

impl Deref for Loan<'_, [u8]> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.grant
    }
}

impl DerefMut for Loan<'_, [u8]> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.grant
    }
}

impl<T> Deref for Loan<'_, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    type Target = T;

    fn deref(&self) -> &T {
        T::ref_from_bytes(&self.grant).unwrap_or_else(|_| unreachable!("{ALIGNED}"))
    }
}

impl<T> DerefMut for Loan<'_, T>
where
    T: FromBytes + IntoBytes + Immutable + KnownLayout,
{
    fn deref_mut(&mut self) -> &mut T {
        T::mut_from_bytes(&mut self.grant).unwrap_or_else(|_| unreachable!("{ALIGNED}"))
    }
}

const ALIGNED: &str = "payloads start where their types may, and `Writer::loan` refuses types that need more";

/// A record borrowed from shared memory. Made by [`Reader::borrow`]; releases the record when it is dropped.
#[derive(Debug)]
pub struct Borrowed<'a, T: ?Sized, C: Codec<T>> {
    pub(crate) reader: &'a mut Reader<T, C>,
    pub(crate) trust: ginnel_memory::Trust,
    pub(crate) len: usize,
    pub(crate) released: bool,
}

impl<T: ?Sized, C: Codec<T>> Borrowed<'_, T, C> {
    /// Ends the borrow; an error says that the promise was broken: this reader was evicted meanwhile, and what was read
    /// may be a mixture.
    pub fn release(mut self) -> Result<(), RecvError> {
        self.released = true;
        self.reader.release_borrowed(self.len)
    }
}

impl<T: ?Sized, C: Codec<T>> Deref for Borrowed<'_, T, C> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.reader.borrowed_bytes(self.trust, self.len)
    }
}

impl<T: ?Sized, C: Codec<T>> Drop for Borrowed<'_, T, C> {
    fn drop(&mut self) {
        if !self.released {
            let _ = self.reader.release_borrowed(self.len);
        }
    }
}
