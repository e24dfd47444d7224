//! rustls 0.23: every secret goes to the configuration's `KeyLog`, an object whose methods are called indirectly. The
//! functions behind are folded with others, so the points are the calls:
//!
//! - TLS 1.2: the call of `log` that follows the address of `CLIENT_RANDOM`, with label, client random and master
//!   secret as its arguments.
//! - TLS 1.3: `will_log(label)` comes first, and nobody who does not log lets the call of `log` follow. The point is
//!   the call of `will_log`, which a test of its answer follows; a run of the branch that would log says where label,
//!   client random and secret already lie. The label stands in the code, or in a table that the code takes.
//!
//! Trait objects' methods get `self`, then in `rsi`, `rdx`, `rcx`, `r8`, `r9` and on the stack: address and length of
//! the label, of the client random (32 bytes), of the secret.

use super::Search;
use crate::kernel::keylog::code::Decoding;
use crate::kernel::keylog::elf::{Elf, Kind};
use crate::kernel::keylog::finder::{
    How, Library, LookError, Point, PointKind, Unread, UnreadReason,
};
use crate::kernel::keylog::places::{LabelPlace, Place, Places, Register as In};
use crate::kernel::keylog::scan::Part;
use crate::kernel::keylog::symbolic::{self, Value};
use iced_x86::{FlowControl, Mnemonic, Register};
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
    let targets: Vec<u64> = targets.into_iter().collect();
    let immediates = search.elf.kind() == Kind::Fixed;
    let references = search.scanner.references(&targets, immediates)?;

    let mut decoding = Decoding::new(search.elf);
    let mut found = BTreeMap::new();
    for reference in references {
        if found.len() >= POINTS || !decoding.takes(reference.address, reference.target)? {
            continue;
        }
        if let Some((address, places)) = call(&mut decoding, reference.address)?
            && let Some(file_offset) = search.elf.offset_of(address)
        {
            found.entry(address).or_insert(Point {
                kind: PointKind::Placed(places),
                file_offset,
                virtual_address: address,
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
            version,
            reason: UnreadReason::NotFound,
        });
    }
    search.found.points.extend(found.into_values());
    Ok(())
}

/// Checks a point found earlier, in a file said to be the same.
pub(super) fn check(elf: &Elf<'_>, point: &Point) -> io::Result<bool> {
    let How::CallSite { reference, target } = point.how else {
        return Ok(false);
    };
    let mut decoding = Decoding::new(elf);
    if !decoding.takes(reference, target)?
        || elf.offset_of(point.virtual_address) != Some(point.file_offset)
    {
        return Ok(false);
    }
    let again = call(&mut decoding, reference)?;
    Ok(again.is_some_and(|(address, places)| {
        address == point.virtual_address && PointKind::Placed(places) == point.kind
    }))
}

/// Addresses of the labels, which in Rust stand in the middle of other text.
fn labels(search: &mut Search<'_>) -> Result<BTreeSet<u64>, LookError> {
    let mut labels = BTreeSet::new();
    for label in LABELS {
        for hit in search.standing(label.as_bytes())? {
            labels.extend(search.elf.addresses_of(hit));
        }
    }
    Ok(labels)
}

/// Addresses of pointers to labels.
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

/// The call that follows the taking of a label's address, and where it has what is wanted.
fn call(decoding: &mut Decoding<'_>, reference: u64) -> io::Result<Option<(u64, Places)>> {
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
                    return Ok(Some((instruction.ip(), places)));
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
