//! The probes' programs as the keeper gets them: descriptors, for perf and for `uprobe_multi`.
//!
//! The kernel wants a program for `uprobe_multi` to be loaded for it, and aya 0.14 knows nothing of that. So these are
//! loaded here, a second time, from the same object and with the same maps.

use super::{
    Program,
    calls::{self, Functions},
    trial::Counter,
};
use crate::kernel::probes::{Error, OBJECT, Probes};
use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use aya_obj::{Object, generated::bpf_insn};
use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

#[derive(Debug, thiserror::Error)]
pub enum ProgramsError {
    #[error(transparent)]
    Probes(#[from] Error),
    #[error("descriptors of the programs: {0}")]
    Descriptors(#[from] io::Error),
}

/// What may be attached by the keeper.
#[derive(Debug)]
pub struct Programs {
    pub(super) perf: Vec<(Program, OwnedFd)>,
    pub(super) multi: Vec<(Program, OwnedFd)>,
    /// Why there is nothing in `multi`.
    pub(super) no_multi: Option<String>,
}

impl Programs {
    /// Every program counts, and does nothing else: for tests. `multi`: those for `uprobe_multi`, too.
    ///
    /// # Errors
    /// If descriptors are used up.
    #[doc(hidden)]
    pub fn counting(counter: &Counter, multi: bool) -> io::Result<Self> {
        let all = |one: &OwnedFd| {
            Program::ALL
                .into_iter()
                .map(|program| Ok((program, one.try_clone()?)))
                .collect::<io::Result<Vec<_>>>()
        };
        let refused = match (&counter.multi, multi) {
            (Err(error), _) => Some(error.clone()),
            (_, false) => Some("not wanted".to_owned()),
            (Ok(_), true) => None,
        };
        Ok(Self {
            perf: all(&counter.perf)?,
            multi: match (&counter.multi, &refused) {
                (Ok(one), None) => all(one)?,
                _ => Vec::new(),
            },
            no_multi: refused,
        })
    }
}

/// The maps of probes that were just loaded, by their names: they are taken away one by one afterwards.
pub(in crate::kernel) struct Maps(Vec<(String, OwnedFd)>);

impl Maps {
    pub fn of(ebpf: &Ebpf) -> io::Result<Self> {
        let descriptors = ebpf.maps().map(|(name, map)| {
            let descriptor = data(map).fd().as_fd().try_clone_to_owned()?;
            Ok((name.to_owned(), descriptor))
        });
        Ok(Self(descriptors.collect::<io::Result<_>>()?))
    }
}

impl Probes {
    /// The programs that are loaded by now, for the keeper. To be called once.
    ///
    /// # Errors
    /// If descriptors are used up. Programs that the kernel refuses are left out.
    pub fn keeper_programs(&mut self) -> Result<Programs, ProgramsError> {
        let mut perf = Vec::new();
        for program in Program::ALL {
            let found: &mut aya::programs::UProbe =
                super::super::probes::program(&mut self.ebpf, program.name())?;
            // Those that were refused are not loaded, and were complained about.
            if let Ok(descriptor) = found.fd() {
                perf.push((program, descriptor.as_fd().try_clone_to_owned()?));
            }
        }
        let multi = match self.maps.take() {
            Some(maps) => twins(&maps, &perf),
            None => Err("they were taken before".to_owned()),
        };
        let (multi, no_multi) = match multi {
            Ok(multi) => (multi, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Ok(Programs {
            perf,
            multi,
            no_multi,
        })
    }
}

/// Loads the same programs once more, for `uprobe_multi`.
fn twins(maps: &Maps, wanted: &[(Program, OwnedFd)]) -> Result<Vec<(Program, OwnedFd)>, String> {
    let text = |error: &dyn std::error::Error| format!("the probes cannot be read again: {error}");
    let mut object = Object::parse(OBJECT).map_err(|error| text(&error))?;
    let types = match aya::features().btf() {
        Some(known) => object
            .fixup_and_sanitize_btf(known)
            .map_err(|error| text(&error))?
            .map(|types| calls::load_types(&types.to_bytes()))
            .transpose()
            .map_err(|error| format!("their type information is refused: {error}"))?,
        None => None,
    };
    let sections: HashSet<usize> = object.functions.keys().map(|(index, _)| *index).collect();
    let known = object.maps.clone();
    let found = maps.0.iter().filter_map(|(name, descriptor)| {
        let map = known.get(name)?;
        Some((name.as_str(), descriptor.as_raw_fd(), map))
    });
    object
        .relocate_maps(found, &sections)
        .map_err(|error| text(&error))?;
    object
        .relocate_calls(&sections)
        .map_err(|error| text(&error))?;
    object.sanitize_functions(aya::features());
    let loaded = wanted.iter().map(|(program, _)| {
        let name = program.name();
        let missing = || format!("the probes have no {name}");
        let found = object.programs.get(name).ok_or_else(missing)?;
        let function = object.functions.get(&found.function_key());
        let function = function.ok_or_else(missing)?;
        let code = bytes(&function.instructions);
        let entries = function.func_info.func_info_bytes();
        let functions = types.as_ref().map(|types| Functions {
            types: types.as_fd(),
            size: function.func_info_rec_size,
            entries: &entries,
        });
        let descriptor = calls::load(name, &found.license, &code, functions.as_ref(), true)
            .map_err(|error| format!("{name} is refused for it: {error}"))?;
        Ok((*program, descriptor))
    });
    loaded.collect()
}

/// As the kernel takes them (`struct bpf_insn`).
fn bytes(instructions: &[bpf_insn]) -> Vec<u8> {
    let each = instructions.iter().flat_map(|one| {
        let [low, high] = one.off.to_ne_bytes();
        let [a, b, c, d] = one.imm.to_ne_bytes();
        [
            one.code,
            one.dst_reg() | one.src_reg() << 4,
            low,
            high,
            a,
            b,
            c,
            d,
        ]
    });
    each.collect()
}

fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::ArrayOfMaps(data)
        | Map::BloomFilter(data)
        | Map::CgroupArray(data)
        | Map::CgroupStorage(data)
        | Map::CgrpStorage(data)
        | Map::CpuMap(data)
        | Map::DevMap(data)
        | Map::DevMapHash(data)
        | Map::HashMap(data)
        | Map::HashOfMaps(data)
        | Map::InodeStorage(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuCgroupStorage(data)
        | Map::PerCpuHashMap(data)
        | Map::PerCpuLruHashMap(data)
        | Map::PerfEventArray(data)
        | Map::ProgramArray(data)
        | Map::Queue(data)
        | Map::ReusePortSockArray(data)
        | Map::RingBuf(data)
        | Map::SockHash(data)
        | Map::SockMap(data)
        | Map::SkStorage(data)
        | Map::Stack(data)
        | Map::StackTraceMap(data)
        | Map::Unsupported(data)
        | Map::XskMap(data) => data,
    }
}
