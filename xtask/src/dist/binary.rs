//! A binary for others: that it runs elsewhere, and, if it is the agent's, carries its probes.
//!
//! Invariant: what is put into `dist` needs no library but glibc's and libgcc's, and no glibc newer than its
//! table says ([`super::packages`]).

use crate::process;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// glibc's own libraries, and the unwinder, which every system has.
const LIBRARIES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "ld-linux-x86-64.so.2",
    "ld-linux-aarch64.so.1",
];

/// That the agent's program carries the probes that were built.
pub fn carries(program: &Path, probes: &Path) -> Result<()> {
    let probes = fs::read(probes).with_context(|| format!("cannot read {}", probes.display()))?;
    let bytes = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    ensure!(
        holds(&bytes, &probes),
        "{} does not carry the probes that were built: cargo xtask build",
        program.display()
    );
    Ok(())
}

/// Strips `program` into `place` after it was checked, that it needs no glibc newer than `glibc` above all; says what
/// it needs.
pub fn take(program: &Path, glibc: &str, place: &Path) -> Result<String> {
    let objdump = |option: &str| process::output(Command::new("objdump").arg(option).arg(program));
    let libraries = needed_libraries(&objdump("-p")?);
    let foreign: Vec<&String> = libraries
        .iter()
        .filter(|library| !LIBRARIES.contains(&library.as_str()))
        .collect();
    ensure!(
        foreign.is_empty(),
        "{} needs libraries that other systems may not have: {foreign:?}",
        program.display()
    );
    let symbols = objdump("-T")?;
    let newest = newest_glibc(&symbols).map_or_else(
        || "no glibc".to_owned(),
        |(version, symbol)| format!("glibc {version}, for {symbol}"),
    );
    let too_new = too_new(&symbols, glibc);
    ensure!(
        too_new.is_empty(),
        "{} needs a glibc newer than {glibc}, for {}: build it on Debian 12",
        program.display(),
        too_new.join(", ")
    );
    process::output(
        Command::new("strip")
            .args(["--strip-all", "-o"])
            .arg(place)
            .arg(program),
    )?;
    fs::set_permissions(place, fs::Permissions::from_mode(0o755))?;
    Ok(format!("needs {newest}"))
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    // The begin alone is rare enough for the whole to be compared at few places.
    let Some(begin) = part.get(..64) else {
        return false;
    };
    bytes
        .windows(begin.len())
        .enumerate()
        .any(|(at, window)| window == begin && bytes[at..].starts_with(part))
}

/// The `NEEDED` lines of `objdump -p`.
fn needed_libraries(headers: &str) -> Vec<String> {
    let needed = headers.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("NEEDED")).then(|| words.next().map(str::to_owned))?
    });
    needed.collect()
}

/// (version, symbol) of every undefined symbol of glibc in `objdump -T`:
/// `0000000000000000      DF *UND* 0000000000000000 (GLIBC_2.34) pthread_create`.
fn glibc_symbols(table: &str) -> impl Iterator<Item = (&str, &str)> {
    table.lines().filter_map(|line| {
        let (_, after) = line.split_once("GLIBC_")?;
        let version = after.split([')', ' ', '\t']).next()?;
        let symbol = line.split_whitespace().next_back()?;
        line.contains("*UND*").then_some((version, symbol))
    })
}

fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map_while(|part| part.parse().ok())
        .collect()
}

fn newest_glibc(table: &str) -> Option<(&str, &str)> {
    glibc_symbols(table).max_by_key(|(version, _)| numbers(version))
}

/// `symbol (version)`; GLIBC_PRIVATE too, which belongs to one build of glibc.
fn too_new(table: &str, glibc: &str) -> Vec<String> {
    glibc_symbols(table)
        .filter(|(version, _)| {
            let numbers = numbers(version);
            numbers.is_empty() || numbers > self::numbers(glibc)
        })
        .map(|(version, symbol)| format!("{symbol} ({version})"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "
DYNAMIC SYMBOL TABLE:
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.2.5) free
0000000000000000      DF *UND*\t0000000000000000 (GLIBC_2.34) pthread_create
0000000000000000  w   DF *UND*\t0000000000000000 (GLIBC_2.9)  gnu_get_libc_version
0000000000000000  w   D  *UND*\t0000000000000000  Base        __gmon_start__
0000000000000000      DF *UND*\t0000000000000000 (GCC_3.0)    _Unwind_GetIP
00000000004a0000 g    DF .text\t0000000000000010 (GLIBC_9.9)  own
";

    #[test]
    fn the_newest_glibc_decides() {
        assert_eq!(newest_glibc(TABLE), Some(("2.34", "pthread_create")));
        assert_eq!(too_new(TABLE, "2.34"), Vec::<String>::new());
        for (version, refused) in [
            ("2.35", true),
            ("3.0", true),
            ("2.34.1", true),
            ("PRIVATE", true),
            ("2.4", false),
        ] {
            let table = TABLE.replace("2.34", version);
            assert_eq!(!too_new(&table, "2.34").is_empty(), refused, "{version}");
        }
    }

    #[test]
    fn libraries_are_read() {
        let headers = "Dynamic Section:\n  NEEDED               libgcc_s.so.1\n  NEEDED               libssl.so.3\n  INIT   0x1\n";
        assert_eq!(needed_libraries(headers), ["libgcc_s.so.1", "libssl.so.3"]);
    }

    #[test]
    fn the_probes_are_found_whole() {
        let probes: Vec<u8> = (0..200).collect();
        let mut program = vec![7; 1000];
        program.extend(&probes[..150]);
        assert!(!holds(&program, &probes));
        program.extend(&probes);
        assert!(holds(&program, &probes));
        assert!(!holds(&program, &[]), "no probes at all are not carried");
    }
}
