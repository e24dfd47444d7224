//! Mutants of seeds, reproducible by the first number of the generator.

/// Longer mutants are cut.
const LONGEST: usize = 64 << 10;
/// Most changes to one mutant.
const CHANGES: usize = 6;
/// Numbers at which arithmetic goes wrong.
const INTERESTING: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x3fff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

pub struct Mutator<'a> {
    seeds: &'a [Vec<u8>],
    state: u64,
}

impl<'a> Mutator<'a> {
    pub fn new(seed: u64, seeds: &'a [Vec<u8>]) -> Self {
        Self {
            seeds,
            state: seed.max(1),
        }
    }

    /// xorshift64 (Marsaglia, 2003).
    fn number(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// Below `end`; 0 where there is nothing below.
    fn below(&mut self, end: usize) -> usize {
        (self.number() >> 16) as usize % end.max(1)
    }

    fn seed(&mut self) -> &'a [u8] {
        let at = self.below(self.seeds.len());
        &self.seeds[at]
    }

    /// A part of `data`, mostly a short one.
    fn part<'b>(&mut self, data: &'b [u8]) -> &'b [u8] {
        let from = self.below(data.len());
        let most = if self.below(4) == 0 { data.len() } else { 32 };
        let len = self.below(most.min(data.len() - from) + 1);
        &data[from..from + len]
    }

    pub fn next(&mut self) -> Vec<u8> {
        let mut data = self.seed().to_vec();
        for _ in 0..=self.below(CHANGES) {
            self.change(&mut data);
        }
        data.truncate(LONGEST);
        data
    }

    fn change(&mut self, data: &mut Vec<u8>) {
        let at = self.below(data.len() + 1);
        match self.below(9) {
            0 => {
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = data.get_mut(at) {
                    *byte = self.number() as u8;
                }
            }
            2 => data.truncate(at),
            3 => {
                let end = (at + self.below(32)).min(data.len());
                data.drain(at..end);
            }
            // Twice, here or elsewhere.
            4 => {
                let part = self.part(data).to_vec();
                data.splice(at..at, part);
            }
            5 => {
                let other = self.seed();
                let part = self.part(other).to_vec();
                data.splice(at..at, part);
            }
            6 => {
                let other = self.seed();
                let from = self.below(other.len());
                data.truncate(at);
                data.extend(&other[from..]);
            }
            7 => {
                let number = INTERESTING[self.below(INTERESTING.len())];
                let width = 1 << self.below(4);
                let bytes = match self.below(2) {
                    0 => number.to_le_bytes()[..width].to_vec(),
                    _ => number.to_be_bytes()[8 - width..].to_vec(),
                };
                let end = (at + width).min(data.len());
                data.splice(at..end, bytes);
            }
            _ => {
                let byte = self.number() as u8;
                let count = self.below(64);
                data.splice(at..at, std::iter::repeat_n(byte, count));
            }
        }
    }
}
