//! The header of a shared-memory region: one that is accepted lies within its file.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, [u8; 64])| {
    let (len, header) = input;
    ginnel_session::proto::check_region_header(&header, len as usize);
    // With the constants in place, so that the rest is reached.
    let mut header = header;
    header[..4].copy_from_slice(&0x4e53_484d_u32.to_ne_bytes());
    header[4..6].copy_from_slice(&3u16.to_ne_bytes());
    header[6..8].copy_from_slice(&64u16.to_ne_bytes());
    ginnel_session::proto::check_region_header(&header, len as usize);
});
