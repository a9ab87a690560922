//! Access to shared memory as words: the only way in or out of a mapping.
//!
//! A peer may change every byte at any time, so memory is never lent as `&[u8]`. It is read through relaxed atomics or
//! through one copy, [`copy_out`](Words::copy_out), into private memory, and judged there.
//!
//! # Why the copy in assembly is sound
//!
//! Rust's model knows no racing byte copies, and a loop over relaxed atomics cannot use vector moves. On x86-64 the
//! copy is therefore inline assembly. For the compiler that is a foreign function that reads or writes memory it knows
//! nothing about: it may neither split, repeat nor elide it, and the bytes that come out are arbitrary initialised
//! bytes. The hardware gives each 8-byte aligned move without tearing and keeps loads in order with loads and stores
//! with stores (x86-TSO), so acquire and release fences around the copy order it like the atomic loop that other
//! machines, loom and ThreadSanitizer (`--cfg ginnel_atomic_copy`) use.
//!
//! `rep movsb` is weakly ordered inside itself. Its **stores** as a whole are in order with other stores: "String
//! operations are not reordered with other store operations" (Intel's manual, volume 3, "Memory-Ordering Model for
//! String Operations on Write-Back Memory", item 3; the section before it asks for a discrete semaphore that is stored
//! after the string operation, which our flag is). Of its **loads** no manual says as much by name: the rule "reads are
//! not reordered with other reads" has no exception for them, but none of the examples shows one. So the copy out has
//! an `lfence` on either side, which costs nothing beside so large a copy: an instruction that loads and precedes it
//! has received its data before it completes, and nothing that follows begins before that.

use crate::sync::{AtomicU64, Ordering};
#[cfg(not(loom))]
use crate::sys::Mapping;
use std::mem::MaybeUninit;
use std::sync::Arc;

const WORD: usize = size_of::<u64>();
/// From these sizes on the microcoded move (ERMS) wins, into and out of shared memory: it takes whole lines over
/// without reading what the other processor has in them, which is worth most where the copy goes to lines that a reader
/// holds. Below, its start costs more than that.
#[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
const MICROCODE_IN: usize = 8 << 10;
#[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
const MICROCODE_OUT: usize = 16 << 10;

/// Shared words that this process may read.
///
/// Cheap to clone; the memory stays mapped as long as a clone lives.
#[derive(Clone)]
pub struct Words {
    #[cfg(not(loom))]
    base: std::ptr::NonNull<AtomicU64>,
    #[cfg(not(loom))]
    len: usize,
    /// Raised when the mapping's file was shrunk; a copy of what `owner` knows, one load away.
    #[cfg(not(loom))]
    tripped: Option<&'static std::sync::atomic::AtomicBool>,
    #[cfg(not(loom))]
    _owner: Arc<Mapping>,
    #[cfg(loom)]
    cells: Arc<Vec<AtomicU64>>,
    /// Where words may be borrowed or lent.
    #[cfg(all(test, loom))]
    places: Option<Arc<crate::lent::Places>>,
    #[cfg(loom)]
    len: usize,
}

// SAFETY: M1 keeps the memory mapped and M2 makes every access atomic or the racing copy, so threads may share it.
#[cfg(not(loom))]
unsafe impl Send for Words {}
// SAFETY: as above.
#[cfg(not(loom))]
unsafe impl Sync for Words {}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("len", &self.len()).finish()
    }
}

impl Words {
    /// `len` words at byte `offset` of `owner`.
    #[cfg(not(loom))]
    pub(crate) fn new(owner: &Arc<Mapping>, offset: usize, len: usize) -> Self {
        let end = len.checked_mul(WORD).and_then(|bytes| bytes.checked_add(offset));
        assert!(
            offset.is_multiple_of(WORD) && end.is_some_and(|end| end <= owner.len()),
            "words outside their mapping"
        );
        // SAFETY: the assertion keeps the pointer inside the mapping (M3).
        let base = unsafe { owner.base().add(offset).cast::<AtomicU64>() };
        Self { base, len, tripped: owner.tripped(), _owner: Arc::clone(owner) }
    }

