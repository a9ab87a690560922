//! Records that prove themselves: each tells its number and length, and every word of it follows from the number.

/// A small, fast generator (SplitMix64, Steele, Lea and Flood 2014): the tests need spread, not secrecy.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

const HEAD: usize = 16;

/// Makes record `seq`, of a random length up to `max`, in `out`. Most are small, some are as long as it gets.
pub(crate) fn fill(seq: u64, max: usize, out: &mut Vec<u8>) {
    let mut random = Random(seq ^ 0x5eed);
    let limit = match random.below(100) {
        0 => max,
        1..10 => 4096.min(max),
        _ => 256.min(max),
    };
    let len = HEAD + random.below((limit - HEAD + 1) as u64) as usize;
    out.clear();
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&(len as u64).to_le_bytes());
    let mut word = mix(seq);
    while out.len() < len {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let bytes = word.to_le_bytes();
        out.extend_from_slice(&bytes[..bytes.len().min(len - out.len())]);
    }
}

/// The number of a record, after a check that every byte of it is that record's. `scratch` saves an allocation.
pub(crate) fn check(bytes: &[u8], max: usize, scratch: &mut Vec<u8>) -> u64 {
    let seq = u64::from_le_bytes(bytes[..8].try_into().expect("a record has a head"));
    fill(seq, max, scratch);
    assert!(bytes == scratch, "record {seq} is torn: {} bytes, {} expected", bytes.len(), scratch.len());
    seq
}

/// A record of fixed size that proves itself.
pub(crate) type Fixed = [u64; 12];

/// Fixed record `seq`.
pub(crate) fn fixed(seq: u64) -> Fixed {
    std::array::from_fn(|index| if index == 0 { seq } else { mix(seq.wrapping_add(index as u64)) })
}

/// The number of a fixed record, after a check of every word.
pub(crate) fn check_fixed(record: &Fixed) -> u64 {
    assert_eq!(*record, fixed(record[0]), "record {} is torn", record[0]);
    record[0]
}
