//! OpenSSL 3's `EVP_KDF_derive`, exported by libcrypto: every derivation of a traffic secret passes it. The fallback
//! where the libssl beside it gives no key-log point.
//!
//! Invariant: found by the loader's own tables, never by search.

use super::Search;
use super::identity;
use crate::kernel::keylog::elf::Elf;
use crate::kernel::keylog::finder::{How, LookError, Point, PointKind};
use std::io;

const NAME: &str = "EVP_KDF_derive";

pub(super) fn search(search: &mut Search<'_>) -> Result<(), LookError> {
    let Some((virtual_address, file_offset)) = place(search.elf)? else {
        return Ok(());
    };
    let (library, version) = identity::of_openssl(search)?;
    search.found.points.push(Point {
        kind: PointKind::KdfDerive,
        file_offset,
        virtual_address,
        word: None,
        also: None,
        library,
        version,
        how: How::Export(NAME.to_owned()),
        chosen: true,
    });
    Ok(())
}

/// Virtual address and file offset of the exported function.
pub(super) fn place(elf: &Elf<'_>) -> io::Result<Option<(u64, u64)>> {
    let Some(symbol) = elf.exported_function(NAME)? else {
        return Ok(None);
    };
    let offset = elf
        .offset_of(symbol.address)
        .filter(|_| elf.is_code(symbol.address));
    Ok(offset.map(|offset| (symbol.address, offset)))
}