    /// Private words, for models of the ring.
    #[cfg(all(test, loom))]
    pub(crate) fn model(len: usize) -> WordsMut {
        let cells = Arc::new((0..len).map(|_| AtomicU64::new(0)).collect());
        WordsMut(Self { cells, len, places: None })
    }

    /// Private words that may be borrowed and lent; with `mirror` there are twice as many, the second half being the
    /// first again.
    #[cfg(all(test, loom))]
    pub(crate) fn model_data(len: usize, mirror: bool) -> WordsMut {
        let Self { cells, .. } = Self::model(len).0;
        let places = Some(Arc::new(crate::lent::Places::new(len)));
        WordsMut(Self { cells, len: if mirror { 2 * len } else { len }, places })
    }

    /// How many words there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mapping was cut short by its owner: what is read now is zeros, not data.
    #[inline(always)]
    #[must_use]
    pub fn truncated(&self) -> bool {
        #[cfg(not(loom))]
        return self.tripped.is_some_and(|tripped| tripped.load(std::sync::atomic::Ordering::Acquire));
        #[cfg(loom)]
        return false;
    }

    /// M3 for `len` bytes that start at word `index`.
    #[inline(always)]
    fn check(&self, index: usize, len: usize) {
        let words = len.div_ceil(WORD);
        assert!(index <= self.len && words <= self.len - index, "bytes outside their segment");
    }

    #[cfg(not(loom))]
    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word outside its segment");
        // SAFETY: the assertion is M3, the `Arc` in `self` is M1; mapped memory is valid for atomics (M2).
        unsafe { self.base.add(index).as_ref() }
    }

    #[cfg(loom)]
    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.len, "word outside its segment");
        &self.cells[index % self.cells.len()]
    }

    /// Reads word `index`, as the peer last wrote it.
    ///
    /// # Panics
    ///
    /// If `index` is out of range: callers derive it from private values only.
    #[inline(always)]
    #[must_use]
    pub fn load(&self, index: usize, order: Ordering) -> u64 {
        self.word(index).load(order)
    }

    /// Copies `out.len()` bytes that start at word `index` into `out`. The bytes may be torn: validate afterwards,
    /// behind an acquire fence.
    ///
    /// # Panics
    ///
    /// If the range leaves the segment.
    #[inline]
    pub fn copy_out(&self, index: usize, out: &mut [MaybeUninit<u8>]) {
        self.check(index, out.len());
        #[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
        // SAFETY: source range checked above (M3) and mapped (M1), destination is a live exclusive slice.
        unsafe {
            let (from, to) = (self.base.add(index).as_ptr().cast(), out.as_mut_ptr().cast());
            if out.len() >= MICROCODE_OUT {
                asm_load_fence();
                asm_copy(from, to, out.len(), MICROCODE_OUT);
                asm_load_fence();
            } else {
                asm_copy(from, to, out.len(), MICROCODE_OUT);
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy))))]
        for (i, chunk) in out.chunks_mut(WORD).enumerate() {
            let bytes = self.word(index + i).load(Ordering::Relaxed).to_ne_bytes();
            for (to, from) in chunk.iter_mut().zip(bytes) {
                to.write(from);
            }
        }
    }

    /// Copies `len` bytes that start at word `index` into `out`, which becomes exactly these bytes.
    ///
    /// # Panics
    ///
    /// If the range leaves the segment.
    pub fn copy_to_vec(&self, index: usize, len: usize, out: &mut Vec<u8>) {
        out.clear();
        self.append_to_vec(index, len, out);
    }

    /// Copies `len` bytes that start at word `index` behind what `out` holds.
    ///
    /// # Panics
    ///
    /// If the range leaves the segment.
    pub fn append_to_vec(&self, index: usize, len: usize, out: &mut Vec<u8>) {
        self.check(index, len); // before it asks for memory
        out.reserve(len);
        self.copy_out(index, &mut out.spare_capacity_mut()[..len]);
        // SAFETY: `copy_out` has written `len` bytes of the capacity reserved above.
        unsafe { out.set_len(out.len() + len) };
    }

    /// Borrows `len` bytes that start at word `index`.
    ///
    /// # Panics
    ///
    /// If the range leaves the segment.
    #[cfg(not(loom))]
    #[must_use]
    pub fn borrow(&self, _: crate::Trust, index: usize, len: usize) -> &[u8] {
        self.check(index, len);
        // SAFETY: range checked (M3), mapped for the borrow's life (M1); nobody changes it: the holder of `Trust` said
        // so.
        unsafe { std::slice::from_raw_parts(self.base.add(index).as_ptr().cast(), len) }
    }
}

