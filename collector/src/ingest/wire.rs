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
pub(super) struct Fields<'a>(Walk<'a>);

/// All fields.
pub(super) struct Walk<'a>(pub &'a [u8]);

/// What a field holds, by its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self(Walk(message))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, &'a [u8]), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.0.next_field() {
                Ok(None) => return None,
                Ok(Some((number, Field::Bytes(bytes)))) => return Some(Ok((number, bytes))),
                Ok(Some(_)) => {}
                Err(malformed) => {
                    self.0 = Walk(&[]);
                    return Some(Err(malformed));
                }
            }
        }
    }
}

impl<'a> Walk<'a> {
    /// The next one, with its number; nothing at the end.
    #[inline]
    pub(super) fn next_field(&mut self) -> Result<Option<(u64, Field<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > 0x1fff_ffff {
            return Err(Malformed);
        }
        let field = match tag & 7 {
            VARINT => Field::Varint(self.varint()?),
            FIXED_64 => {
                let mut little = [0; 8];
                little.copy_from_slice(self.bytes(8)?);
                Field::Fixed64(u64::from_le_bytes(little))
            }
            FIXED_32 => {
                self.bytes(4)?;
                Field::Fixed32
            }
            LENGTH => {
                let length = self.varint()?;
                Field::Bytes(self.bytes(length)?)
            }
            // Groups, which nothing has had since 2008.
            _ => return Err(Malformed),
        };
        Ok(Some((number, field)))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly all are of one byte.
        if let Some((byte @ ..0x80, rest)) = self.0.split_first() {
            self.0 = rest;
            return Ok(u64::from(*byte));
        }
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

    #[inline]
    fn bytes(&mut self, length: u64) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(length).map_err(|_| Malformed)?;
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(bytes)
    }
}
