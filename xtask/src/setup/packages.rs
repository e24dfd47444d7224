//! Which programs and files must be there, and the Debian packages that bring them.
//!
//! What counts is the program, not the package: a newer node or python from elsewhere is as good.

use super::{Missing, Needs, apt, fixtures, machine};
use crate::process;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;
use anyhow::Result;
use std::path::Path;
use std::process::Command;

struct Package {
    name: &'static str,
    proof: Proof,
    /// What cannot be done without it.
    purpose: &'static str,
}

#[derive(Clone, Copy)]
enum Proof {
    Program(&'static str),
    File(&'static str),
    Check(fn(&Workspace) -> bool),
}

impl Proof {
    fn holds(self, workspace: &Workspace) -> bool {
        match self {
            Self::Program(name) => process::which(name).is_some(),
            Self::File(path) => Path::new(path).exists(),
            Self::Check(check) => check(workspace),
        }
    }
}

const fn program(name: &'static str, program: &'static str, purpose: &'static str) -> Package {
    Package {
        name,
        proof: Proof::Program(program),
        purpose,
    }
}

const BUILD: &[Package] = &[
    program("gcc", "cc", "linking the agent"),
    Package {
        name: "libc6-dev",
        proof: Proof::File("/usr/include/stdlib.h"),
        purpose: "linking the agent",
    },
];

const DEMO: &[Package] = &[
    program("nginx-light", "nginx", "the demo's server"),
    program("curl", "curl", "a client of the demo"),
    program("wget", "wget", "a client of the demo"),
    program("nodejs", "node", "a client of the demo"),
    program("openssl", "openssl", "the demo's certificate"),
    Package {
        name: "python3-venv",
        proof: Proof::Check(fixtures::has_venv),
        purpose: "the demo's Python clients",
    },
];

/// Those with a file as their proof are run by their path.
const TEST: &[Package] = &[
    Package {
        name: "gcc",
        proof: Proof::File("/usr/bin/gcc"),
        purpose: "small programs of the tests",
    },
    program("binutils", "strip", "programs without symbols"),
    Package {
        name: "nodejs",
        proof: Proof::File("/usr/bin/node"),
        purpose: "node as a client and a server",
    },
    program("git", "git", "git as a client"),
    program("gnutls-bin", "gnutls-cli", "GnuTLS as a client"),
    program("socat", "socat", "Unix sockets and proxies"),
    program("iproute2", "ip", "network namespaces"),
    program("fuse3", "fusermount3", "the file system that loses power"),
    program(
        "bindfs",
        "bindfs",
        "a file system that hangs below a library",
    ),
    program("podman", "podman", "the container cell"),
    program("npm", "npm", "programs from npm as clients"),
    Package {
        name: "default-jdk-headless",
        proof: Proof::File("/usr/bin/javac"),
        purpose: "the Java client, which must be listed as unread",
    },
    program("golang-go", "go", "the Go client and server"),
    program("apache2-bin", "apache2", "Apache as a server"),
    program("haproxy", "haproxy", "HAProxy as a server"),
    program(
        "chromium-headless-shell",
        "chromium-headless-shell",
        "chromium as a client",
    ),
    program("wrk", "wrk", "load, for the bench and the loss counters"),
    program("gdb", "gdb", "a debugger beside the agent"),
    program("valgrind", "valgrind", "a program that runs translated"),
    program("linux-perf", "perf", "counters beside the agent's"),
    program(
        "rsync",
        "rsync",
        "libraries that are overwritten in their place",
    ),
];

const BENCH: &[Package] = &[
    program("wrk", "wrk", "the bench's load"),
    program("nghttp2-client", "h2load", "the bench's load over HTTP/2"),
    program("golang-go", "go", "a server of the bench"),
];

const PROGRAMS: &[Package] = &[
    program("npm", "npm", "programs from npm as clients"),
    program(
        "chromium-headless-shell",
        "chromium-headless-shell",
        "chromium as a client",
    ),
];

const ENGINES: &[Package] = &[Package {
    name: "python3-venv",
    proof: Proof::Check(fixtures::has_venv),
    purpose: "DuckDB and chDB",
}];

const DIST: &[Package] = &[
    program("binutils", "objdump", "looking into the binary"),
    program("dpkg", "dpkg-deb", "the Debian package"),
];

const VM: &[Package] = &[
    program("qemu-system-x86", "qemu-system-x86_64", "virtual machines"),
    program("busybox-static", "busybox", "starting virtual machines"),
    program("kmod", "depmod", "the virtual machines' modules"),
    program("file", "file", "finding out a kernel's version"),
    // Without it virtme-ng finds no ports for its streams: a machine's output and status are lost.
    program("udev", "udevadm", "the virtual machines' devices"),
    program("iproute2", "ip", "the virtual machines' loopback"),
    Package {
        name: "python3-venv",
        proof: Proof::Check(machine::has_venv),
        purpose: "virtme-ng",
    },
    program(
        "mmdebstrap",
        "mmdebstrap",
        "the Debian root that packages are tried in",
    ),
    program("e2fsprogs", "mke2fs", "its disk image"),
    program("openssl", "openssl", "its web server's certificate"),
];

pub fn ensure(workspace: &Workspace, needs: Needs) -> Result<Vec<Missing>> {
    let wanted = [
        (needs.build, BUILD),
        (needs.demo, DEMO),
        (needs.test, TEST),
        (needs.bench, BENCH),
        (needs.programs, PROGRAMS),
        (needs.engines, ENGINES),
        (needs.dist, DIST),
        (needs.vm, VM),
    ];
    let mut absent: Vec<&Package> = Vec::new();
    for package in wanted
        .into_iter()
        .filter(|(needed, _)| *needed)
        .flat_map(|(_, packages)| packages)
    {
        let known = absent.iter().any(|other| other.name == package.name);
        if !known && !package.proof.holds(workspace) {
            absent.push(package);
        }
    }
    if absent.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = absent.iter().map(|package| package.name).collect();
    let cause = if apt::may_install() {
        apt::install(workspace, &names)
            .err()
            .map(|error| format!("{error:#}"))
    } else if apt::is_there() {
        Some("only root may install packages".to_owned())
    } else {
        Some(
            "this system has no apt-get: use its own package manager, by Debian's names".to_owned(),
        )
    };
    Ok(absent
        .into_iter()
        .filter(|package| !package.proof.holds(workspace))
        .map(|package| Missing {
            what: format!("{} ({})", package.name, package.purpose),
            command: apt::install_command(&[package.name]),
            cause: cause.clone(),
            optional: PROGRAMS.iter().any(|other| other.name == package.name) && !needs.test,
        })
        .collect())
}

/// `cargo install` into the cache, by a profile that is soon done: these are tools of a build, not the thing built.
pub fn cargo_install(workspace: &Workspace) -> Command {
    let mut command = workspace.cargo();
    command
        .args(["install", "--locked", "--root"])
        .arg(workspace.tools())
        // Its crates are of no use for anything else.
        .env("CARGO_TARGET_DIR", workspace.target.join("tools"));
    for (name, value) in [
        ("OPT_LEVEL", "1"),
        ("LTO", "off"),
        ("CODEGEN_UNITS", "16"),
        ("DEBUG", "0"),
    ] {
        command.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    command
}

/// rustfmt and clippy, which a minimal toolchain lacks.
pub fn add_rust_components(workspace: &Workspace) -> Result<Vec<Missing>> {
    const COMPONENTS: [(&str, &str, &str); 2] = [
        ("fmt", "rustfmt", "rustfmt-web"),
        ("clippy", "clippy", "rust-web-clippy"),
    ];
    let works = |subcommand: &str| {
        process::output(workspace.cargo().args([subcommand, "--version"])).is_ok()
    };
    let mut missing = Vec::new();
    for (subcommand, component, package) in COMPONENTS {
        if works(subcommand) {
            continue;
        }
        let (command, outcome) = if process::which("rustup").is_some() {
            let outcome = process::logged(
                &format!("rustup component add {component}"),
                Command::new("rustup").args(["component", "add", component]),
                &workspace.logs().join("rustup.log"),
            );
            (format!("rustup component add {component}"), outcome)
        } else if apt::may_install() {
            (
                apt::install_command(&[package]),
                apt::install(workspace, &[package]),
            )
        } else {
            (apt::install_command(&[package]), Ok(()))
        };
        if !works(subcommand) {
            missing.push(Missing {
                what: format!("cargo {subcommand}"),
                command,
                cause: outcome.err().map(|error| format!("{error:#}")),
                optional: false,
            });
        }
    }
    Ok(missing)
}

/// clippy for the probes' own compiler; returns the command that would bring it if it could not be had.
pub fn add_probe_clippy(workspace: &Workspace, toolchain: &Toolchain) -> Option<String> {
    let bin = toolchain.rustc.parent()?;
    let there = || bin.join("clippy-driver").exists() && bin.join("cargo-clippy").exists();
    if there() {
        return None;
    }
    if bin == Path::new("/usr/bin") {
        const PACKAGE: &str = "rust-web-clippy";
        if apt::may_install() {
            // Whether it worked is seen by looking; what it said is in its log.
            let _ = apt::install(workspace, &[PACKAGE]);
        }
        return (!there()).then(|| apt::install_command(&[PACKAGE]));
    }
    let name = bin.parent()?.file_name()?.to_string_lossy().into_owned();
    let arguments = ["component", "add", "clippy", "--toolchain", &name];
    let _ = process::logged(
        &format!("rustup {}", arguments.join(" ")),
        Command::new("rustup").args(arguments),
        &workspace.logs().join("rustup.log"),
    );
    (!there()).then(|| format!("rustup {}", arguments.join(" ")))
}
