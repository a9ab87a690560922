//! Arguments and environment as `execve` takes them, in one piece of memory.

use std::ffi::c_char;
use std::ptr;

/// NUL-terminated strings, one after the other.
pub(crate) struct Strings {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Default for Strings {
    /// With room for an ordinary environment.
    fn default() -> Self {
        Strings { bytes: Vec::with_capacity(4096), starts: Vec::with_capacity(64) }
    }
}

impl Strings {
    /// Appends one string, made of parts. False, and nothing is appended, when a part holds a NUL.
    #[must_use]
    pub(crate) fn push(&mut self, parts: &[&[u8]]) -> bool {
        if parts.iter().any(|part| part.contains(&0)) {
            return false;
        }
        self.starts.push(self.bytes.len());
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.bytes.push(0);
        true
    }

    /// Each string without its NUL.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.starts.iter().skip(1).copied().chain([self.bytes.len()]);
        self.starts.iter().zip(ends).map(|(start, end)| &self.bytes[*start..end - 1])
    }

    /// A pointer to each, then null. Good as long as nothing is appended.
    pub(crate) fn pointers(&self) -> Vec<*const c_char> {
        let pointers = self.starts.iter().map(|start| self.bytes[*start..].as_ptr().cast());
        pointers.chain([ptr::null()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn strings_come_back_as_they_went_in() {
        let mut strings = Strings::default();
        assert!(strings.push(&[b"A", b"=", b"b c"]) && strings.push(&[]) && strings.push(&[b"last"]));
        assert!(!strings.push(&[b"fine", b"n\0t"]));
        let wanted: [&[u8]; 3] = [b"A=b c", b"", b"last"];
        assert_eq!(strings.iter().collect::<Vec<_>>(), wanted);
        let pointers = strings.pointers();
        assert!(pointers.len() == 4 && pointers[3].is_null());
        for (pointer, wanted) in pointers.iter().zip(wanted) {
            // SAFETY: each points at a NUL-terminated string of `strings`.
            #[allow(unsafe_code)]
            let text = unsafe { CStr::from_ptr(*pointer) };
            assert_eq!(text.to_bytes(), wanted);
        }
    }
}
