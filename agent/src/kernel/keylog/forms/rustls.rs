//! rustls 0.23: every secret goes to the configuration's `KeyLog`, an object whose methods are called indirectly. The
//! functions behind are folded with others, so the points are the calls:
//!
//! - TLS 1.2: the call of `log` that follows the address of `CLIENT_RANDOM`, with label, client random and master
//!   secret as its arguments.
//! - TLS 1.3: `will_log(label)` comes first, and nobody who does not log lets the call of `log` follow. The point is
//!   the call of `will_log`, which a test of its answer follows; a run of the branch that would log says where label,
//!   client random and secret already lie. The label stands in the code, or in a table that the code takes.
//!
//! There are more of these calls than breakpoints that may be taken of a program:
//!
//! - TLS 1.2 makes its keys in one function, whoever began and whoever logs: where that is compiled once, the call with the
//!   label "key expansion" is the point, and it has the master secret (RFC 5246, section 6.3).
//! - Where it is compiled into more places, the calls of `log`, which read its address in a table, are told by that word
//!   ([`super::rustls_tables`]).
//! - Where both secrets of application data are made in one function, the first is still on its stack when the second is
//!   passed: that call stands for both.
//!
//! Trait objects' methods get `self`, then in `rsi`, `rdx`, `rcx`, `r8`, `r9` and on the stack: address and length of
//! the label, of the client random (32 bytes), of the secret.

