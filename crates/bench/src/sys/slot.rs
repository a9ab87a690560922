//! One direction of shared memory under a robust mutex: a slot for one message, and two conditions.
//!
//! ```text
//! mutex, "filled", "emptied", full: u64, then the message from byte 256 on
//! ```
//! Whoever holds the mutex has the turn (B3). A holder that died has left the slot as it was before its operation or
//! after it, because `full` is written last.

use super::Region;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[repr(C)]
struct Objects {
    mutex: libc::pthread_mutex_t,
    filled: libc::pthread_cond_t,
    emptied: libc::pthread_cond_t,
}

const FULL: usize = 248;
const MESSAGE: usize = 256;
const _: () = assert!(size_of::<Objects>() <= FULL && align_of::<Objects>() <= 8);

/// Bytes of shared memory for messages of at most `message` bytes.
pub(crate) fn bytes(message: usize) -> usize {
    MESSAGE + message
}

/// One end of a slot.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    region: Arc<Region>,
    message: usize,
}

/// The mutex, held.
struct Held<'a>(&'a Slot);

impl Slot {
    /// Maps memory that [`make`](Self::make) has prepared.
    pub(crate) fn map(memory: impl AsFd, message: usize) -> io::Result<Self> {
        Ok(Self { region: Arc::new(Region::map(memory, bytes(message))?), message })
    }

