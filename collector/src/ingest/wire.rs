//! Protobuf's fields, one after the other, without making anything of them.
//! <https://protobuf.dev/programming-guides/encoding/>
//!
//! A log record of two bytes becomes hundreds in memory when it is decoded. So requests are walked here, and decoded
//! one record at a time.
//!
//! Invariant: never panics, and ends, whatever the bytes are.

/// The bytes are no protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no protobuf message")]
pub(super) struct Malformed;

/// A field with a length, which messages have; others are skipped.
pub(super) struct Fields<'a>(pub &'a [u8]);

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.0.is_empty() {
            match self.field() {
                Ok(None) => {}
                Ok(Some(field)) => return Some(Ok(field)),
                Err(malformed) => {
                    self.0 = &[];
                    return Some(Err(malformed));
                }
            }
        }
        None
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<Option<(u64, &'a [u8])>, Malformed> {
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return Err(Malformed);
        }
        match tag & 7 {
            VARINT => self.varint().map(|_| None),
            FIXED_64 => self.bytes(8).map(|_| None),
            FIXED_32 => self.bytes(4).map(|_| None),
            LENGTH => {
                let length = self.varint()?;
                self.bytes(length).map(|bytes| Some((number, bytes)))
            }
            // Groups, which nothing has had since 2008.
            _ => Err(Malformed),
        }
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            if shift == 63 && *byte > 1 {
                return Err(Malformed);
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}