#[cfg(all(test, loom))]
impl Words {
    /// Borrows `len` bytes that start at word `index`, as a model does.
    pub(crate) fn borrow(&self, _: crate::Trust, index: usize, len: usize) -> crate::lent::Borrow {
        self.check(index, len);
        let places = self.places.as_ref().expect("words that may be borrowed");
        crate::lent::Borrow::new(WordsMut(self.clone()), places, index, len)
    }
}

/// Shared words that this process may read and write, word by word or by copying.
///
/// There may be many for the same memory, here and in other processes: it never lends a reference into it.
#[derive(Clone, Debug)]
pub struct WordsMut(Words);

impl std::ops::Deref for WordsMut {
    type Target = Words;

    #[inline(always)]
    fn deref(&self) -> &Words {
        &self.0
    }
}

impl WordsMut {
    /// `len` words at byte `offset` of `owner`, which must be mapped writable.
    #[cfg(not(loom))]
    pub(crate) fn new(owner: &Arc<Mapping>, offset: usize, len: usize) -> Self {
        assert!(owner.writable(), "writable words of a read-only mapping");
        Self(Words::new(owner, offset, len))
    }

    /// Writes word `index`.
    ///
    /// # Panics
    ///
    /// If `index` is out of range.
    #[inline(always)]
    pub fn store(&self, index: usize, value: u64, order: Ordering) {
        #[cfg(all(test, loom))]
        self.touch(index, WORD);
        self.0.word(index).store(value, order);
    }

    /// Nobody may have borrowed what is written now.
    #[cfg(all(test, loom))]
    fn touch(&self, index: usize, len: usize) {
        if let Some(places) = &self.0.places {
            places.touch(index, len);
        }
    }

    /// Replaces word `index` and returns what it was.
    ///
    /// # Panics
    ///
    /// If `index` is out of range.
    #[inline]
    pub fn swap(&self, index: usize, value: u64, order: Ordering) -> u64 {
        self.0.word(index).swap(value, order)
    }

    /// Sets bits of word `index` and returns what it was.
    ///
    /// # Panics
    ///
    /// If `index` is out of range.
    #[inline]
    pub fn fetch_or(&self, index: usize, bits: u64, order: Ordering) -> u64 {
        self.0.word(index).fetch_or(bits, order)
    }

