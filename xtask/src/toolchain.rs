//! Which compiler builds the probes.
//!
//! The probes' target has no ready-made `core`, so it is built from the compiler's own sources (`-Zbuild-std`): a
//! toolchain is of use when its sources lie beside it. That is a rustup toolchain with the component `rust-src`
//! (nightly, or a stable one told to accept `-Z` by `RUSTC_BOOTSTRAP`), or Debian's `rustc-web` with `rust-web-src`.
//! The linker reads the compiler's LLVM bitcode, so its LLVM must not be older than the compiler's.
//!
//! Invariant: nothing is installed here; this only looks.

use crate::process;
use crate::workspace::Workspace;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// bpf-linker's version, and the LLVM versions that it can be built with.
pub const LINKER_VERSION: &str = "0.13.0";
pub const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// A compiler with its sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    pub rustc: PathBuf,
    pub cargo: Option<PathBuf>,
    pub release: String,
    pub llvm: u32,
}

/// A linker that starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linker {
    pub path: PathBuf,
    pub version: String,
    /// Unknown when LLVM is linked statically.
    pub llvm: Option<u32>,
}

impl Linker {
    pub fn fits(&self, toolchain: &Toolchain) -> bool {
        self.version == LINKER_VERSION && self.llvm.is_none_or(|llvm| llvm >= toolchain.llvm)
    }
}

/// Every usable compiler, best first: what a developer keeps for this purpose, then Debian's.
pub fn toolchains() -> Vec<Toolchain> {
    let mut found: Vec<Toolchain> = sysroots().iter().filter_map(|root| inspect(root)).collect();
    found.dedup();
    found
}

/// The pair to build with: a linker that is there decides over one that would have to be built.
pub fn pair(workspace: &Workspace) -> Option<(Toolchain, Linker)> {
    let toolchains = toolchains();
    linkers(workspace).into_iter().find_map(|linker| {
        let toolchain = toolchains.iter().find(|toolchain| linker.fits(toolchain))?;
        Some((toolchain.clone(), linker))
    })
}

fn sysroots() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    let mut rustup: Vec<PathBuf> = home
        .and_then(|home| fs::read_dir(home.join("toolchains")).ok())
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    // Nightly first: it needs no exception from the compiler's stability rules.
    rustup.sort_by_key(|path| !path.to_string_lossy().contains("nightly"));
    rustup.push(PathBuf::from("/usr"));
    rustup
}

fn inspect(sysroot: &Path) -> Option<Toolchain> {
    let sources = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    let rustc = sysroot.join("bin/rustc");
    if !sources.exists() || !rustc.exists() {
        return None;
    }
    let (release, llvm) = parse_version(&process::output(Command::new(&rustc).arg("-vV")).ok()?)?;
    // The oldest that the workspace accepts is also the oldest that the probes' crates compile with.
    if !at_least(&release, env!("CARGO_PKG_RUST_VERSION")) {
        return None;
    }
    let cargo = Some(sysroot.join("bin/cargo")).filter(|cargo| cargo.exists());
    Some(Toolchain {
        rustc,
        cargo,
        release,
        llvm,
    })
}

/// (release, LLVM major) of `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((field("release: ")?.to_owned(), llvm))
}

/// Compares dotted numbers; what follows a `-` does not count.
fn at_least(version: &str, wanted: &str) -> bool {
    let numbers = |text: &str| -> Vec<u32> {
        text.split('-')
            .next()
            .unwrap_or_default()
            .split('.')
            .map(|part| part.parse().unwrap_or(0))
            .collect()
    };
    numbers(version) >= numbers(wanted)
}

/// Our own linker first: its version is the one that was tried.
pub fn linkers(workspace: &Workspace) -> Vec<Linker> {
    [
        Some(own_linker(workspace)).filter(|path| path.exists()),
        process::which("bpf-linker"),
    ]
    .into_iter()
    .flatten()
    .filter_map(|path| {
        let version = process::output(Command::new(&path).arg("--version")).ok()?;
        let llvm = process::output(Command::new("ldd").arg(&path))
            .ok()
            .and_then(|text| linked_llvm(&text));
        Some(Linker {
            version: version.split_whitespace().nth(1)?.to_owned(),
            path,
            llvm,
        })
    })
    .collect()
}

pub fn own_linker(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("bin/bpf-linker")
}

fn linked_llvm(ldd: &str) -> Option<u32> {
    let name = ldd
        .split_whitespace()
        .find(|word| word.starts_with("libLLVM"))?;
    // libLLVM.so.22.1 in LLVM's own naming, libLLVM-21.so in the older one.
    name.split(|character: char| !character.is_ascii_digit())
        .find(|digits| !digits.is_empty())?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_tells_its_release_and_llvm() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".into(), 22)));
        assert_eq!(parse_version("release: 1.96.0\n"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        for (version, wanted, expected) in [
            ("1.96.0", "1.95", true),
            ("1.95.0", "1.95", true),
            ("1.100.0-nightly", "1.95", true),
            ("1.85.0", "1.95", false),
            ("1.9.0", "1.95", false),
        ] {
            assert_eq!(at_least(version, wanted), expected, "{version} {wanted}");
        }
    }

    #[test]
    fn the_linker_tells_its_llvm() {
        for (text, llvm) in [
            (
                "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x7f)",
                Some(22),
            ),
            ("\tlibLLVM-21.so => /usr/lib/libLLVM-21.so (0x7f)", Some(21)),
            ("\tlibc.so.6 => /lib/libc.so.6 (0x7f)", None),
        ] {
            assert_eq!(linked_llvm(text), llvm);
        }
    }

    #[test]
    fn an_older_llvm_does_not_fit() {
        let toolchain = Toolchain {
            rustc: "/usr/bin/rustc".into(),
            cargo: None,
            release: "1.96.0".into(),
            llvm: 22,
        };
        let linker = |version: &str, llvm| Linker {
            path: "/x".into(),
            version: version.into(),
            llvm,
        };
        assert!(linker(LINKER_VERSION, Some(22)).fits(&toolchain));
        assert!(linker(LINKER_VERSION, None).fits(&toolchain));
        assert!(!linker(LINKER_VERSION, Some(21)).fits(&toolchain));
        assert!(!linker("0.9.15", Some(22)).fits(&toolchain));
    }
}
