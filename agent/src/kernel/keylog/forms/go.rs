//! Go's crypto/tls (1.20 and later): `(*Config).writeKeyLog` gets every secret with its label and the client's random,
//! whether or not anyone logs; `keysFromMasterSecret` gets the master secret of TLS 1.2 also where a session is
//! resumed, which the first does not.
//!
//! Go programs carry a table of all their functions, stripped or not, for tracebacks (`runtime.pcHeader`, "pclntab"; its
//! shape is in `src/runtime/symtab.go` and `src/internal/abi/symtab.go`). What its entries count from stands in the
//! header up to Go 1.25, and in `runtime.moduledata` always, which begins with the table's address. In a
//! position-independent program that is a relocation.
//!
//! Arguments are where Go's internal calling convention has them (`src/cmd/compile/abi-internal.md`): rax, rbx, rcx,
//! rdi, rsi, r8, r9, r10, r11, a string taking two and a slice three.

use super::{Search, is_version_character};
use crate::kernel::keylog::elf::{Elf, le32, le64};
use crate::kernel::keylog::finder::{
    GoFunction, How, Library, LookError, Point, PointKind, Unread, UnreadReason,
};
use crate::kernel::keylog::places::{LabelPlace, Place, Places, Register};
use crate::kernel::keylog::scan::Part;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::{ControlFlow, Range};

/// `0xfffffff1` of Go 1.20 and later, two zeros, instructions of any length, pointers of 8 bytes.
const MAGIC: &[u8] = b"\xf1\xff\xff\xff\0\0\x01\x08";
/// `.go.buildinfo` (debug/buildinfo).
pub(super) const BUILD: &[u8] = b"\xff Go buildinf:";
/// What is looked for in a file.
pub(super) const TEXTS: [&[u8]; 4] = [MAGIC, BUILD, KNOWN[0].0.as_bytes(), KNOWN[1].0.as_bytes()];
/// Bytes of a `pcHeader`.
const HEADER: u64 = 72;
/// Where the names may begin: right behind it since Go 1.26, at a multiple of 32 before.
pub(super) const NAMES: [u64; 2] = [HEADER, 96];
/// Functions in one program. The largest known have about 500,000.
const FUNCTIONS: u64 = 1 << 22;
/// Tables looked at: a program has one, each of its plugins another.
const TABLES: usize = 4;
/// Bytes of the table that are held at a time.
const WINDOW: usize = 64 * 1024;
/// Where `text` stands in `runtime.moduledata`, from Go 1.18 to 1.26.
pub(super) const MODULE_TEXT: u64 = 0xb0;
/// Places looked at that may be a `moduledata`.
const MODULES: usize = 64;

/// The functions' names as the table has them, with the NUL that ends each and the one that ends the name before; and
/// where each has what it passes when it is entered.
pub(super) const KNOWN: [(&str, Places); 2] = [
    (
        // writeKeyLog(c *Config, label string, clientRandom, secret []byte)
        "\0crypto/tls.(*Config).writeKeyLog\0",
        Places {
            label: LabelPlace::Text {
                address: Place::In(Register::Rbx),
                length: Place::In(Register::Rcx),
            },
            secret: Place::In(Register::R9),
            length: Place::In(Register::R10),
            client_random: Some(Place::In(Register::Rdi)),
        },
    ),
    (
        // keysFromMasterSecret(version uint16, suite *cipherSuite, masterSecret, clientRandom, serverRandom []byte, ...)
        "\0crypto/tls.keysFromMasterSecret\0",
        Places {
            label: LabelPlace::Master,
            secret: Place::In(Register::Rcx),
            length: Place::In(Register::Rdi),
            client_random: Some(Place::In(Register::R8)),
        },
    ),
];