    /// Replaces word `index` if it holds `current`; says whether it did.
    ///
    /// # Panics
    ///
    /// If `index` is out of range.
    pub fn replace(&self, index: usize, current: u64, new: u64) -> bool {
        self.0.word(index).compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Copies `bytes` to the words that start at `index`. The last word's unused bytes may become zero or stay.
    ///
    /// # Panics
    ///
    /// If the range leaves the segment.
    #[inline]
    pub fn copy_in(&self, index: usize, bytes: &[u8]) {
        self.0.check(index, bytes.len());
        #[cfg(all(test, loom))]
        self.touch(index, bytes.len());
        #[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
        // SAFETY: destination range checked above (M3), mapped (M1) and writable; source is a live slice.
        unsafe {
            asm_copy(bytes.as_ptr(), self.0.base.add(index).as_ptr().cast(), bytes.len(), MICROCODE_IN);
        }
        #[cfg(not(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy))))]
        for (i, chunk) in bytes.chunks(WORD).enumerate() {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0.word(index + i).store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
    }
}

/// The words of a segment, in the hands of its one writer. Made by [`Segment::into_words`](crate::Segment::into_words),
/// once.
///
/// Nobody else in this process has words of this mapping, nor the writer's words of another mapping of the same file.
/// So memory may be lent from here, through `&mut`, and no other safe call reaches the same bytes (M6). It is not
/// `Clone`:
///
/// ```compile_fail,E0599
/// fn twice(words: &ginnel_memory::WriterWords) -> ginnel_memory::WriterWords {
///     words.clone()
/// }
/// ```
#[derive(Debug)]
#[must_use]
pub struct WriterWords {
    // Given back before the mapping goes, which may be the last that keeps the file: another thread's new file has its
    // number at once.
    #[cfg(not(loom))]
    _place: crate::segment::WriterPlace,
    pub(crate) head: WordsMut,
    pub(crate) data: WordsMut,
}

impl WriterWords {
    #[cfg(not(loom))]
    pub(crate) fn new(head: WordsMut, data: WordsMut, place: crate::segment::WriterPlace) -> Self {
        Self { _place: place, head, data }
    }

    /// Of a model.
    #[cfg(all(test, loom))]
    pub(crate) fn model(head: WordsMut, data: WordsMut) -> Self {
        Self { head, data }
    }

    /// Looks at `len` bytes of the data that start at word `index`.
    ///
    /// # Panics
    ///
    /// If the range leaves the data.
    #[cfg(not(loom))]
    #[must_use]
    pub(crate) fn own(&self, index: usize, len: usize) -> &[u8] {
        self.data.check(index, len);
        // SAFETY: range checked (M3), mapped for the borrow's life (M1). Only this value changes the bytes (M6), and
        // only through `&mut self`.
        unsafe { std::slice::from_raw_parts(self.data.0.base.add(index).as_ptr().cast(), len) }
    }

    /// Lends `len` bytes of the data that start at word `index` to be filled in place.
    ///
    /// # Panics
    ///
    /// If the range leaves the data.
    #[cfg(not(loom))]
    #[must_use]
    pub(crate) fn lend(&mut self, index: usize, len: usize) -> &mut [u8] {
        self.data.check(index, len);
        // SAFETY: range checked (M3), mapped for the borrow's life (M1). No other safe call reaches these bytes (M6):
        // this value lends through `&mut self` only. Readers have mappings of their own, read by the racing copy, and
        // discard what the overwrite mark covers.
        unsafe { std::slice::from_raw_parts_mut(self.data.0.base.add(index).as_ptr().cast(), len) }
    }
}

#[cfg(all(test, loom))]
impl WriterWords {
    /// Lends `len` bytes of the data that start at word `index`, as a model does.
    pub(crate) fn lend(&mut self, index: usize, len: usize) -> crate::lent::Loan<'_> {
        self.data.check(index, len);
        let Words { cells, places, .. } = &self.data.0;
        crate::lent::Loan::new(cells, places.as_ref().expect("words that may be lent"), index, len)
    }
}

/// The same bytes as a destination for [`Words::copy_out`], which only ever writes initialised bytes.
#[inline(always)]
pub(crate) fn as_uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: `MaybeUninit<u8>` has the layout of `u8`, and the only user writes nothing uninitialised into it.
    unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Every load before it has its data before any load behind it begins.
#[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
#[inline(always)]
fn asm_load_fence() {
    // SAFETY: orders; touches nothing.
    unsafe { std::arch::asm!("lfence", options(nostack, preserves_flags)) };
}

/// Copies `len` bytes between shared and private memory without the compiler's knowledge of what is racing, from
/// `microcode` bytes on by the processor's own string move.
///
/// # Safety
///
/// Both ranges are mapped; the private one is exclusive to the caller; they do not overlap.
#[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
#[inline(always)]
unsafe fn asm_copy(from: *const u8, to: *mut u8, len: usize, microcode: usize) {
    use std::arch::asm;
    // From this size on the widest vectors pay for the call and for asking which there are.
    const WIDE: usize = 256;
    let mut done = 0;
    // SAFETY: the caller's ranges; each block moves bytes inside `0..len` only.
    unsafe {
        if len >= microcode {
            asm!(
                "rep movsb",
                inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _,
                options(nostack, preserves_flags)
            );
            return;
        }
        if len >= WIDE {
            done = asm_copy_wide(from, to, len);
        }
        while len - done >= 64 {
            asm!(
                // Loads of eight bytes: what wrote the source just before were often stores of words, from which the
                // processor cannot forward to a wider load.
                "movq {a}, [{f}]", "movhps {a}, [{f} + 8]", "movq {b}, [{f} + 16]", "movhps {b}, [{f} + 24]",
                "movq {c}, [{f} + 32]", "movhps {c}, [{f} + 40]", "movq {d}, [{f} + 48]", "movhps {d}, [{f} + 56]",
                "movups [{t}], {a}", "movups [{t} + 16], {b}", "movups [{t} + 32], {c}", "movups [{t} + 48], {d}",
                f = in(reg) from.add(done), t = in(reg) to.add(done),
                a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
                options(nostack, preserves_flags)
            );
            done += 64;
        }
        while len - done >= 8 {
            asm!(
                "mov {w}, [{f}]", "mov [{t}], {w}",
                f = in(reg) from.add(done), t = in(reg) to.add(done), w = out(reg) _,
                options(nostack, preserves_flags)
            );
            done += 8;
        }
        while done < len {
            asm!(
                "mov {w}, [{f}]", "mov [{t}], {w}",
                f = in(reg) from.add(done), t = in(reg) to.add(done), w = out(reg_byte) _,
                options(nostack, preserves_flags)
            );
            done += 1;
        }
    }
}

/// Copies whole blocks of 256 bytes with the widest vectors that this processor has; returns how many bytes that were.
///
/// # Safety
///
/// As for [`asm_copy`].
#[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
unsafe fn asm_copy_wide(from: *const u8, to: *mut u8, len: usize) -> usize {
    let blocks = len & !255;
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it; the caller's ranges.
        unsafe { copy_avx512(from, to, blocks) };
    } else if is_x86_feature_detected!("avx") {
        // SAFETY: as above.
        unsafe { copy_avx(from, to, blocks) };
    } else {
        return 0;
    }
    blocks
}

