//! Numbers by chance, the same ones for the same seed on every machine.

/// splitmix64 (<https://prng.di.unimi.it/splitmix64.c>).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// Less than `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// 0 up to and without 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// With this mean; memoryless, as the time between independent requests is.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -(1.0 - self.unit()).ln() * mean
    }

    /// A rank below `ranks` by Zipf's law with exponent 1: rank `r` (from 0) is met about 1/(r+1) as often as the
    /// first. Of the continuous form, whose share of rank `r` is ln((r+2)/(r+1)) / ln(ranks+1).
    pub fn zipf(&mut self, ranks: usize) -> usize {
        let drawn = (ranks as f64 + 1.0).powf(self.unit()) as usize;
        drawn.saturating_sub(1).min(ranks.saturating_sub(1))
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.index(all.len())]
    }

    /// Lower-case hexadecimal digits.
    pub fn hex(&mut self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            text += &format!("{:016x}", self.next());
        }
        text.truncate(digits);
        text
    }
}

/// One number of another, as if by chance.
pub fn mixed(number: u64) -> u64 {
    let mut mixed = number;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        // The reference's first three for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let drawn = [random.next(), random.next(), random.next()];
        assert_eq!(
            drawn,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn ranks_are_met_as_zipfs_law_has_it() {
        let mut random = Random::new(1);
        let ranks = 1_000;
        let drawn = 200_000;
        let mut counts = vec![0_u32; ranks];
        for _ in 0..drawn {
            counts[random.zipf(ranks)] += 1;
        }
        for rank in [0, 1, 2, 9, 99] {
            let share = f64::from(counts[rank]) / f64::from(drawn);
            let due = ((rank + 2) as f64 / (rank + 1) as f64).ln() / (ranks as f64 + 1.0).ln();
            assert!((share / due - 1.0).abs() < 0.15, "{rank}: {share} {due}");
        }
        assert!(counts[ranks - 1] > 0);
    }
}
