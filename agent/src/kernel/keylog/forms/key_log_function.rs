//! OpenSSL (from 1.1.1 on), BoringSSL and its forks, and GnuTLS: one function `f(session, label, secret, length)` gets every
//! secret with its label, whether or not anyone logs (`ssl_log_secret`, `_gnutls_call_keylog_func`).
//!
//! Each place in the code that takes the address of `CLIENT_RANDOM` or `EXPORTER_SECRET` votes for the function that gets
//! it as second argument, by a direct `call` or a tail `jmp`. The other labels do not vote: these libraries choose
//! them in branches. A linker may merge `EXPORTER_SECRET` into the end of `EARLY_EXPORTER_SECRET`, so what stands before
//! a label does not matter, and the NUL after it does. A candidate must read its third and fourth argument: that
//! tells it from NSS, whose function of the same purpose takes a key object and no length.
//!
//! Invariant: a tail `jmp` votes only for an address that some direct `call` leads to as well, so no point is ever in
//! the middle of a function.

use super::{Search, identity};
use crate::kernel::keylog::code::{Decoding, Route};
use crate::kernel::keylog::elf::{Elf, Kind};
use crate::kernel::keylog::finder::{How, LookError, Point, PointKind, Site};
use crate::kernel::keylog::scan::Reference;
use std::collections::BTreeMap;
use std::io;

/// The labels that lead straight to the function in all three libraries.
const LABELS: [&str; 2] = ["CLIENT_RANDOM", "EXPORTER_SECRET"];
/// As they stand in the code of C.
pub(super) const TEXTS: [&[u8]; 2] = [b"CLIENT_RANDOM\0", b"EXPORTER_SECRET\0"];
/// Candidates looked at, most votes first.
const CANDIDATES: usize = 16;
/// Sites kept per candidate.
const SITES: usize = 64;

pub(super) fn search(search: &mut Search<'_>) -> Result<(), LookError> {
    let labels = labels(search)?;
    let targets: Vec<u64> = labels.keys().copied().collect();
    let immediates = search.elf.kind() == Kind::Fixed;
    let references = search.scanner.references(&targets, immediates)?;
    search.referenced = !references.is_empty();

    let mut decoding = Decoding::new(search.elf);
    let mut routes = Vec::new();
    for reference in references {
        if decoding.takes(reference.address, reference.target)? {
            routes.push((reference, decoding.route(reference.address)?));
        }
    }
    let functions = functions(search, &mut decoding, &routes)?;
    let mut points = candidates(search, &mut decoding, &labels, &routes, &functions)?;
    if points.is_empty() {
        // The whole truth about every jump, for the reason why there is none.
        search.rejected = 0;
        let functions = search.scanner.called(&tails(&routes))?;
        points = candidates(search, &mut decoding, &labels, &routes, &functions)?;
    }
    let Some(most) = points.first().map(|(_, _, sites)| sites.len()) else {
        return Ok(());
    };
    let (library, version) = identity::of_point(search)?;
    for (virtual_address, file_offset, sites) in points {
        search.found.points.push(Point {
            kind: PointKind::KeyLog,
            file_offset,
            virtual_address,
            word: None,
            also: None,
            library,
            version: version.clone(),
            chosen: sites.len() == most,
            how: How::Labels(sites),
        });
    }
    Ok(())
}

/// Addresses of labels.
type Labels = BTreeMap<u64, &'static str>;

/// A place that takes a label's address, and where that goes.
type Routes = [(Reference, Route)];

/// Where tail jumps lead, ascending.
fn tails(routes: &Routes) -> Vec<u64> {
    let mut tails: Vec<u64> = routes
        .iter()
        .flat_map(|(_, route)| route.tails.clone())
        .collect();
    tails.sort_unstable();
    tails.dedup();
    tails
}