pub(super) fn search(search: &mut Search<'_>) -> Result<(), LookError> {
    // crypto/tls has the labels. The magic number of what was built is in every Go program.
    if search.label_part()?.is_none() {
        return Ok(());
    }
    let built = search.standing(BUILD)?;
    if built.is_empty() {
        return Ok(());
    }
    let version = version(search.elf, &built)?;
    let before = search.found.points.len();
    let tables = search.standing(MAGIC)?;
    let addresses: Vec<u64> = tables
        .into_iter()
        .flat_map(|offset| search.elf.addresses_of(offset))
        .collect();
    let tables = addresses
        .into_iter()
        .filter_map(|address| Table::at(search.elf, address).transpose())
        .take(TABLES);
    for table in tables.collect::<io::Result<Vec<_>>>()? {
        let module = module(search, &table)?;
        let names = names(search, &table)?;
        let functions = functions(search, &table, module, &names)?;
        if let Some(text) = text(search.elf, module, &table)? {
            push(search, &table, text, functions, version.as_ref())?;
        }
    }
    if search.found.points.len() == before {
        search.found.unread.push(Unread {
            library: Library::Go,
            version,
            reason: UnreadReason::NotFound,
        });
    }
    Ok(())
}

/// Those of a table's functions whose code is there become points. Entries count from `text`.
pub(super) fn push(
    search: &mut Search<'_>,
    table: &Table,
    text: u64,
    functions: Vec<(GoFunction, PointKind)>,
    version: Option<&String>,
) -> Result<(), LookError> {
    for (function, kind) in functions {
        let place = place_in(search.elf, table, text, &function)?;
        let Some((virtual_address, file_offset)) = place else {
            continue;
        };
        search.found.points.push(Point {
            kind,
            file_offset,
            virtual_address,
            word: None,
            also: None,
            library: Library::Go,
            version: version.cloned(),
            how: How::GoFunction(function),
            chosen: true,
        });
    }
    Ok(())
}

/// The name without what parts it from others.
fn name(text: &str) -> &str {
    text.trim_matches('\0')
}

/// Checks a point found earlier, in a file said to be the same.
pub(super) fn check(elf: &Elf<'_>, point: &Point) -> io::Result<bool> {
    let How::GoFunction(function) = &point.how else {
        return Ok(false);
    };
    let known = KNOWN.iter().any(|(text, places)| {
        name(text) == function.name && PointKind::Placed(*places) == point.kind
    });
    Ok(known && place(elf, function)? == Some((point.virtual_address, point.file_offset)))
}

/// A `runtime.pcHeader`, with the offsets from its address of what it leads to.
pub(super) struct Table {
    address: u64,
    functions: u64,
    /// 0 where only `moduledata` says it.
    text: u64,
    names: u64,
    names_end: u64,
    entries: u64,
}

impl Table {
    /// `None` if none is there.
    pub fn at(elf: &Elf<'_>, address: u64) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER as usize];
        let read = elf.read(address, &mut header)?;
        if read < header.len() || !header.starts_with(MAGIC) {
            return Ok(None);
        }
        let field = |index: usize| le64(&header, 8 * index).unwrap_or(0);
        let table = Self {
            address,
            functions: field(1),
            text: field(3),
            names: field(4),
            names_end: field(5),
            entries: field(8),
        };
        let ascending = [table.names, field(5), field(6), field(7), field(8), 1 << 32];
        let whole = NAMES.contains(&table.names)
            && (1..FUNCTIONS).contains(&table.functions)
            && ascending.is_sorted_by(|a, b| a < b)
            && address.checked_add(1 << 33).is_some();
        Ok(whole.then_some(table))
    }

    /// Addresses of the functions' names.
    pub fn names(&self) -> Range<u64> {
        (self.address + self.names)..(self.address + self.names_end)
    }

