//! Processes that copy or translate text: a copy of a breakpoint is met where no handler answers, and ends the program.
//!
//! The list is never complete, which is why the program's own file is left out wherever it runs: those that copy text copy
//! their own. Libraries are copied by tools that take over a whole process, which are told by what it runs and has mapped.

use super::Refused;
use crate::kernel::device;
use rustix::fs::{Mode, OFlags};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};
use zeroize::Zeroizing;

/// Most bytes that are read of a process's file in `/proc`.
const BYTES: u64 = 4 << 20;

/// By the name of the program's file: its begin.
const PROGRAMS: &[(&str, &str)] = &[
    ("qemu-", "qemu"),
    ("drrun", "DynamoRIO"),
    ("pinbin", "Pin"),
    ("box64", "box64"),
    ("box86", "box86"),
    ("FEXInterpreter", "FEX"),
    ("rr", "rr"),
];
/// By a folder that the program's file is in: tools of valgrind are programs like `/usr/libexec/valgrind/none-amd64-linux`.
const FOLDERS: &[(&str, &str)] = &[("/valgrind/", "valgrind"), ("/dynamorio/", "DynamoRIO")];
/// By a file that is mapped: the begin of its name.
const MAPPED: &[(&str, &str)] = &[
    ("librrpreload", "rr"),
    ("librrpage", "rr"),
    ("libdynamorio", "DynamoRIO"),
    ("vgpreload_", "valgrind"),
    ("libpin3", "Pin"),
    ("frida-", "Frida"),
    ("libfrida", "Frida"),
];
/// Files that move text to large pages when they are mapped.
const LARGE: &[&str] = &["libhugetlbfs", "liblppreload", "liblarge_page"];
/// Words of command lines that tell a program to do so by itself.
const OPTIONS: &[&str] = &[
    "--use-largepages",
    "--super-large-pages",
    "HUGETLB_ELFMAP=",
    "IODLR_",
    "opcache.huge_code_pages=1",
];

/// Whether this library may take a breakpoint in this process.
pub(super) fn check(pid: u32, file: &File) -> Result<(), Refused> {
    let unseen = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Refused::Ended,
        _ => Refused::Unseen(error.to_string()),
    };
    // Not opened, and its server is not asked: that may hang.
    let own = rustix::fs::open(
        format!("/proc/{pid}/exe"),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
    );
    let (own, _) = own
        .map_err(std::io::Error::from)
        .and_then(device::at_hand)
        .map_err(unseen)?;
    let (this, _) = device::at_hand(file).map_err(|error| Refused::Kernel(error.to_string()))?;
    if own == this {
        return Err(Refused::Executable);
    }
    let program = fs::read_link(format!("/proc/{pid}/exe")).map_err(unseen)?;
    of_program(program.as_os_str().as_bytes())?;
    of_mappings(&read(pid, "maps").map_err(unseen)?)?;
    // Not the environment, which holds secrets: what is asked for there moves the program's own text, which takes no
    // uprobe, or comes with a library of `LARGE`.
    let line = File::open(format!("/proc/{pid}/cmdline")).map_err(unseen)?;
    of_words(line.take(BYTES)).map_err(unseen)?
}

/// Whether this program runs others by translating their code, so that no instruction of a mapped file is executed.
pub(in crate::kernel) fn is_translator(program: &Path) -> bool {
    of_program(program.as_os_str().as_bytes()).is_err()
}

