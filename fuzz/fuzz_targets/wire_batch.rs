//! Batch directories: what is accepted can be read item by item, and what is built is accepted.
#![no_main]

use ginnel_wire::{Batch, BatchBuilder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u32, &[u8])| {
    let (count, payload) = input;
    let Ok(batch) = Batch::parse(payload, count) else { return };
    assert_eq!(batch.len(), count as usize);
    // No two items share a byte.
    assert!(batch.iter().map(<[u8]>::len).sum::<usize>() <= payload.len());
    let mut builder = BatchBuilder::new(count as usize / 2);
    for item in batch {
        builder.push(item).unwrap();
    }
    let copy = builder.finish();
    assert!(Batch::parse(&copy, count).unwrap().iter().eq(batch.iter()));
});