    /// Address of the code of function `index`, whose entry (`functab`) and description (`_func`) must agree and name it.
    fn code_of(&self, elf: &Elf<'_>, index: u64, name: &str, text: u64) -> io::Result<Option<u64>> {
        let start = self.address + self.entries;
        let mut window = Window::default();
        if index >= self.functions {
            return Ok(None);
        }
        let Some((code, description)) = window.pair(elf, start + 8 * index)? else {
            return Ok(None);
        };
        let Some((again, at)) = window.pair(elf, start + u64::from(description))? else {
            return Ok(None);
        };
        let mut bytes = vec![0; name.len() + 1];
        let read = elf.read(self.address + self.names + u64::from(at), &mut bytes)?;
        let named = read == bytes.len() && bytes.strip_suffix(b"\0") == Some(name.as_bytes());
        Ok((code == again && named)
            .then(|| text.checked_add(code.into()))
            .flatten())
    }
}

/// Pairs of 32-bit words at ascending addresses.
#[derive(Default)]
struct Window {
    address: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn pair(&mut self, elf: &Elf<'_>, address: u64) -> io::Result<Option<(u32, u32)>> {
        if let Some(pair) = self.held(address) {
            return Ok(Some(pair));
        }
        self.bytes.resize(WINDOW, 0);
        let read = elf.read(address, &mut self.bytes)?;
        self.bytes.truncate(read);
        self.address = address;
        Ok(self.held(address))
    }

    fn held(&self, address: u64) -> Option<(u32, u32)> {
        let at = usize::try_from(address.checked_sub(self.address)?).ok()?;
        Some((
            le32(&self.bytes, at)?,
            le32(&self.bytes, at.checked_add(4)?)?,
        ))
    }
}

