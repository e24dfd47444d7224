//! The tables of methods of rustls's own implementations of `KeyLog` (`dyn KeyLog`'s vtables), in rustls/src/key_log.rs
//! and key_log_file.rs.
//!
//! A call of `log` reads the method's address in its table, whichever of many places the call is made at, and nothing else
//! reads it there: a word stands for all the calls of a program. The method's own code will not do, because linkers fold
//! short functions of one content into one. Nor will the word of `will_log`, which is read once for more than one call.
//!
//! A table is `drop_in_place` (or 0), size, alignment, and then the addresses of the methods: those of `Debug`, which
//! `KeyLog` asks for, then `log` and `will_log`. How far that is into it is what the calls say.
//!
//! - `NoKeyLog`, which is the default: of no size, `log` does nothing and `will_log` says no.
//! - `KeyLogFile`: `will_log` says yes, so that `log` is called of every secret.
//!
//! Both are known by what their `Debug::fmt` writes: their name.
//!
//! Invariant: a wrong guess is harmless: what passes there must prove itself by opening a record.

use super::Search;
use crate::kernel::keylog::code::Decoding;
use crate::kernel::keylog::elf::Elf;
use crate::kernel::keylog::finder::LookError;
use iced_x86::{FlowControl, Instruction, Mnemonic, Register};
use std::io;
use std::ops::ControlFlow;

/// Pointers of one file that are looked at; Chromium has 400,000.
const POINTERS: usize = 2 << 20;
/// Tables of one file.
const TABLES: usize = 8;
/// `drop_in_place`, size and alignment.
const HEAD: u64 = 24;
/// Methods before `log`.
const BEFORE: u64 = 8;
/// Instructions of a method that does nothing, or gives a constant.
const SHORT: usize = 8;
/// From the beginning of `Debug::fmt` to where it takes the name.
const NAMING: u64 = 512;
/// What `Debug` writes.
pub(super) const NAMES: [&[u8]; 2] = [b"NoKeyLog", b"KeyLogFile"];

/// One implementation of `KeyLog`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// Address of the word that holds the address of `log`; that of `will_log` follows.
    pub word: u64,
    pub log: u64,
    /// What `will_log` says.
    pub will: bool,
}

/// The tables of a file in which `log` is `offset` bytes into its table. `naming`: instructions that take the address of one
/// of [`NAMES`], in order.
pub(super) fn tables(
    search: &mut Search<'_>,
    offset: u64,
    naming: &[u64],
) -> Result<Vec<Table>, LookError> {
    let elf = search.elf;
    let pointers = Pointers::of(elf)?;
    search.scanner.in_time()?;
    let mut decoding = Decoding::new(elf);
    let mut found = Vec::new();
    for pair in pointers.0.windows(2) {
        let &[(word, _), (next, _)] = pair else {
            continue;
        };
        if word.checked_add(8) != Some(next) {
            continue;
        }
        if let Some(table) = table(&mut decoding, elf, &pointers, (word, offset), naming)? {
            found.push(table);
            if found.len() == TABLES {
                break;
            }
        }
    }
    Ok(found)
}

fn table(
    decoding: &mut Decoding<'_>,
    elf: &Elf<'_>,
    pointers: &Pointers,
    (word, offset): (u64, u64),
    naming: &[u64],
) -> io::Result<Option<Table>> {
    // Before `log` there is at least one of `Debug`.
    let before = offset.saturating_sub(HEAD) / 8;
    let Some(begin) = word.checked_sub(offset) else {
        return Ok(None);
    };
    if offset % 8 != 0 || !(1..=BEFORE).contains(&before) {
        return Ok(None);
    }
    // A stranger may have written any address into the file.
    let at = |within: u64| begin.wrapping_add(within);
    let method = |number: u64| pointers.at(at(HEAD + 8 * number));
    let (Some(debug), Some(log), Some(will_log)) = (method(0), method(before), method(before + 1))
    else {
        return Ok(None);
    };
    let next = naming.partition_point(|at| *at < debug);
    let is_named = naming.get(next).is_some_and(|at| at - debug < NAMING);
    if !is_named || pointers.at(at(8)).is_some() || pointers.at(at(16)).is_some() {
        return Ok(None);
    }
    if ![debug, log, will_log]
        .iter()
        .all(|method| elf.is_code(*method))
    {
        return Ok(None);
    }
    let Some(will) = constant(decoding, will_log)? else {
        return Ok(None);
    };
    let is_empty = number(elf, at(8))? == Some(0) && number(elf, at(16))? == Some(1);
    let is_it = if will {
        !is_empty
    } else {
        is_empty && does_nothing(decoding, log)?
    };
    Ok(is_it.then_some(Table { word, log, will }))
}

/// Pointers that the loader makes, by their address.
struct Pointers(Vec<(u64, u64)>);

impl Pointers {
    fn of(elf: &Elf<'_>) -> io::Result<Self> {
        let mut all = Vec::new();
        elf.relative_pointers(|at, value| {
            all.push((at, value));
            if all.len() < POINTERS {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        // Linkers sort them, mostly.
        all.sort_unstable();
        Ok(Self(all))
    }

    fn at(&self, address: u64) -> Option<u64> {
        let place = self.0.binary_search_by_key(&address, |(at, _)| *at).ok()?;
        self.0.get(place).map(|(_, value)| *value)
    }
}

fn number(elf: &Elf<'_>, address: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; 8];
    let whole = elf.read(address, &mut bytes)? == bytes.len();
    Ok(whole.then(|| u64::from_le_bytes(bytes)))
}

/// The truth value that a function gives which does nothing else.
fn constant(decoding: &mut Decoding<'_>, entry: u64) -> io::Result<Option<bool>> {
    let mut value = None;
    let is_short = short(decoding, entry, |instruction| {
        let register = instruction.op0_register().full_register();
        if register != Register::RAX {
            return false;
        }
        value = match instruction.mnemonic() {
            Mnemonic::Xor if instruction.op0_register() == instruction.op1_register() => Some(0),
            Mnemonic::Mov => instruction.try_immediate(1).ok(),
            _ => None,
        };
        value.is_some()
    })?;
    Ok(value
        .filter(|value| is_short && *value < 2)
        .map(|value| value == 1))
}

fn does_nothing(decoding: &mut Decoding<'_>, entry: u64) -> io::Result<bool> {
    short(decoding, entry, |_| false)
}

/// Whether a function only makes a frame and returns, but for instructions that `may` be there.
fn short(
    decoding: &mut Decoding<'_>,
    entry: u64,
    mut may: impl FnMut(&Instruction) -> bool,
) -> io::Result<bool> {
    let mut address = entry;
    for _ in 0..SHORT {
        let Some(instruction) = decoding.decode(address)? else {
            return Ok(false);
        };
        address = instruction.next_ip();
        if instruction.flow_control() == FlowControl::Return {
            return Ok(true);
        }
        let is_frame = match instruction.mnemonic() {
            Mnemonic::Endbr64 | Mnemonic::Nop => true,
            Mnemonic::Push | Mnemonic::Pop => instruction.op0_register() == Register::RBP,
            Mnemonic::Mov => {
                instruction.op0_register() == Register::RBP
                    && instruction.op1_register() == Register::RSP
            }
            _ => false,
        };
        if !is_frame && !may(&instruction) {
            return Ok(false);
        }
    }
    Ok(false)
}
