//! rustls 0.23: every secret goes to the configuration's `KeyLog`, an object whose methods are called indirectly. The
//! functions behind are folded with others, so the points are the calls:
//!
//! - TLS 1.2: the call of `log` that follows the address of `CLIENT_RANDOM`, with label, client random and master
//!   secret as its arguments.
//! - TLS 1.3: `will_log(label)` comes first, and nobody who does not log lets the call of `log` follow. The point is
//!   the call of `will_log`, which a test of its answer follows; a run of the branch that would log says where label,
//!   client random and secret already lie. The label stands in the code, or in a table that the code takes.
//!
//! Breakpoints are few, and there are more such calls: a program takes one or two for the words that they all read, see
//! [`super::rustls_tables`]. The calls themselves are for uprobes, and for files in which no table is known.
//!
//! Trait objects' methods get `self`, then in `rsi`, `rdx`, `rcx`, `r8`, `r9` and on the stack: address and length of
//! the label, of the client random (32 bytes), of the secret.

use super::Search;
use super::rustls_tables::{self, NAMES, Table};
use crate::kernel::keylog::code::Decoding;
use crate::kernel::keylog::elf::{Elf, Kind};
use crate::kernel::keylog::finder::{
    How, Library, LookError, Point, PointKind, Unread, UnreadReason, Watch,
};
use crate::kernel::keylog::places::{LabelPlace, Place, Places, Register as In};
use crate::kernel::keylog::scan::Part;
use crate::kernel::keylog::symbolic::{self, Value};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Source paths in panic messages, and the text of `rustls::Error`.
const MARKS: [&[u8]; 2] = [b"/rustls-0.", b"received corrupt message of type "];
const VERSION: &[u8] = b"/rustls-";
const MASTER: &str = "CLIENT_RANDOM";
const LABELS: [&str; 6] = [
    MASTER,
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    "CLIENT_TRAFFIC_SECRET_0",
    "SERVER_TRAFFIC_SECRET_0",
    "CLIENT_EARLY_TRAFFIC_SECRET",
];
pub(super) const TEXTS: [&[u8]; 9] = [
    MARKS[0],
    MARKS[1],
    VERSION,
    LABELS[0].as_bytes(),
    LABELS[1].as_bytes(),
    LABELS[2].as_bytes(),
    LABELS[3].as_bytes(),
    LABELS[4].as_bytes(),
    LABELS[5].as_bytes(),
];
/// Entries that a table of labels may have before the first that is known.
const TABLE: u64 = 8;
/// Pointers to labels that are looked at.
const POINTERS: usize = 1024;
/// Points in one file.
const POINTS: usize = 64;
/// Instructions from the address of a label to the call.
const REACH: usize = 70;

pub(super) fn search(search: &mut Search<'_>) -> Result<(), LookError> {
    if search.label_part()?.is_none() {
        return Ok(());
    }
    if search.standing(MARKS[0])?.is_empty() && search.standing(MARKS[1])?.is_empty() {
        return Ok(());
    }
    let version = search.version_after(VERSION)?;
    let labels = labels(search)?;
    let mut targets = labels.clone();
    for pointer in pointers(search, &labels)? {
        targets.extend((0..TABLE).filter_map(|before| pointer.checked_sub(8 * before)));
    }
    let mut names = standing(search, &NAMES)?;
    names.extend(pointers(search, &names)?);
    targets.extend(&names);
    let targets: Vec<u64> = targets.into_iter().collect();
    let immediates = search.elf.kind() == Kind::Fixed;
    let references = search.scanner.references(&targets, immediates)?;

    let mut decoding = Decoding::new(search.elf);
    let mut found = BTreeMap::new();
    let mut naming = BTreeSet::new();
    let mut calls = BTreeMap::new();
    for reference in references {
        if names.contains(&reference.target) {
            naming.insert(reference.address);
            continue;
        }
        if found.len() >= POINTS || !decoding.takes(reference.address, reference.target)? {
            continue;
        }
        if let Some(call) = call(&mut decoding, reference.address)?
            && let Some(file_offset) = search.elf.offset_of(call.address)
        {
            calls.insert(call.address, call);
            found.entry(call.address).or_insert(Point {
                kind: PointKind::Placed(call.places),
                file_offset,
                virtual_address: call.address,
                watch: None,
                library: Library::Rustls,
                version: version.clone(),
                how: How::CallSite {
                    reference: reference.address,
                    target: reference.target,
                },
                chosen: true,
            });
        }
    }
    if found.is_empty() {
        search.found.unread.push(Unread {
            library: Library::Rustls,
            version: version.clone(),
            reason: UnreadReason::NotFound,
        });
    }
    let calls: Vec<Call> = calls.into_values().collect();
    if let Some(will_log) = slot(&calls) {
        let naming: Vec<u64> = naming.into_iter().collect();
        for table in rustls_tables::tables(search, will_log, &naming)? {
            let watched = watched(search.elf, table, &calls, version.as_ref());
            search.found.points.extend(watched);
        }
    }
    search.found.points.extend(found.into_values());
    Ok(())
}

