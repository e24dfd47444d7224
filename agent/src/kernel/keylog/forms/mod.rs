//! One file per form of library: how its point is recognised in a file.
//!
//! To read the next library, write its form here, add a line to [`FORMS`], and take its row out of [`unread`].
//!
//! Invariant: a form only adds to [`Search::found`]; forms do not know each other, but for the order of [`FORMS`].

mod go;
mod go_alone;
mod identity;
mod kdf_derive;
mod key_log_function;
mod rustls;
mod rustls_tables;
mod unread;

use super::elf::Elf;
use super::finder::{Found, LookError, PointKind};
use super::scan::{Part, Scanner};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

/// A way of recognising TLS code.
pub struct Form {
    pub name: &'static str,
    pub(super) search: fn(&mut Search<'_>) -> Result<(), LookError>,
}

/// In this order: what names the unread looks at what was read.
pub const FORMS: &[Form] = &[
    Form {
        name: "key-log function of OpenSSL, BoringSSL and GnuTLS",
        search: key_log_function::search,
    },
    Form {
        name: "EVP_KDF_derive of OpenSSL 3",
        search: kdf_derive::search,
    },
    Form {
        name: "crypto/tls of Go",
        search: go::search,
    },
    Form {
        name: "calls of rustls's KeyLog",
        search: rustls::search,
    },
    Form {
        name: "libraries that are not read",
        search: unread::search,
    },
];

/// Goes through the forms, but where all code of the file is Go's.
pub(super) fn search(search: &mut Search<'_>) -> Result<(), LookError> {
    if go_alone::search(search)? {
        return Ok(());
    }
    FORMS.iter().try_for_each(|form| (form.search)(search))
}

/// Whether every point found earlier, in what is said to be the same file, is one of this file too.
pub(super) fn still_holds(elf: &Elf<'_>, found: &Found) -> io::Result<bool> {
    for point in &found.points {
        let holds = match point.kind {
            PointKind::KeyLog => key_log_function::check(elf, point)?,
            PointKind::KdfDerive => {
                kdf_derive::place(elf)? == Some((point.virtual_address, point.file_offset))
            }
            PointKind::Placed(_) => go::check(elf, point)? || rustls::check(elf, point)?,
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What tells a file with TLS code from others: the first label of the key log.
const LABEL: &[u8] = b"CLIENT_RANDOM";

/// Offsets in the file of what was looked for.
type Standing = BTreeMap<&'static [u8], Vec<u64>>;

/// What the forms look for.
fn texts() -> impl Iterator<Item = &'static [u8]> {
    let lists: [&[&'static [u8]]; 6] = [
        &[LABEL],
        &key_log_function::TEXTS,
        &identity::TEXTS,
        &go::TEXTS,
        &rustls::TEXTS,
        &rustls_tables::NAMES,
    ];
    lists.into_iter().flatten().copied().chain(unread::texts())
}

/// A file on its way through the forms.
pub(super) struct Search<'a> {
    pub elf: &'a Elf<'a>,
    pub scanner: Scanner<'a>,
    pub found: Found,
    label_part: Option<Option<Part>>,
    texts: Option<Standing>,
    rejected: usize,
    referenced: bool,
}

impl<'a> Search<'a> {
    pub fn new(elf: &'a Elf<'a>, scanner: Scanner<'a>, found: Found) -> Self {
        Self {
            elf,
            scanner,
            found,
            label_part: None,
            texts: None,
            rejected: 0,
            referenced: false,
        }
    }

    /// Which segments hold the key log's labels; `None` in the many files that have none. Constants are in the data
    /// segments unless an old linker put everything into one.
    pub fn label_part(&mut self) -> Result<Option<Part>, LookError> {
        if let Some(known) = self.label_part {
            return Ok(known);
        }
        let mut part = None;
        if self.texts_in(Part::Data)?.contains_key(LABEL) {
            part = Some(Part::Data);
        } else {
            let hits = self.scanner.strings(Part::Code, &[LABEL], true)?;
            if hits.iter().any(|hits| !hits.is_empty()) {
                self.texts = None;
                self.texts_in(Part::Code)?;
                part = Some(Part::Code);
            }
        }
        self.label_part = Some(part);
        Ok(part)
    }

    /// Where in `part` each of [`texts`] stands that does. One pass finds them all, since a pass reads the whole part.
    fn texts_in(&mut self, part: Part) -> Result<&Standing, LookError> {
        let known = match self.texts.take() {
            Some(known) => known,
            None => {
                let texts: Vec<&'static [u8]> = texts().collect();
                let hits = self.scanner.strings(part, &texts, false)?;
                let standing = texts.into_iter().zip(hits);
                standing.filter(|(_, hits)| !hits.is_empty()).collect()
            }
        };
        Ok(self.texts.insert(known))
    }

    /// Offsets at which one of [`texts`] stands in the part that has the labels, or in the data segments if none has.
    pub fn standing(&mut self, text: &'static [u8]) -> Result<Vec<u64>, LookError> {
        debug_assert!(
            texts().any(|known| known == text),
            "a text that is not looked for"
        );
        let part = self.label_part()?.unwrap_or(Part::Data);
        let standing = self.texts_in(part)?;
        Ok(standing.get(text).cloned().unwrap_or_default())
    }

    /// The file's soname, without what auditwheel adds to those that it puts into a Python wheel.
    pub fn soname(&self) -> Option<Cow<'_, str>> {
        self.elf.dynamic().soname.as_deref().map(without_hash)
    }

    /// The file's soname begins with one of `names`.
    pub fn is_called(&self, names: &[&str]) -> bool {
        let soname = self.soname().unwrap_or_default();
        names.iter().any(|name| soname.starts_with(name))
    }

    /// The first version (`3.0.19`, `1.1.1w`, `4.0.0-beta1`) that directly follows a place where `prefix` stands, beside
    /// the labels.
    pub fn version_after(&mut self, prefix: &'static [u8]) -> Result<Option<String>, LookError> {
        let hits = self.standing(prefix)?;
        self.version_at(&hits, prefix)
    }

    /// The same in a part that has no labels.
    pub fn version_in(&mut self, part: Part, prefix: &[u8]) -> Result<Option<String>, LookError> {
        let hits = self.scanner.strings(part, &[prefix], false)?.concat();
        self.version_at(&hits, prefix)
    }

    fn version_at(&self, hits: &[u64], prefix: &[u8]) -> Result<Option<String>, LookError> {
        for &hit in hits {
            let mut bytes = [0; 32];
            let read = self
                .elf
                .source()
                .read_at(hit + prefix.len() as u64, &mut bytes)?;
            let text: String = bytes[..read]
                .iter()
                .map(|&byte| char::from(byte))
                .take_while(|&character| is_version_character(character))
                .collect();
            let numbers = text
                .split('.')
                .map(|part| part.starts_with(|first: char| first.is_ascii_digit()));
            if numbers.clone().count() >= 3 && numbers.clone().all(|number| number) {
                return Ok(Some(text));
            }
        }
        Ok(None)
    }
}

/// `libssl.so.3` of `libssl-8bd944e8.so.3`: auditwheel's `copylib` puts 8 digits of a file's hash into its name.
fn without_hash(soname: &str) -> Cow<'_, str> {
    let parts = soname.split_once(".so").and_then(|(stem, version)| {
        let (name, hash) = stem.rsplit_once('-')?;
        let is_hash = hash.len() == 8 && hash.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hash.then_some((name, version))
    });
    match parts {
        Some((name, version)) => Cow::Owned(format!("{name}.so{version}")),
        None => Cow::Borrowed(soname),
    }
}

fn is_version_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '+')
}

#[cfg(test)]
mod tests {
    use super::without_hash;

    #[test]
    fn a_wheel_s_library_is_called_as_before() {
        for (soname, plain) in [
            ("libssl-8bd944e8.so.3", "libssl.so.3"),
            ("libssl-8bd944e8.so.1.1.1k", "libssl.so.1.1.1k"),
            ("libssl.so.3", "libssl.so.3"),
            ("libssl-compat.so.3", "libssl-compat.so.3"),
            ("libssl-8bd944e8", "libssl-8bd944e8"),
            ("-8bd944e8.so", ".so"),
            ("", ""),
        ] {
            assert_eq!(without_hash(soname), plain);
        }
    }
}
