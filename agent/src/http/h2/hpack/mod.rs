//! Header blocks to fields (RFC 7541), also on a connection that was joined late.
//!
//! Kept decoders refuse a connection whose table they have not seen from the start, so this one is ours. Indices that
//! cannot be resolved are left out of the fields and counted; nothing is guessed.
//!
//! Invariant: every block is decoded to its end, whatever of it is kept, because it changes the table.
//! Invariant: names and values are wiped when they are dropped.

mod huffman;
mod table;
#[cfg(test)]
mod tests;

use crate::flow::Payload;
use crate::http::buffer::SecretBuffer;
use std::ops::Range;
use table::{Found, Table, Text};

/// A block that is none, or that refers to what cannot be there: what follows on the connection cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoBlock;

/// Largest number in a block; a length or an index beyond it is no block of ours.
const LARGEST: usize = 1 << 24;

#[derive(Default)]
pub(super) struct Decoder {
    table: Table,
}

/// A decoded block.
#[derive(Default)]
pub(super) struct Fields {
    block: SecretBuffer,
    places: Vec<(Range<usize>, Range<usize>)>,
    /// Fields of which the name or the value is not known.
    pub unresolved: usize,
    /// Fields beyond the limits.
    pub left_out: usize,
}

impl Fields {
    /// Names and values in order, pseudo-header fields too.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.places
            .iter()
            .map(|(name, value)| (&self.block[name.clone()], &self.block[value.clone()]))
    }

    /// Bytes of all names and values.
    pub fn len(&self) -> usize {
        self.block.len()
    }

    /// The value of a pseudo-header field, with its colon.
    pub fn pseudo(&self, name: &str) -> Option<&[u8]> {
        self.iter()
            .find(|(found, _)| *found == name.as_bytes())
            .map(|(_, value)| value)
    }

    fn push(&mut self, name: &[u8], value: &[u8], most: Most) {
        let len = self.block.len();
        if self.places.len() >= most.fields || len + name.len() + value.len() > most.bytes {
            self.left_out += 1;
            return;
        }
        self.block.append(name);
        self.block.append(value);
        let middle = len + name.len();
        self.places
            .push((len..middle, middle..middle + value.len()));
    }

    fn push_text(&mut self, name: &Text, value: &Text, most: Most) {
        match (name, value) {
            (Some(name), Some(value)) => self.push(name, value, most),
            _ => self.unresolved += 1,
        }
    }
}

/// What is kept of a block.
#[derive(Clone, Copy)]
pub(super) struct Most {
    pub fields: usize,
    pub bytes: usize,
}

impl Decoder {
    /// Blocks before this one were not seen.
    pub fn forget(&mut self) {
        self.table.forget();
    }

    /// # Errors
    /// The block is none. The table is of no use after that: [`Self::forget`].
    pub fn decode(&mut self, block: &[u8], most: Most) -> Result<Fields, NoBlock> {
        let mut fields = Fields::default();
        let mut rest = block;
        while let Some(first) = rest.first() {
            match *first {
                // Section 6.1: an indexed field.
                0x80.. => match self.table.get(number(&mut rest, 7)?) {
                    Found::Static(name, value) => {
                        fields.push(name.as_bytes(), value.as_bytes(), most);
                    }
                    Found::Dynamic((name, value)) => fields.push_text(name, value, most),
                    Found::Unresolved => fields.unresolved += 1,
                    Found::Nothing => return Err(NoBlock),
                },
                // Section 6.2.1: a literal that is inserted.
                0x40.. => {
                    let (name, value) = self.literal(&mut rest, 6)?;
                    fields.push_text(&name, &value, most);
                    self.table.insert(name, value);
                }
                // Section 6.3: the table's size, which changes no index that is used.
                0x20.. => {
                    number(&mut rest, 5)?;
                }
                // Sections 6.2.2 and 6.2.3: literals that are not.
                _ => {
                    let (name, value) = self.literal(&mut rest, 4)?;
                    fields.push_text(&name, &value, most);
                }
            }
        }
        Ok(fields)
    }

    fn literal(&self, rest: &mut &[u8], prefix: u32) -> Result<(Text, Text), NoBlock> {
        let name = match number(rest, prefix)? {
            0 => Some(string(rest)?),
            index => match self.table.get(index) {
                Found::Static(name, _) => Some(Payload::copy_from(name.as_bytes())),
                Found::Dynamic((name, _)) => name.clone(),
                Found::Unresolved => None,
                Found::Nothing => return Err(NoBlock),
            },
        };
        Ok((name, Some(string(rest)?)))
    }
}

/// An integer with a prefix of so many bits (section 5.1).
fn number(rest: &mut &[u8], prefix: u32) -> Result<usize, NoBlock> {
    let mask = (1 << prefix) - 1;
    let mut number = usize::from(byte(rest)?) & mask;
    if number < mask {
        return Ok(number);
    }
    let mut shift = 0;
    loop {
        let next = byte(rest)?;
        number += usize::from(next & 0x7f) << shift;
        shift += 7;
        if number > LARGEST || shift > 28 {
            return Err(NoBlock);
        }
        if next & 0x80 == 0 {
            return Ok(number);
        }
    }
}

/// A string literal (section 5.2).
fn string(rest: &mut &[u8]) -> Result<Payload, NoBlock> {
    let coded = rest.first().ok_or(NoBlock)? & 0x80 != 0;
    let len = number(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(len).ok_or(NoBlock)?;
    *rest = after;
    if !coded {
        return Ok(Payload::copy_from(bytes));
    }
    let mut plain = SecretBuffer::default();
    huffman::decode(bytes, &mut plain).ok_or(NoBlock)?;
    Ok(plain.take())
}

fn byte(rest: &mut &[u8]) -> Result<u8, NoBlock> {
    let (byte, after) = rest.split_first().ok_or(NoBlock)?;
    *rest = after;
    Ok(*byte)
}
