//! A quick no for lookups by name: most headers of most exchanges are in none of our tables.
//!
//! A 256-bit set over a cheap hash of length, first and last byte, made at compile time. About one in four foreign
//! names passes and is then looked up in earnest.
//!
//! Invariant: never a no for a name that it was made of.

/// The set of one table's names.
pub(super) struct Filter([u64; 4]);

impl Filter {
    pub(super) const fn none() -> Self {
        Self([0; 4])
    }

    pub(super) const fn with(mut self, name: &str) -> Self {
        let slot = slot(name.as_bytes());
        self.0[slot / 64] |= 1 << (slot % 64);
        self
    }

    pub(super) fn may_hold(&self, name: &[u8]) -> bool {
        let slot = slot(name);
        self.0[slot / 64] >> (slot % 64) & 1 == 1
    }
}

const fn slot(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    (name.len() * 37 + name[0] as usize * 11 + name[name.len() - 1] as usize * 5) % 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_it_was_made_of_and_not_everything() {
        const NAMES: [&str; 4] = ["", "authorization", "x-api-key", "a"];
        let filter = NAMES
            .iter()
            .fold(Filter::none(), |filter, name| filter.with(name));
        assert!(NAMES.iter().all(|name| filter.may_hold(name.as_bytes())));
        assert!((0..100).any(|len| !filter.may_hold("b".repeat(len).as_bytes())));
    }
}
