//! The probes' compiler and linker.

use super::{Missing, apt, packages};
use crate::process;
use crate::toolchain::{self, LINKER_LLVM, LINKER_VERSION, Toolchain};
use crate::workspace::Workspace;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

const NIGHTLY: &str = "rustup toolchain install nightly --profile minimal --component rust-src";

pub fn ensure(workspace: &Workspace) -> Result<Vec<Missing>> {
    if toolchain::pair(workspace).is_some() {
        return Ok(Vec::new());
    }
    let mut compilers = toolchain::toolchains();
    if !compilers.iter().any(usable) {
        if let Err(error) = install_compiler(workspace) {
            return Ok(vec![Missing {
                what: "a Rust compiler with its sources (for the probes)".to_owned(),
                command: format!(
                    "{} (or: {NIGHTLY})",
                    apt::install_command(&["rustc-web", "rust-web-src", "cargo-web"])
                ),
                cause: Some(format!("{error:#}")),
                optional: false,
            }]);
        }
        compilers = toolchain::toolchains();
    }
    let Some(compiler) = prefer(&compilers) else {
        return Ok(vec![Missing {
            what: "a Rust compiler with its sources (for the probes)".to_owned(),
            command: NIGHTLY.to_owned(),
            cause: Some("what was installed is not usable".to_owned()),
            optional: false,
        }]);
    };
    Ok(install_linker(workspace, compiler)
        .err()
        .map(|error| Missing {
            what: format!(
                "bpf-linker {LINKER_VERSION} with LLVM {} (for the probes)",
                compiler.llvm
            ),
            command: format!(
                "{} && cargo install bpf-linker --version {LINKER_VERSION} --locked \
                 --no-default-features --features llvm-{}",
                apt::install_command(&[&llvm_package(compiler.llvm)]),
                compiler.llvm
            ),
            cause: Some(format!("{error:#}")),
            optional: false,
        })
        .into_iter()
        .collect())
}

fn usable(compiler: &Toolchain) -> bool {
    LINKER_LLVM.contains(&compiler.llvm)
}

/// Among compilers that the linker can follow, one whose LLVM is installed already, else the first.
fn prefer(compilers: &[Toolchain]) -> Option<&Toolchain> {
    let mut usable = compilers.iter().filter(|compiler| usable(compiler));
    let first = usable.clone().next();
    usable
        .find(|compiler| llvm_folder(compiler.llvm).join("bin/llvm-config").exists())
        .or(first)
}

fn llvm_folder(major: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{major}"))
}

fn llvm_package(major: u32) -> String {
    format!("llvm-{major}-dev")
}

fn install_compiler(workspace: &Workspace) -> Result<()> {
    // Debian's, because Debian's LLVM of the same version is what the linker needs.
    if apt::may_install() {
        let debian = apt::install(workspace, &["rustc-web", "rust-web-src", "cargo-web"]);
        if debian.is_ok() && toolchain::toolchains().iter().any(usable) {
            return Ok(());
        }
    }
    anyhow::ensure!(
        process::which("rustup").is_some(),
        "there is neither rustup nor a Debian package to take it from"
    );
    process::logged(
        NIGHTLY,
        Command::new("rustup").args(NIGHTLY.split(' ').skip(1)),
        &workspace.logs().join("rustup.log"),
    )
}

fn install_linker(workspace: &Workspace, compiler: &Toolchain) -> Result<()> {
    let llvm = llvm_folder(compiler.llvm);
    let mut packages = Vec::new();
    let package = llvm_package(compiler.llvm);
    if !llvm.join("bin/llvm-config").exists() {
        packages.push(package.as_str());
    }
    if process::which("c++").is_none() {
        packages.push("g++");
    }
    if !packages.is_empty() {
        anyhow::ensure!(
            apt::may_install(),
            "{} not installed, and only root may install it",
            packages.join(" and ")
        );
        apt::install(workspace, &packages)?;
    }
    let mut command = packages::cargo_install(workspace);
    command
        .args(["bpf-linker", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{}", compiler.llvm))
        .env("RUSTFLAGS", format!("-L {}", llvm.join("lib").display()))
        .env("PATH", process::in_front(&llvm.join("bin")));
    process::logged(
        &format!(
            "building bpf-linker {LINKER_VERSION} with LLVM {} (a minute or two)",
            compiler.llvm
        ),
        &mut command,
        &workspace.logs().join("bpf-linker.log"),
    )?;
    anyhow::ensure!(
        toolchain::pair(workspace).is_some(),
        "bpf-linker was built but does not start"
    );
    Ok(())
}
