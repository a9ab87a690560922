//! Messages and descriptors over the control socket.

use super::{EINVAL, EMFILE, EMSGSIZE, Fd, Result, nr, retry};
use crate::frame::MAX_FDS;

#[repr(C)]
struct Vector {
    base: usize,
    len: usize,
}

/// `struct msghdr`.
#[repr(C)]
struct Message {
    name: usize,
    name_len: u32,
    pad: u32,
    vectors: *const Vector,
    vector_count: usize,
    control: usize,
    control_len: usize,
    flags: u32,
    pad_end: u32,
}

#[repr(C, align(8))]
struct Control {
    len: usize,
    level: i32,
    kind: i32,
    fds: [i32; MAX_FDS + 1],
}

const CONTROL_HEADER: usize = 16;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;

pub(crate) fn send(socket: &Fd, bytes: &[u8], fds: &[i32]) -> Result<usize> {
    const DONTWAIT_NOSIGNAL: usize = 0x40 | 0x4000;
    let mut control =
        Control { len: CONTROL_HEADER + fds.len() * 4, level: SOL_SOCKET, kind: SCM_RIGHTS, fds: [0; MAX_FDS + 1] };
    control.fds.get_mut(..fds.len()).ok_or(EINVAL)?.copy_from_slice(fds);
    let vector = Vector { base: bytes.as_ptr() as usize, len: bytes.len() };
    let len = if fds.is_empty() { 0 } else { control.len };
    let message = message(&vector, &raw mut control as usize, len);
    retry(nr::SENDMSG, [socket.0 as usize, &raw const message as usize, DONTWAIT_NOSIGNAL, 0, 0, 0])
}

fn message(vector: &Vector, control: usize, control_len: usize) -> Message {
    let (name, name_len, pad, flags, pad_end) = (0, 0, 0, 0, 0);
    Message { name, name_len, pad, vectors: vector, vector_count: 1, control, control_len, flags, pad_end }
}

/// The length of the next message, which stays where it is.
pub(crate) fn next_length(socket: &Fd) -> Result<usize> {
    const PEEK_TRUNC: usize = 2 | 0x20;
    let vector = Vector { base: 0, len: 0 };
    let message = message(&vector, 0, 0);
    retry(nr::RECVMSG, [socket.0 as usize, &raw const message as usize, PEEK_TRUNC, 0, 0, 0])
}

/// One message and its descriptors, without waiting: their numbers are written to `fds`, their count is returned. A
/// length of 0 is the end. `EMFILE`: there was no room for all of the descriptors; those that came are closed again.
/// `EMSGSIZE`: the message was longer than `into`.
pub(crate) fn receive(socket: &Fd, into: &mut [u8], fds: &mut [i32; MAX_FDS]) -> Result<(usize, usize)> {
    const CLOEXEC_DONTWAIT: usize = 0x4000_0000 | 0x40;
    const CONTROL_TRUNCATED: u32 = 0x8;
    const TRUNCATED: u32 = 0x20;
    let mut control = Control { len: 0, level: 0, kind: 0, fds: [0; MAX_FDS + 1] };
    let vector = Vector { base: into.as_mut_ptr() as usize, len: into.len() };
    let message = message(&vector, &raw mut control as usize, size_of::<Control>());
    let len = retry(nr::RECVMSG, [socket.0 as usize, &raw const message as usize, CLOEXEC_DONTWAIT, 0, 0, 0])?;
    // SAFETY: the kernel has written both behind the compiler's back; they are read once, after the call.
    let (flags, control) =
        unsafe { ((&raw const message.flags).read_volatile(), (&raw const control).read_volatile()) };
    let rights = control.len > CONTROL_HEADER && control.level == SOL_SOCKET && control.kind == SCM_RIGHTS;
    let count = if rights { ((control.len - CONTROL_HEADER) / 4).min(MAX_FDS) } else { 0 };
    fds[..count].copy_from_slice(&control.fds[..count]);
    if flags & (CONTROL_TRUNCATED | TRUNCATED) == 0 {
        return Ok((len, count));
    }
    for fd in &fds[..count] {
        drop(Fd(*fd));
    }
    Err(if flags & CONTROL_TRUNCATED != 0 { EMFILE } else { EMSGSIZE })
}