/// Those targets of tail jumps that have the form and are beginnings of functions, ascending. Most jumps stay within
/// their function, and lead to code that does not have the form; and a function that is reached by a jump here is called
/// there: so all code is read for it only where neither settles it.
fn functions(
    search: &mut Search<'_>,
    decoding: &mut Decoding<'_>,
    routes: &Routes,
) -> Result<Vec<u64>, LookError> {
    let (mut known, mut open) = (Vec::new(), Vec::new());
    for tail in tails(routes) {
        let entry = decoding.through_thunk(tail)?;
        if !decoding.reads_secret_and_length(entry)? {
            continue;
        }
        if routes.iter().any(|(_, route)| route.call == Some(tail)) {
            known.push(tail);
        } else {
            open.push(tail);
        }
    }
    known.extend(search.scanner.called(&open)?);
    known.sort_unstable();
    Ok(known)
}

/// Functions that get a label and have the form: address, offset in the file, and what led there; most votes first.
fn candidates(
    search: &mut Search<'_>,
    decoding: &mut Decoding<'_>,
    labels: &Labels,
    routes: &Routes,
    functions: &[u64],
) -> Result<Vec<(u64, u64, Vec<Site>)>, LookError> {
    let mut candidates: BTreeMap<u64, Vec<Site>> = BTreeMap::new();
    for (reference, route) in routes {
        let mut tails = route.tails.iter().copied();
        let tail = tails.find(|tail| functions.binary_search(tail).is_ok());
        let Some(target) = tail.or(route.call) else {
            continue;
        };
        let sites = candidates
            .entry(decoding.through_thunk(target)?)
            .or_default();
        if sites.len() < SITES {
            sites.push(Site {
                label: labels[&reference.target].to_owned(),
                reference: reference.address,
                target: reference.target,
                tail: tail.is_some(),
            });
        }
    }
    let mut candidates: Vec<_> = candidates.into_iter().collect();
    candidates.sort_by_key(|(address, sites)| (std::cmp::Reverse(sites.len()), *address));
    let mut points = Vec::new();
    for (virtual_address, sites) in candidates.into_iter().take(CANDIDATES) {
        match search.elf.offset_of(virtual_address) {
            Some(file_offset) if decoding.reads_secret_and_length(virtual_address)? => {
                points.push((virtual_address, file_offset, sites));
            }
            _ => search.rejected += 1,
        }
    }
    Ok(points)
}

/// Addresses of the NUL-terminated labels.
fn labels(search: &mut Search<'_>) -> Result<Labels, LookError> {
    let mut labels = BTreeMap::new();
    if search.label_part()?.is_none() {
        return Ok(labels);
    }
    for (label, text) in LABELS.into_iter().zip(TEXTS) {
        for hit in search.standing(text)? {
            labels.extend(search.elf.addresses_of(hit).map(|address| (address, label)));
        }
    }
    Ok(labels)
}

/// Checks a point found earlier, in a file said to be the same, by its sites: as strong as the search, at the cost of a few
/// reads.
pub(super) fn check(elf: &Elf<'_>, point: &Point) -> io::Result<bool> {
    let How::Labels(sites) = &point.how else {
        return Ok(false);
    };
    let mut decoding = Decoding::new(elf);
    let mut called = false;
    for site in sites {
        if !LABELS.contains(&site.label.as_str()) || !stands_at(elf, site)? {
            return Ok(false);
        }
        if !decoding.takes(site.reference, site.target)? {
            return Ok(false);
        }
        let route = decoding.route(site.reference)?;
        let targets = if site.tail {
            route.tails
        } else {
            Vec::from_iter(route.call)
        };
        let mut reached = false;
        for target in targets {
            reached |= decoding.through_thunk(target)? == point.virtual_address;
        }
        if !reached {
            return Ok(false);
        }
        called |= !site.tail;
    }
    Ok(called
        && elf.offset_of(point.virtual_address) == Some(point.file_offset)
        && decoding.reads_secret_and_length(point.virtual_address)?)
}

fn stands_at(elf: &Elf<'_>, site: &Site) -> io::Result<bool> {
    let mut bytes = vec![0; site.label.len() + 1];
    let read = elf.read(site.target, &mut bytes)?;
    Ok(read == bytes.len() && bytes.strip_suffix(b"\0") == Some(site.label.as_bytes()))
}