use super::Search;
use super::rustls_tables::{self, NAMES, Table};
use crate::kernel::keylog::code::Decoding;
use crate::kernel::keylog::elf::{Elf, Kind};
use crate::kernel::keylog::finder::{
    How, Library, LookError, Passes, Point, PointKind, Unread, UnreadReason,
};
use crate::kernel::keylog::places::{LabelPlace, Place, Places, Register as In};
use crate::kernel::keylog::scan::Part;
use crate::kernel::keylog::symbolic::{self, Value};
use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Source paths in panic messages, and the text of `rustls::Error`.
const MARKS: [&[u8]; 2] = [b"/rustls-0.", b"received corrupt message of type "];
const VERSION: &[u8] = b"/rustls-";
const MASTER: &str = "CLIENT_RANDOM";
const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";
const LABELS: [&str; 6] = [
    MASTER,
    "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
    "SERVER_HANDSHAKE_TRAFFIC_SECRET",
    CLIENT,
    SERVER,
    "CLIENT_EARLY_TRAFFIC_SECRET",
];
/// What TLS 1.2 makes keys with.
const EXPANSION: &[u8] = b"key expansion";
pub(super) const TEXTS: [&[u8]; 10] = [
    EXPANSION,
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
/// Farthest that two calls of one function are from one another.
const NEAR: u64 = 2048;
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
    let texts: BTreeSet<u64> = labels.keys().copied().collect();
    let mut names = standing(search, &NAMES)?;
    names.extend(pointers(search, &names)?);
    let expansion = standing(search, &[EXPANSION])?;
    let mut targets: BTreeSet<u64> = texts.union(&names).copied().collect();
    targets.extend(&expansion);
    for pointer in pointers(search, &texts)? {
        targets.extend((0..TABLE).filter_map(|before| pointer.checked_sub(8 * before)));
    }
    let targets: Vec<u64> = targets.into_iter().collect();
    let immediates = search.elf.kind() == Kind::Fixed;
    let references = search.scanner.references(&targets, immediates)?;

    let mut decoding = Decoding::new(search.elf);
    let mut found = BTreeMap::new();
    let mut naming = Vec::new();
    let mut slots = Vec::new();
    let mut expansions = Vec::new();
    for reference in references {
        if expansion.contains(&reference.target) {
            expansions.extend(expands(&mut decoding, reference.address, reference.target)?);
            continue;
        }
        if names.contains(&reference.target) {
            naming.push(reference.address);
            continue;
        }
        if found.len() >= POINTS || !decoding.takes(reference.address, reference.target)? {
            continue;
        }
        if let Some(call) = call(&mut decoding, reference.address)?
            && let Some(file_offset) = search.elf.offset_of(call.address)
        {
            let passes = call.passes(&labels, reference.target);
            if passes == Passes::Master {
                slots.push(call.slot);
            }
            found.entry(call.address).or_insert(Point {
                kind: PointKind::Placed(call.places),
                file_offset,
                virtual_address: call.address,
                word: None,
                also: None,
                library: Library::Rustls,
                version: version.clone(),
                how: How::CallSite {
                    reference: reference.address,
                    target: reference.target,
                    passes,
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
    if let [(reference, target, address)] = expansions[..] {
        // Calls of `log` pass nothing more.
        for point in found.values_mut() {
            point.chosen = passes(point) != Some(Passes::Master);
        }
        search
            .found
            .points
            .extend(search.elf.offset_of(address).map(|file_offset| Point {
                kind: PointKind::Placed(KEYS),
                file_offset,
                virtual_address: address,
                word: None,
                also: None,
                library: Library::Rustls,
                version: version.clone(),
                how: How::CallSite {
                    reference,
                    target,
                    passes: Passes::Master,
                },
                chosen: true,
            }));
    } else if let Some(log) = same(&slots) {
        naming.sort_unstable();
        for table in rustls_tables::tables(search, log, &naming)? {
            let point = watched(search.elf, table, version.as_ref());
            search.found.points.extend(point);
        }
    }
    let mut found: Vec<Point> = found.into_values().collect();
    stand_for_both(&mut found);
    leave_out_others(&mut found);
    search.found.points.extend(found);
    Ok(())
}

/// How far into the table all calls of `log` read where to go, if they all do, and at the same place.
fn same(slots: &[Option<u64>]) -> Option<u64> {
    let first = (*slots.first()?)?;
    slots
        .iter()
        .all(|slot| *slot == Some(first))
        .then_some(first)
}

/// What the function for keys of TLS 1.2 gets (`Prf::for_secret`, rustls/src/crypto/tls12.rs), at its call: `self`, then
/// address and length of the output, the secret, the label and the seed, which is both randoms, the server's first.
const KEYS: Places = Places {
    label: LabelPlace::Master,
    secret: Place::In(In::Rcx),
    length: Place::In(In::R8),
    client_random: Some(Place::Past(In::Rsp, 8, 32)),
};

/// The call by a table of methods that gets this label, with the secret's length before it and its own behind: where the
/// label is taken, the label, the call.
fn expands(
    decoding: &mut Decoding<'_>,
    reference: u64,
    target: u64,
) -> io::Result<Option<(u64, u64, u64)>> {
    if !decoding.takes(reference, target)? {
        return Ok(None);
    }
    let Some((address, state)) = symbolic::run(decoding, reference, false)? else {
        return Ok(None);
    };
    let fits = state.register(Register::R9) == Value::Constant(target)
        && state.top() == Value::Constant(EXPANSION.len() as u64)
        // Jumps may have led back.
        && address.wrapping_sub(reference) < NEAR;
    Ok(fits.then_some((reference, target, address)))
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

fn watched(elf: &Elf<'_>, table: Table, version: Option<&String>) -> Option<Point> {
    Some(Point {
        kind: PointKind::Placed(LOG),
        file_offset: elf.offset_of(table.log)?,
        virtual_address: table.log,
        word: Some(table.word.wrapping_sub(table.log).cast_signed()),
        also: None,
        library: Library::Rustls,
        version: version.cloned(),
        how: How::MethodTable { all: table.will },
        chosen: true,
    })
}

/// Lets the second of two calls in one function, which pass the secrets of application data, stand for both. The points
/// are in the order of their addresses.
fn stand_for_both(points: &mut [Point]) {
    for second in 1..points.len() {
        let (before, after) = points.split_at_mut(second);
        let (Some(first), Some(second)) = (before.last_mut(), after.first_mut()) else {
            continue;
        };
        let label = match (passes(first), passes(second)) {
            (Some(Passes::Client), Some(Passes::Server)) => LabelPlace::Client,
            (Some(Passes::Server), Some(Passes::Client)) => LabelPlace::Server,
            _ => continue,
        };
        let (PointKind::Placed(early), PointKind::Placed(late)) = (first.kind, second.kind) else {
            continue;
        };
        let is_near = second.virtual_address - first.virtual_address < NEAR;
        if is_near && is_on_stack(&early) && early.secret != late.secret && first.also.is_none() {
            first.chosen = false;
            second.also = Some(Places { label, ..early });
        }
    }
}

/// The secrets of handshakes, exporters and early data open nothing that is wanted where those of application data pass.
fn leave_out_others(points: &mut [Point]) {
    let is_wanted = |point: &Point| {
        let passes = passes(point);
        passes.is_some_and(|passes| matches!(passes, Passes::All | Passes::Client | Passes::Server))
    };
    if points.iter().any(is_wanted) {
        let others = points.iter_mut();
        for other in others.filter(|point| passes(point) == Some(Passes::Other)) {
            other.chosen = false;
        }
    }
}

fn passes(point: &Point) -> Option<Passes> {
    match point.how {
        How::CallSite { passes, .. } => Some(passes),
        _ => None,
    }
}

/// Whether the secret is where it stays until its function returns.
fn is_on_stack(places: &Places) -> bool {
    matches!(places.secret, Place::Sum(In::Rsp | In::Rbp, _))
        && matches!(places.length, Place::At(In::Rsp | In::Rbp, _))
}

/// Checks a point found earlier, in a file said to be the same.
pub(super) fn check(elf: &Elf<'_>, point: &Point) -> io::Result<bool> {
    let (reference, target) = match point.how {
        How::CallSite {
            reference, target, ..
        } => (reference, target),
        // Its build id is the reason to believe that the table is where it was.
        How::MethodTable { .. } => {
            return Ok(point.kind == PointKind::Placed(LOG) && elf.is_code(point.virtual_address));
        }
        _ => return Ok(false),
    };
    let mut decoding = Decoding::new(elf);
    if !decoding.takes(reference, target)?
        || elf.offset_of(point.virtual_address) != Some(point.file_offset)
    {
        return Ok(false);
    }
    if point.kind == PointKind::Placed(KEYS) {
        let again = expands(&mut decoding, reference, target)?;
        return Ok(again == Some((reference, target, point.virtual_address)));
    }
    let again = call(&mut decoding, reference)?;
    Ok(again.is_some_and(|call| {
        call.address == point.virtual_address && PointKind::Placed(call.places) == point.kind
    }))
}

/// Addresses of the labels, which in Rust stand in the middle of other text.
fn labels(search: &mut Search<'_>) -> Result<BTreeMap<u64, &'static str>, LookError> {
    let mut labels = BTreeMap::new();
    for label in LABELS {
        let standing = standing(search, &[label.as_bytes()])?;
        labels.extend(standing.into_iter().map(|address| (address, label)));
    }
    Ok(labels)
}

/// Addresses of these texts.
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

/// Which addresses registers hold, straight on from an instruction.
#[derive(Default)]
struct Constants([Option<u64>; 16]);

impl Constants {
    fn of(&self, register: Register) -> Option<u64> {
        *self.0.get(register.full_register().number())?
    }

    fn step(&mut self, decoding: &mut Decoding<'_>, instruction: &Instruction) {
        let value = match instruction.code() {
            Code::Lea_r64_m if instruction.is_ip_rel_memory_operand() => {
                Some(instruction.ip_rel_memory_address())
            }
            Code::Mov_r32_imm32 => Some(instruction.immediate(1)),
            Code::Mov_r64_rm64 | Code::Mov_rm64_r64 if instruction.op1_register().is_gpr64() => {
                self.of(instruction.op1_register())
            }
            _ => None,
        };
        for register in decoding.written(instruction) {
            if let Some(held) = self.0.get_mut(register.number()) {
                *held = value;
            }
        }
    }

    /// What a call leaves.
    fn called(&mut self) {
        for (number, held) in self.0.iter_mut().enumerate() {
            if !symbolic::is_kept(Register::RAX + number as u32) {
                *held = None;
            }
        }
    }
}

/// A call of a method of `KeyLog`.
#[derive(Clone, Copy, Debug)]
struct Call {
    address: u64,
    /// Where it has what is wanted.
    places: Places,
    /// How far into the table of methods it reads where to go; `None`: that was read before.
    slot: Option<u64>,
    /// Address of the label, if it is one and the same.
    label: Option<u64>,
}

impl Call {
    fn new(instruction: &Instruction, places: Places, label: Option<u64>) -> Self {
        let reads_it = instruction.op0_kind() == OpKind::Memory
            && instruction.memory_index() == Register::None
            && instruction.memory_base().is_gpr64()
            // Not where it was put aside.
            && instruction.memory_base() != Register::RSP;
        Self {
            address: instruction.ip(),
            places,
            slot: reads_it.then(|| instruction.memory_displacement64()),
            label,
        }
    }

    /// `target`: what the code took that led here, a label or a table of labels.
    fn passes(&self, labels: &BTreeMap<u64, &'static str>, target: u64) -> Passes {
        if self.places.label == LabelPlace::Master {
            return Passes::Master;
        }
        match self.label.map(|label| labels.get(&label)) {
            Some(Some(&CLIENT)) => Passes::Client,
            Some(Some(&SERVER)) => Passes::Server,
            Some(_) => Passes::Other,
            None if labels.contains_key(&target) => Passes::Other,
            None => Passes::All,
        }
    }
}

/// The call that follows the taking of a label's address.
fn call(decoding: &mut Decoding<'_>, reference: u64) -> io::Result<Option<Call>> {
    let mut address = reference;
    let mut first = true;
    let mut constants = Constants::default();
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
                    return Ok(Some(Call::new(
                        &instruction,
                        places,
                        constants.of(Register::RSI),
                    )));
                }
                first = false;
                constants.called();
            }
            FlowControl::Call => constants.called(),
            _ => constants.step(decoding, &instruction),
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