/// # Safety
///
/// `len` is a multiple of 256 and not 0; the processor has AVX-512.
#[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
#[target_feature(enable = "avx512f")]
unsafe fn copy_avx512(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: moves bytes inside `0..len` only.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovups zmm16, [{f} + {i}]", "vmovups zmm17, [{f} + {i} + 64]",
            "vmovups zmm18, [{f} + {i} + 128]", "vmovups zmm19, [{f} + {i} + 192]",
            "vmovups [{t} + {i}], zmm16", "vmovups [{t} + {i} + 64], zmm17",
            "vmovups [{t} + {i} + 128], zmm18", "vmovups [{t} + {i} + 192], zmm19",
            "add {i}, 256", "cmp {i}, {len}", "jb 2b",
            f = in(reg) from, t = in(reg) to, len = in(reg) len, i = inout(reg) 0_usize => _,
            // The upper sixteen registers need no `vzeroupper`: legacy SSE code cannot name them.
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            options(nostack)
        );
    }
}

/// # Safety
///
/// `len` is a multiple of 256 and not 0; the processor has AVX.
#[cfg(all(target_arch = "x86_64", not(loom), not(ginnel_atomic_copy)))]
#[target_feature(enable = "avx")]
unsafe fn copy_avx(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: moves bytes inside `0..len` only.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovups ymm0, [{f} + {i}]", "vmovups ymm1, [{f} + {i} + 32]",
            "vmovups ymm2, [{f} + {i} + 64]", "vmovups ymm3, [{f} + {i} + 96]",
            "vmovups [{t} + {i}], ymm0", "vmovups [{t} + {i} + 32], ymm1",
            "vmovups [{t} + {i} + 64], ymm2", "vmovups [{t} + {i} + 96], ymm3",
            "sub {i}, -128", "cmp {i}, {len}", "jb 2b", "vzeroupper",
            f = in(reg) from, t = in(reg) to, len = in(reg) len, i = inout(reg) 0_usize => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _,
            out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack)
        );
    }
}