/// How far `will_log` is into its table, if all calls of it say the same, and none has read its address before.
fn slot(calls: &[Call]) -> Option<u64> {
    let mut of_will_log = calls
        .iter()
        .filter(|call| call.places.label != LabelPlace::Master)
        .map(|call| call.slot);
    let slot = of_will_log.next()??;
    of_will_log.all(|other| other == Some(slot)).then_some(slot)
}

/// What `log` gets, at its entry.
const LOG: Places = Places {
    label: LabelPlace::Text {
        address: Place::In(In::Rsi),
        length: Place::In(In::Rdx),
    },
    secret: Place::In(In::R9),
    // Above the address that it returns to.
    length: Place::At(In::Rsp, 8),
    client_random: Some(Place::In(In::Rcx)),
};

/// The points of a table: `log`, and `will_log` where no call of `log` follows.
fn watched(elf: &Elf<'_>, table: Table, calls: &[Call], version: Option<&String>) -> Vec<Point> {
    let point = |method: u64, word: u64, kind, calls| {
        Some(Point {
            kind,
            file_offset: elf.offset_of(method)?,
            virtual_address: method,
            watch: Some(Watch {
                word: word.wrapping_sub(method).cast_signed(),
                calls,
            }),
            library: Library::Rustls,
            version: version.cloned(),
            how: How::MethodTable { all: table.will },
            chosen: true,
        })
    };
    let will_log = table.word + 8;
    let callers = calls
        .iter()
        .filter(|call| call.places.label != LabelPlace::Master)
        // The call has put an address onto the stack.
        .map(|call| {
            (
                call.after.wrapping_sub(will_log).cast_signed(),
                call.places.below(8),
            )
        });
    let log = point(table.log, table.word, PointKind::Placed(LOG), Vec::new());
    let asked = (!table.will)
        .then(|| {
            let callers = callers.collect();
            point(table.will_log, will_log, PointKind::Called, callers)
        })
        .flatten();
    log.into_iter().chain(asked).collect()
}

/// Checks a point found earlier, in a file said to be the same.
pub(super) fn check(elf: &Elf<'_>, point: &Point) -> io::Result<bool> {
    if elf.offset_of(point.virtual_address) != Some(point.file_offset) {
        return Ok(false);
    }
    let mut decoding = Decoding::new(elf);
    let (reference, target) = match point.how {
        How::CallSite { reference, target } => (reference, target),
        // That the calls are where they were is checked of their own points.
        How::MethodTable { all: false } if point.kind == PointKind::Called => {
            return rustls_tables::is_no(&mut decoding, point.virtual_address);
        }
        How::MethodTable { .. } => return Ok(point.kind == PointKind::Placed(LOG)),
        _ => return Ok(false),
    };
    if !decoding.takes(reference, target)? {
        return Ok(false);
    }
    let again = call(&mut decoding, reference)?;
    Ok(again.is_some_and(|call| {
        call.address == point.virtual_address && PointKind::Placed(call.places) == point.kind
    }))
}

/// Addresses of the labels, which in Rust stand in the middle of other text.
fn labels(search: &mut Search<'_>) -> Result<BTreeSet<u64>, LookError> {
    standing(search, &LABELS.map(str::as_bytes))
}

fn standing(search: &mut Search<'_>, texts: &[&'static [u8]]) -> Result<BTreeSet<u64>, LookError> {
    let mut addresses = BTreeSet::new();
    for text in texts {
        for hit in search.standing(text)? {
            addresses.extend(search.elf.addresses_of(hit));
        }
    }
    Ok(addresses)
}