    /// Maps fresh memory and makes the objects in it, before anybody else has the memory.
    pub(crate) fn make(memory: impl AsFd, message: usize) -> io::Result<Self> {
        let slot = Self::map(memory, message)?;
        let objects = slot.objects();
        let check = |code| if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) };
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        let mut condition = MaybeUninit::<libc::pthread_condattr_t>::uninit();
        // SAFETY: the attributes are made before they are used, and destroyed after; the objects lie in mapped memory
        // (B1) of the right size and alignment (`Region::place`), which nobody else has yet.
        unsafe {
            check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
            check(libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED))?;
            check(libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST))?;
            check(libc::pthread_mutex_init(&raw mut (*objects).mutex, attributes.as_ptr()))?;
            libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
            check(libc::pthread_condattr_init(condition.as_mut_ptr()))?;
            check(libc::pthread_condattr_setpshared(condition.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED))?;
            check(libc::pthread_cond_init(&raw mut (*objects).filled, condition.as_ptr()))?;
            check(libc::pthread_cond_init(&raw mut (*objects).emptied, condition.as_ptr()))?;
            libc::pthread_condattr_destroy(condition.as_mut_ptr());
        }
        Ok(slot)
    }

    fn objects(&self) -> *mut Objects {
        self.region.place(0)
    }

    /// Writes a message of at most the slot's size, if it is empty.
    pub(crate) fn try_send(&self, message: &[u8]) -> io::Result<bool> {
        let held = self.lock()?;
        Ok(held.put(message))
    }

    /// Copies the first bytes of the message out, if there is one.
    pub(crate) fn try_recv(&self, message: &mut [u8]) -> io::Result<bool> {
        let held = self.lock()?;
        Ok(held.take(message))
    }

    /// Writes a message when the slot is empty.
    pub(crate) fn send(&self, message: &[u8]) -> io::Result<()> {
        let held = self.lock()?;
        held.until(false)?;
        held.put(message);
        Ok(())
    }

    /// Copies the message out when there is one.
    pub(crate) fn recv(&self, message: &mut [u8]) -> io::Result<()> {
        let held = self.lock()?;
        held.until(true)?;
        held.take(message);
        Ok(())
    }

    /// Waits until it is full, or empty.
    pub(crate) fn wait(&self, full: bool) -> io::Result<()> {
        self.lock()?.until(full)
    }

    fn lock(&self) -> io::Result<Held<'_>> {
        // SAFETY: the mutex lies in mapped memory (B1) and was made by `make` before anybody had the memory.
        let code = unsafe { libc::pthread_mutex_lock(&raw mut (*self.objects()).mutex) };
        match code {
            0 => Ok(Held(self)),
            libc::EOWNERDEAD => self.mend(),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }

    /// The holder has died; this thread holds the mutex now.
    fn mend(&self) -> io::Result<Held<'_>> {
        // SAFETY: as in `lock`; this thread holds the mutex, whose protected state is whole (see the top of this file).
        match unsafe { libc::pthread_mutex_consistent(&raw mut (*self.objects()).mutex) } {
            0 => Ok(Held(self)),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

impl Held<'_> {
    fn is_full(&self) -> bool {
        self.0.region.word(FULL).load(Ordering::Relaxed) != 0
    }

    fn until(&self, full: bool) -> io::Result<()> {
        let objects = self.0.objects();
        while self.is_full() != full {
            // SAFETY: the objects lie in mapped memory and were made by `make`; this thread holds the mutex.
            let code = unsafe {
                let condition = if full { &raw mut (*objects).filled } else { &raw mut (*objects).emptied };
                libc::pthread_cond_wait(condition, &raw mut (*objects).mutex)
            };
            match code {
                0 => {}
                // Held again, after its holder has died.
                libc::EOWNERDEAD => std::mem::forget(self.0.mend()?),
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
        Ok(())
    }

    fn put(&self, message: &[u8]) -> bool {
        let Slot { region, message: most } = self.0;
        if self.is_full() || message.len() > *most {
            return false;
        }
        // SAFETY: B3: this thread holds the mutex.
        unsafe { region.write(MESSAGE, message) };
        region.word(FULL).store(1, Ordering::Relaxed);
        // SAFETY: the condition lies in mapped memory and was made by `make`.
        unsafe { libc::pthread_cond_signal(&raw mut (*self.0.objects()).filled) };
        true
    }

    fn take(&self, message: &mut [u8]) -> bool {
        let Slot { region, message: most } = self.0;
        if !self.is_full() {
            return false;
        }
        let len = message.len().min(*most);
        // SAFETY: B3: this thread holds the mutex.
        unsafe { region.read(MESSAGE, &mut message[..len]) };
        region.word(FULL).store(0, Ordering::Relaxed);
        // SAFETY: the condition lies in mapped memory and was made by `make`.
        unsafe { libc::pthread_cond_signal(&raw mut (*self.0.objects()).emptied) };
        true
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        // SAFETY: this thread holds the mutex.
        unsafe { libc::pthread_mutex_unlock(&raw mut (*self.0.objects()).mutex) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_holds_one_message_and_wakes_who_waits_for_it() {
        let memory = crate::page::shared_memory(bytes(16)).unwrap();
        let sender = Slot::make(&memory, 16).unwrap();
        let receiver = Slot::map(&memory, 16).unwrap();
        let reader = std::thread::spawn(move || {
            let mut got = [0; 16];
            let all: Vec<u8> = (0..100).map(|_| receiver.recv(&mut got).map(|()| got[0]).unwrap()).collect();
            (all, receiver)
        });
        (0..100u8).for_each(|number| sender.send(&[number; 16]).unwrap());
        let (all, receiver) = reader.join().unwrap();
        assert!(all.iter().copied().eq(0..100));
        assert!(sender.try_send(&[7; 16]).unwrap() && !sender.try_send(&[8; 16]).unwrap());
        assert!(receiver.try_recv(&mut [0; 16]).unwrap() && !receiver.try_recv(&mut [0; 16]).unwrap());
    }

    #[test]
    fn a_holder_that_dies_leaves_the_slot_usable() {
        let memory = crate::page::shared_memory(bytes(16)).unwrap();
        let slot = Slot::make(&memory, 16).unwrap();
        let theirs = slot.clone();
        // A thread that ends with a robust mutex held is as dead as a process.
        std::thread::spawn(move || std::mem::forget(theirs.lock().unwrap())).join().unwrap();
        assert!(slot.try_send(&[7; 16]).unwrap());
        let mut got = [0; 16];
        slot.recv(&mut got).unwrap();
        assert_eq!(got, [7; 16]);
    }
}