fn read(pid: u32, name: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{name}"))?
        .take(BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

fn of_program(path: &[u8]) -> Result<(), Refused> {
    let name = base(path);
    let is = |begin: &str| {
        // `rr` alone: many names begin so.
        name.starts_with(begin.as_bytes()) && (begin != "rr" || name == b"rr")
    };
    let by_name = PROGRAMS.iter().find(|(begin, _)| is(begin));
    let by_folder = FOLDERS
        .iter()
        .find(|(folder, _)| memchr::memmem::find(path, folder.as_bytes()).is_some());
    match by_name.or(by_folder) {
        Some((_, tool)) => Err(Refused::Translated((*tool).to_owned())),
        None => Ok(()),
    }
}

fn of_mappings(maps: &[u8]) -> Result<(), Refused> {
    for line in maps.split(|byte| *byte == b'\n') {
        let Some(slash) = memchr::memchr(b'/', line) else {
            continue;
        };
        let name = base(&line[slash..]);
        if let Some((_, tool)) = MAPPED
            .iter()
            .find(|(begin, _)| name.starts_with(begin.as_bytes()))
        {
            return Err(Refused::Translated((*tool).to_owned()));
        }
        if let Some(begin) = LARGE
            .iter()
            .find(|begin| name.starts_with(begin.as_bytes()))
        {
            return Err(Refused::LargePages((*begin).to_owned()));
        }
    }
    Ok(())
}

/// What is read is wiped: arguments hold secrets.
fn of_words(mut words: impl Read) -> std::io::Result<Result<(), Refused>> {
    /// As long as the longest of the options, and more.
    const LONGEST: usize = 64;
    let mut bytes = Zeroizing::new([0; 4 * 1024]);
    let mut kept = 0;
    loop {
        let read = match words.read(&mut bytes[kept..])? {
            0 => return Ok(Ok(())),
            read => kept + read,
        };
        let told = OPTIONS
            .iter()
            .find(|option| memchr::memmem::find(&bytes[..read], option.as_bytes()).is_some());
        if let Some(option) = told {
            let option = option.trim_end_matches('=').to_owned();
            return Ok(Err(Refused::LargePages(option)));
        }
        // An option may lie across two reads.
        let begin = read.saturating_sub(LONGEST);
        bytes.copy_within(begin..read, 0);
        kept = read - begin;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_that_translate_are_known_by_their_program_and_by_what_is_mapped() {
        for (path, tool) in [
            ("/usr/libexec/valgrind/memcheck-amd64-linux", "valgrind"),
            ("/usr/bin/qemu-x86_64-static", "qemu"),
            ("/opt/dynamorio/bin64/drrun", "DynamoRIO"),
            ("/usr/bin/rr", "rr"),
        ] {
            let refused = of_program(path.as_bytes()).unwrap_err();
            assert_eq!(refused, Refused::Translated(tool.to_owned()), "{path}");
        }
        for path in ["/usr/bin/curl", "/usr/bin/rrdtool", "/opt/qemu/bin/curl"] {
            assert_eq!(of_program(path.as_bytes()), Ok(()), "{path}");
        }
        let line = |path: &str| format!("7f00-7f01 r-xp 00000000 fe:00 12    {path}\n");
        let maps = line("/usr/lib/libssl.so.3") + &line("/usr/lib/rr/librrpreload.so");
        assert_eq!(
            of_mappings(maps.as_bytes()),
            Err(Refused::Translated("rr".to_owned()))
        );
        assert_eq!(of_mappings(line("/usr/lib/libssl.so.3").as_bytes()), Ok(()));
    }

    #[test]
    fn programs_that_are_told_to_use_large_pages_are_left_out() {
        for words in [
            &b"node\0--use-largepages=on\0x.js\0"[..],
            b"A=b\0NODE_OPTIONS=--use-largepages=silent\0",
            b"HUGETLB_ELFMAP=RW\0",
        ] {
            assert!(matches!(
                of_words(words).unwrap(),
                Err(Refused::LargePages(_))
            ));
        }
        assert_eq!(of_words(&b"node\0x.js\0"[..]).unwrap(), Ok(()));
        for begin in [4_080, 4_096, 8_100] {
            let long = [&vec![b'x'; begin][..], b"HUGETLB_ELFMAP=RW\0"].concat();
            assert!(of_words(&long[..]).unwrap().is_err(), "{begin}");
        }
    }

    #[test]
    fn a_process_takes_none_in_its_own_program() {
        let own = File::open("/proc/self/exe").unwrap();
        let pid = std::process::id();
        assert_eq!(check(pid, &own), Err(Refused::Executable));
        let other = tempfile::tempfile().unwrap();
        assert_eq!(check(pid, &other), Ok(()));
    }
}
