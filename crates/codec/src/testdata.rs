// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inputs for tests, made from a seed: the kinds of data files consist of.

/// SplitMix64: small, and the same on every machine.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// A kind of content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Words of a small vocabulary with punctuation.
    Text,
    /// Little-endian records with slowly changing fields between runs of zeros.
    Binary,
    /// No structure at all.
    Random,
    /// Zeros.
    Zero,
    /// One short pattern, again and again.
    Repetitive,
    /// Stretches of all of these.
    Mixed,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] =
        [Self::Text, Self::Binary, Self::Random, Self::Zero, Self::Repetitive, Self::Mixed];

    /// `len` bytes of this kind.
    pub(crate) fn bytes(self, len: usize, seed: u64) -> Vec<u8> {
        let mut random = Random::new(seed);
        let mut bytes = Vec::with_capacity(len + 64);
        while bytes.len() < len {
            match self {
                Self::Text => text(&mut random, &mut bytes),
                Self::Binary => binary(&mut random, &mut bytes),
                Self::Random => bytes.extend(random.next().to_le_bytes()),
                Self::Zero => bytes.resize(len, 0),
                Self::Repetitive => bytes.extend(b"all work and no play "),
                Self::Mixed => {
                    let part = 1 + random.below(40_000);
                    let kind = Self::ALL[random.below(5)];
                    bytes.extend(kind.bytes(part, random.next()));
                }
            }
        }
        bytes.truncate(len);
        bytes
    }
}

fn text(random: &mut Random, bytes: &mut Vec<u8>) {
    // Squared, so that some words are frequent and others rare.
    let rank = random.below(64) * random.below(64);
    let mut letters = Random::new(rank as u64);
    for _ in 0..=letters.below(9) {
        bytes.push(b'a' + letters.below(26) as u8);
    }
    bytes.extend(
        match random.below(12) {
            0 => ".\n",
            1 => ", ",
            _ => " ",
        }
        .bytes(),
    );
}

fn binary(random: &mut Random, bytes: &mut Vec<u8>) {
    let position = bytes.len() as u32;
    bytes.extend(position.to_le_bytes());
    bytes.extend((random.below(300) as u16).to_le_bytes());
    bytes.extend([0x48, 0x8B, 0x05 + (random.below(4) as u8) * 8]);
    bytes.extend((random.below(1 << 20) as u32).to_le_bytes());
    bytes.resize(bytes.len() + random.below(12), 0);
}