/// Addresses of pointers to these texts.
fn pointers(search: &mut Search<'_>, labels: &BTreeSet<u64>) -> Result<Vec<u64>, LookError> {
    let is_label = |value| labels.contains(&value);
    let mut pointers = search.elf.relative_pointers_to(is_label, POINTERS)?;
    let words: Vec<[u8; 8]> = labels.iter().map(|label| label.to_le_bytes()).collect();
    let words: Vec<&[u8]> = words.iter().map(<[u8; 8]>::as_slice).take(32).collect();
    let hits = search.scanner.strings(Part::Data, &words, false)?.concat();
    let in_place = hits
        .into_iter()
        .flat_map(|hit| search.elf.addresses_of(hit));
    pointers.extend(in_place.take(POINTERS));
    Ok(pointers)
}

/// A call of a method of `KeyLog`.
#[derive(Clone, Copy, Debug)]
struct Call {
    address: u64,
    /// Where it returns to.
    after: u64,
    /// Where it has what is wanted.
    places: Places,
    /// How far into the table of methods it reads where to go; `None`: that was read before.
    slot: Option<u64>,
}

impl Call {
    fn new(instruction: &Instruction, places: Places) -> Self {
        let by_memory = instruction.op0_kind() == OpKind::Memory
            && instruction.memory_index() == Register::None
            && instruction.memory_base().is_gpr64();
        Self {
            address: instruction.ip(),
            after: instruction.next_ip(),
            places,
            slot: by_memory.then(|| instruction.memory_displacement64()),
        }
    }
}

/// The call that follows the taking of a label's address.
fn call(decoding: &mut Decoding<'_>, reference: u64) -> io::Result<Option<Call>> {
    let mut address = reference;
    let mut first = true;
    for _ in 0..REACH {
        let Some(instruction) = decoding.decode(address)? else {
            return Ok(None);
        };
        address = instruction.next_ip();
        match instruction.flow_control() {
            FlowControl::Return | FlowControl::Interrupt | FlowControl::Exception => {
                return Ok(None);
            }
            FlowControl::IndirectCall => {
                let tested = decoding.decode(address)?.is_some_and(|next| {
                    next.mnemonic() == Mnemonic::Test
                        && next.op0_register() == Register::AL
                        && next.op1_register() == Register::AL
                });
                let places = if tested {
                    would_log(decoding, address)?
                } else if first {
                    logs(decoding, reference, instruction.ip())?
                } else {
                    None
                };
                if let Some(places) = places {
                    return Ok(Some(Call::new(&instruction, places)));
                }
                first = false;
            }
            _ => {}
        }
    }
    Ok(None)
}

/// `log(CLIENT_RANDOM, client random, master secret)` itself.
fn logs(decoding: &mut Decoding<'_>, reference: u64, at: u64) -> io::Result<Option<Places>> {
    let Some((address, state)) = symbolic::run(decoding, reference, false)? else {
        return Ok(None);
    };
    let is = |register, constant| match state.register(register) {
        Value::Constant(value) => value == constant,
        // Set before the label was.
        Value::Sum(same, 0) => same == register,
        _ => false,
    };
    let fits = address == at
        && matches!(state.register(Register::RSI), Value::Constant(_))
        && is(Register::RDX, MASTER.len() as u64)
        && is(Register::R8, 32);
    Ok(fits.then_some(Places {
        label: LabelPlace::Master,
        secret: Place::In(In::R9),
        length: Place::At(In::Rsp, 0),
        client_random: Some(Place::In(In::Rcx)),
    }))
}

/// `will_log(label)`, before `start`: where its caller has what it would give to `log`.
fn would_log(decoding: &mut Decoding<'_>, start: u64) -> io::Result<Option<Places>> {
    let Some((_, state)) = symbolic::run(decoding, start, true)? else {
        return Ok(None);
    };
    if state.register(Register::R8) != Value::Constant(32) {
        return Ok(None);
    }
    let place = |value: Value| value.place(symbolic::is_kept);
    let secret = place(state.register(Register::R9));
    let length = place(state.top());
    let random = place(state.register(Register::RCX));
    Ok(secret.zip(length).map(|(secret, length)| Places {
        label: LabelPlace::Text {
            address: Place::In(In::Rsi),
            length: Place::In(In::Rdx),
        },
        secret,
        length,
        client_random: random,
    }))
}
