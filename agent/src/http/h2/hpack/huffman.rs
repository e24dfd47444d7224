//! The Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, and begin where those of
//! the shorter length ended. So the lengths alone make the whole table.
//!
//! Invariant: what was decoded is wiped with the buffer that it goes to.

use crate::http::buffer::SecretBuffer;

/// Bits of each symbol's code; the last is the end of string.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5,
    5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6,
    6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22,
    23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22,
    21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20,
    22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19,
    21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22,
    22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const END: u16 = 256;
const SHORTEST: usize = 5;
const LONGEST: usize = 30;

/// Symbols by their codes, and for each length: its first code, how many there are, and where their symbols begin.
struct Table {
    symbols: [u16; 257],
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    place: [u32; LONGEST + 1],
}

static TABLE: Table = table();

const fn table() -> Table {
    let mut table = Table {
        symbols: [0; 257],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        place: [0; LONGEST + 1],
    };
    let (mut code, mut filled, mut length) = (0, 0, 1);
    while length <= LONGEST {
        code <<= 1;
        table.first[length] = code;
        table.place[length] = filled;
        let mut symbol = 0;
        while symbol < LENGTHS.len() {
            if LENGTHS[symbol] as usize == length {
                table.symbols[filled as usize] = symbol as u16;
                filled += 1;
                code += 1;
            }
            symbol += 1;
        }
        table.count[length] = filled - table.place[length];
        length += 1;
    }
    table
}

/// Appends the decoded string; `None` if it is none: an end of string in it, or padding that is not its beginning or
/// is longer than seven bits.
pub(super) fn decode(coded: &[u8], to: &mut SecretBuffer) -> Option<()> {
    // The shortest code has five bits.
    let mut plain = zeroize::Zeroizing::new(Vec::with_capacity(coded.len() * 8 / SHORTEST + 1));
    let (mut bits, mut held) = (0_u64, 0_usize);
    let mut coded = coded.iter();
    loop {
        while held <= 56 {
            let Some(byte) = coded.next() else { break };
            bits = bits << 8 | u64::from(*byte);
            held += 8;
        }
        let Some((symbol, length)) = symbol(bits, held) else {
            break;
        };
        if symbol == END {
            return None;
        }
        plain.push(symbol as u8);
        held -= length;
    }
    let padding = bits & ((1 << held) - 1);
    if held > 7 || padding != (1 << held) - 1 {
        return None;
    }
    to.append(&plain);
    Some(())
}

/// The symbol that the first of the lowest `held` bits make, and how many they are.
fn symbol(bits: u64, held: usize) -> Option<(u16, usize)> {
    (SHORTEST..=LONGEST.min(held)).find_map(|length| {
        let code = (bits >> (held - length)) as u32 & ((1 << length) - 1);
        let within = code.checked_sub(TABLE.first[length])?;
        if within >= TABLE.count[length] {
            return None;
        }
        let place = TABLE.place[length] + within;
        Some((TABLE.symbols[place as usize], length))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
        let mut to = SecretBuffer::default();
        decode(coded, &mut to)?;
        Some(to.to_vec())
    }

    #[test]
    fn as_in_the_rfc() {
        // Appendix C.4.1, C.4.2 and C.6.1.
        for (coded, plain) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            (
                "9d29ad171863c78f0b97c8e9ae82ae43d3",
                "https://www.example.com",
            ),
            ("", ""),
        ] {
            let coded: Vec<u8> = (0..coded.len() / 2)
                .map(|at| u8::from_str_radix(&coded[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            assert_eq!(decoded(&coded).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn refused() {
        // The end of string itself, padding of zeros, eight bits of padding.
        for coded in [
            &[0xff, 0xff, 0xff, 0xff][..],
            &[0b0001_1000],
            &[0b0001_1111, 0xff],
        ] {
            assert_eq!(decoded(coded), None);
        }
        assert_eq!(decoded(&[0b0001_1111]).unwrap(), b"a");
    }
}