/// Where the names of [`KNOWN`] stand among the table's, by address.
fn names(search: &mut Search<'_>, table: &Table) -> Result<BTreeMap<&'static str, u64>, LookError> {
    let names = table.names();
    let mut places = BTreeMap::new();
    for (text, _) in KNOWN {
        let hits = search.standing(text.as_bytes())?;
        let at = hits
            .into_iter()
            .flat_map(|hit| search.elf.addresses_of(hit + 1))
            .find(|address| names.contains(address));
        places.extend(at.map(|at| (text, at)));
    }
    Ok(places)
}

/// The known functions that a table has, by the places of their names.
pub(super) fn functions(
    search: &Search<'_>,
    table: &Table,
    module: Option<u64>,
    places: &BTreeMap<&'static str, u64>,
) -> Result<Vec<(GoFunction, PointKind)>, LookError> {
    let mut found = Vec::new();
    let mut wanted = Vec::new();
    for (text, passed) in KNOWN {
        if let Some(at) = places.get(text)
            && let Ok(at) = u32::try_from(at - table.names().start)
        {
            wanted.push((at, name(text), passed));
        }
    }
    let (mut entries, mut descriptions) = (Window::default(), Window::default());
    for index in 0..table.functions {
        if wanted.is_empty() {
            break;
        }
        if index % 1024 == 0 {
            search.scanner.in_time()?;
        }
        let start = table.address + table.entries;
        let Some((code, description)) = entries.pair(search.elf, start + 8 * index)? else {
            break;
        };
        let described = descriptions.pair(search.elf, start + u64::from(description))?;
        let Some((_, name)) = described.filter(|(again, _)| *again == code) else {
            continue;
        };
        if let Some(place) = wanted.iter().position(|(at, ..)| *at == name) {
            let (_, name, places) = wanted.swap_remove(place);
            let function = GoFunction {
                name: name.to_owned(),
                table: table.address,
                index,
                module,
            };
            found.push((function, PointKind::Placed(places)));
        }
    }
    Ok(found)
}

/// Where a known function's code begins: virtual address and offset in the file.
fn place(elf: &Elf<'_>, function: &GoFunction) -> io::Result<Option<(u64, u64)>> {
    let Some(table) = Table::at(elf, function.table)? else {
        return Ok(None);
    };
    match text(elf, function.module, &table)? {
        Some(text) => place_in(elf, &table, text, function),
        None => Ok(None),
    }
}

/// What a table's entries count from.
fn text(elf: &Elf<'_>, module: Option<u64>, table: &Table) -> io::Result<Option<u64>> {
    match module {
        Some(module) => Pointers::read(elf, &[module])?.text_of(elf, module, table),
        None => Ok(Some(table.text)),
    }
}

fn place_in(
    elf: &Elf<'_>,
    table: &Table,
    text: u64,
    function: &GoFunction,
) -> io::Result<Option<(u64, u64)>> {
    let code = table.code_of(elf, function.index, &function.name, text)?;
    let code = code.filter(|&address| elf.is_code(address));
    Ok(code.and_then(|address| Some((address, elf.offset_of(address)?))))
}

/// The `runtime.moduledata` of a table.
fn module(search: &mut Search<'_>, table: &Table) -> Result<Option<u64>, LookError> {
    let elf = search.elf;
    let mut candidates = elf.relative_pointers_to(|value| value == table.address, MODULES)?;
    let word = table.address.to_le_bytes();
    let hits = search
        .scanner
        .strings(Part::Data, &[&word], false)?
        .concat();
    let in_place = hits.into_iter().flat_map(|hit| elf.addresses_of(hit));
    candidates.extend(in_place.take(MODULES));
    let pointers = Pointers::read(elf, &candidates)?;
    for candidate in candidates {
        if pointers.text_of(elf, candidate, table)?.is_some() {
            return Ok(Some(candidate));
        }
    }
    Ok(None)
}

/// The pointers of what may be a `moduledata`, as the loader makes them.
pub(super) struct Pointers(BTreeMap<u64, u64>);

impl Pointers {
    pub fn read(elf: &Elf<'_>, candidates: &[u64]) -> io::Result<Self> {
        let wanted: BTreeSet<u64> = candidates
            .iter()
            .flat_map(|&module| [0, 8, MODULE_TEXT].map(|within| module.wrapping_add(within)))
            .collect();
        let mut made = BTreeMap::new();
        elf.relative_pointers(|at, value| {
            if wanted.contains(&at) {
                made.insert(at, value);
            }
            ControlFlow::Continue(())
        })?;
        Ok(Self(made))
    }

    pub fn at(&self, elf: &Elf<'_>, address: u64) -> io::Result<Option<u64>> {
        if let Some(made) = self.0.get(&address) {
            return Ok(Some(*made));
        }
        let mut word = [0; 8];
        let read = elf.read(address, &mut word)?;
        Ok((read == word.len()).then(|| u64::from_le_bytes(word)))
    }

    /// `runtime.text`, if `module` is the `moduledata` of this table: it begins with its address and that of the names.
    pub fn text_of(&self, elf: &Elf<'_>, module: u64, table: &Table) -> io::Result<Option<u64>> {
        let names = table.address + table.names;
        let Some(second) = module.checked_add(8) else {
            return Ok(None);
        };
        if self.at(elf, module)? != Some(table.address) || self.at(elf, second)? != Some(names) {
            return Ok(None);
        }
        let Some(text) = module.checked_add(MODULE_TEXT) else {
            return Ok(None);
        };
        self.at(elf, text)
    }
}

/// From Go 1.18 on, flag 2 says that a string with its length before it stands at byte 32 of what was built.
pub(super) fn version(elf: &Elf<'_>, built: &[u64]) -> io::Result<Option<String>> {
    for &offset in built {
        let mut bytes = [0; 32 + 1 + 32];
        let read = elf.source().read_at(offset, &mut bytes)?;
        let text = (read == bytes.len() && bytes[15] & 2 != 0)
            .then(|| bytes[33..].get(..usize::from(bytes[32])))
            .flatten()
            .and_then(|text| std::str::from_utf8(text).ok())
            // Experiments may follow: `go1.26.8 X:nogreenteagc`.
            .and_then(|text| text.strip_prefix("go")?.split(' ').next())
            .filter(|text| text.chars().all(is_version_character));
        if let Some(text) = text {
            return Ok(Some(text.to_owned()));
        }
    }
    Ok(None)
}
