//! The functions of a TLS library that the bridge's probes stand at, and where a file has them.
//!
//! Invariant: only what a file exports, by the loader's own tables: no search.

use crate::kernel::keylog::elf::Elf;
use agent_common::abi::bridge::{COUNT_FIFTH, COUNT_FOURTH, GNUTLS, SENDS};
use serde::{Deserialize, Serialize};
use std::io;

/// What a function does to its first argument, the library's object for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Moves plaintext; its cookie ([`agent_common::abi::bridge`]).
    Moves(u64),
    /// Gives it another socket, or moves plaintext in a way that is not read.
    Forgets,
    /// Frees it.
    Frees,
}

/// A function in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub role: Role,
    pub file_offset: u64,
}

use Role::{Forgets, Frees, Moves};

/// OpenSSL 1.1.1 and 3, LibreSSL, BoringSSL. The first two are what makes it one.
const OPENSSL: &[(&str, Role)] = &[
    ("SSL_read", Moves(0)),
    ("SSL_write", Moves(SENDS)),
    ("SSL_read_ex", Moves(COUNT_FOURTH)),
    ("SSL_write_ex", Moves(SENDS | COUNT_FOURTH)),
    ("SSL_write_ex2", Moves(SENDS | COUNT_FIFTH)),
    ("SSL_free", Frees),
    ("SSL_clear", Forgets),
    ("SSL_set_bio", Forgets),
    ("SSL_set0_rbio", Forgets),
    ("SSL_set0_wbio", Forgets),
    ("SSL_sendfile", Forgets),
];

const GNUTLS_3: &[(&str, Role)] = &[
    ("gnutls_record_recv", Moves(GNUTLS)),
    ("gnutls_record_send", Moves(GNUTLS | SENDS)),
    ("gnutls_record_recv_seq", Moves(GNUTLS)),
    ("gnutls_record_send2", Moves(GNUTLS | SENDS)),
    ("gnutls_record_send_range", Moves(GNUTLS | SENDS)),
    ("gnutls_record_recv_packet", Forgets),
    ("gnutls_record_send_file", Forgets),
    ("gnutls_transport_set_ptr", Forgets),
    ("gnutls_transport_set_ptr2", Forgets),
    ("gnutls_deinit", Frees),
];

/// Where a file has them; none if it is no such library, or no program that exports its functions.
pub fn find(elf: &Elf<'_>) -> io::Result<Vec<Place>> {
    let mut places = Vec::new();
    for library in [OPENSSL, GNUTLS_3] {
        places.extend(of_library(elf, library)?);
    }
    Ok(places)
}

fn of_library(elf: &Elf<'_>, library: &[(&str, Role)]) -> io::Result<Vec<Place>> {
    let mut places: Vec<Place> = Vec::new();
    for (number, (name, role)) in library.iter().enumerate() {
        let place = elf
            .exported_function(name)?
            .filter(|symbol| elf.is_code(symbol.address))
            .and_then(|symbol| elf.offset_of(symbol.address));
        match place {
            // Two names of one function: a probe for each would count a call twice.
            Some(file_offset) if places.iter().all(|known| known.file_offset != file_offset) => {
                places.push(Place {
                    role: *role,
                    file_offset,
                });
            }
            Some(_) => {}
            None if number < 2 => return Ok(Vec::new()),
            None => {}
        }
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::keylog::elf::FileSource;
    use std::fs::File;

    fn find_in(file: &File) -> Vec<Place> {
        let source = FileSource::new(file).unwrap();
        find(&Elf::open(&source, 1 << 30).unwrap()).unwrap()
    }

    #[test]
    fn libraries_have_their_functions_and_programs_do_not() {
        let own = File::open("/proc/self/exe").unwrap();
        assert_eq!(find_in(&own), []);
        for (path, sends) in [
            ("/usr/lib/x86_64-linux-gnu/libssl.so.3", SENDS),
            ("/usr/lib/x86_64-linux-gnu/libgnutls.so.30", SENDS | GNUTLS),
        ] {
            let Ok(file) = File::open(path) else {
                eprintln!("skipped: {path} is not there");
                continue;
            };
            let places = find_in(&file);
            assert!(places.len() > 4, "{path}: {places:?}");
            assert!(places.iter().any(|place| place.role == Moves(sends)));
            assert!(places.iter().any(|place| place.role == Forgets));
        }
    }
}
