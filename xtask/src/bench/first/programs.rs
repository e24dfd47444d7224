//! The programs whose first handshake is looked at: which files they are, and how each is told to make one request.
//!
//! Invariant: a program that cannot be had is named with its reason, and the others are measured.

use crate::bench::servers;
use crate::process;
use crate::setup;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const GO: &str = include_str!("get.go");
const SCRIPT: &str = include_str!("get.mjs");
const WHEEL: &str = include_str!("../../../../agent/tests/programs/wheel.py");
const WHEEL_FILE: &str = "nothing-1.0-py3-none-any.whl";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Name {
    /// curl, whose TLS is the library OpenSSL
    Curl,
    /// A client of Go's net/http
    Go,
    /// The same without symbols
    GoStripped,
    /// The same, position independent
    GoPie,
    Uv,
    Deno,
    Bun,
    Node,
    /// chromium's headless shell, whose network is a process of its own
    Chromium,
}

impl Name {
    pub const ALL: [Self; 9] = [
        Self::Curl,
        Self::Go,
        Self::GoStripped,
        Self::GoPie,
        Self::Uv,
        Self::Deno,
        Self::Bun,
        Self::Node,
        Self::Chromium,
    ];

    pub fn text(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Go => "Go",
            Self::GoStripped => "Go, stripped",
            Self::GoPie => "Go, PIE",
            Self::Uv => "uv",
            Self::Deno => "deno",
            Self::Bun => "bun",
            Self::Node => "node",
            Self::Chromium => "chromium",
        }
    }

    pub fn is_go(self) -> bool {
        matches!(self, Self::Go | Self::GoStripped | Self::GoPie)
    }

    /// How it is built by Go.
    fn go_flags(self) -> &'static [&'static str] {
        match self {
            Self::GoStripped => &["-ldflags=-s -w"],
            Self::GoPie => &["-buildmode=pie"],
            _ => &[],
        }
    }

    fn go_program(self) -> &'static str {
        match self {
            Self::GoStripped => "get-stripped",
            Self::GoPie => "get-pie",
            _ => "get",
        }
    }
}

/// Builds what has to be built: in a virtual machine nothing can be.
pub fn prepare(folder: &Path) -> Result<()> {
    let source = folder.join("get.go");
    fs::write(&source, GO)?;
    for name in [Name::Go, Name::GoStripped, Name::GoPie] {
        let target = folder.join(name.go_program());
        servers::build_go(&source, &target, name.go_flags())?;
    }
    fs::write(folder.join("get.mjs"), SCRIPT)?;
    let script = folder.join("wheel.py");
    fs::write(&script, WHEEL)?;
    let python = setup::system_python().context("no python3")?;
    process::output(Command::new(python).arg(&script).arg(folder)).map(drop)
}

/// One request that a program is told to make.
pub struct Errand<'a> {
    pub url: &'a str,
    pub credential: &'a str,
    /// That the server shows.
    pub certificate: &'a Path,
    /// Where the scripts are.
    pub folder: &'a Path,
    /// For what a program keeps.
    pub home: &'a Path,
}

pub struct Program {
    pub name: Name,
    /// What is copied where it is to be a program that nobody has met: itself first, then the libraries of its TLS.
    pub files: Vec<PathBuf>,
    /// Files beside it that it looks for, which a copy gets as links.
    pub beside: Vec<PathBuf>,
}

impl Program {
    pub fn find(name: Name, workspace: &Workspace, folder: &Path) -> Result<Self> {
        let fixtures = workspace.fixtures();
        let (files, beside) = match name {
            Name::Curl => (curl()?, Vec::new()),
            Name::Go | Name::GoStripped | Name::GoPie => {
                (vec![existing(folder.join(name.go_program()))?], Vec::new())
            }
            Name::Uv => (vec![fixture(&fixtures, "venv/bin/uv")?], Vec::new()),
            Name::Deno => (vec![fixture(&fixtures, "venv/bin/deno")?], Vec::new()),
            Name::Bun => {
                let path = "node/node_modules/@oven/bun-linux-x64/bin/bun";
                (vec![fixture(&fixtures, path)?], Vec::new())
            }
            Name::Node => {
                let node = process::which("node").context("there is no node")?;
                (vec![fs::canonicalize(node)?], Vec::new())
            }
            Name::Chromium => {
                let file = existing("/usr/lib/chromium/chromium-headless-shell".into())?;
                let beside = siblings(&file)?;
                (vec![file], beside)
            }
        };
        Ok(Self {
            name,
            files,
            beside,
        })
    }

    /// Of all that is searched.
    pub fn bytes(&self) -> u64 {
        let sizes = self.files.iter().filter_map(|file| fs::metadata(file).ok());
        sizes.map(|metadata| metadata.len()).sum()
    }

    /// Arguments and variables.
    pub fn call(&self, errand: &Errand) -> (Vec<OsString>, Vec<(&'static str, OsString)>) {
        let Errand {
            url,
            credential,
            certificate,
            folder,
            home,
        } = *errand;
        let mut words: Vec<OsString> = Vec::new();
        let mut variables: Vec<(&'static str, OsString)> = Vec::new();
        let script = || {
            let script = folder.join("get.mjs").into_os_string();
            [script, certificate.into(), url.into(), credential.into()]
        };
        match self.name {
            Name::Curl => {
                words.extend(curl_words(certificate, credential));
                words.push(url.into());
            }
            Name::Go | Name::GoStripped | Name::GoPie => {
                words.extend([certificate.into(), url.into(), credential.into()]);
            }
            Name::Uv => {
                words.extend(
                    ["publish", "--quiet", "--no-cache", "--no-config", "--token"].map(Into::into),
                );
                words.extend([credential, "--publish-url", url].map(Into::into));
                words.push(folder.join(WHEEL_FILE).into());
                variables.push(("SSL_CERT_FILE", certificate.into()));
            }
            Name::Deno => {
                words.extend(["run", "--quiet", "--allow-all", "--no-config"].map(Into::into));
                words.extend(["--no-lock", "--cert"].map(Into::into));
                words.push(certificate.into());
                words.extend(script());
                variables.push(("DENO_DIR", home.join("deno").into()));
                variables.push(("DENO_NO_UPDATE_CHECK", "1".into()));
            }
            Name::Bun => {
                words.extend(script());
                variables.push(("BUN_RUNTIME_TRANSPILER_CACHE_PATH", "0".into()));
                variables.push(("DO_NOT_TRACK", "1".into()));
            }
            Name::Node => {
                words.extend(script());
                variables.push(("NODE_EXTRA_CA_CERTS", certificate.into()));
            }
            Name::Chromium => {
                // As root it has no sandbox. Nobody but the bench's server is asked: its certificate is no authority's.
                words.extend(["--no-sandbox", "--disable-gpu", "--no-first-run"].map(Into::into));
                words.extend(
                    [
                        "--disable-background-networking",
                        "--ignore-certificate-errors",
                    ]
                    .map(Into::into),
                );
                let profile = home.join("chromium");
                words.push(format!("--user-data-dir={}", profile.display()).into());
                words.push("--dump-dom".into());
                words.push(format!("{url}?page=2&access_token={credential}").into());
            }
        }
        (words, variables)
    }
}

/// All but the URL.
pub fn curl_words(certificate: &Path, credential: &str) -> Vec<OsString> {
    let header = format!("Authorization: Bearer {credential}");
    let mut words: Vec<OsString> = ["-q", "-sS", "-f", "-o", "/dev/null"]
        .map(Into::into)
        .to_vec();
    words.extend(["--noproxy", "*", "--max-time", "60"].map(Into::into));
    words.extend(["-H".into(), header.into(), "--cacert".into()]);
    words.push(certificate.into());
    words
}

/// curl, and the libraries of its OpenSSL.
fn curl() -> Result<Vec<PathBuf>> {
    let curl = fs::canonicalize(process::which("curl").context("there is no curl")?)?;
    let linked = process::output(Command::new("ldd").arg(&curl))?;
    let library = |name: &str| {
        let line = linked.lines().find(|line| line.trim().starts_with(name));
        let path = line.and_then(|line| line.split_whitespace().nth(2));
        path.map(PathBuf::from)
            .with_context(|| format!("{} is not linked with {name}", curl.display()))
    };
    Ok(vec![library("libssl.so")?, library("libcrypto.so")?]).map(|libraries| {
        let mut files = vec![curl.clone()];
        files.extend(libraries);
        files
    })
}

/// What setup brings, or what the search path has under the same name.
fn fixture(fixtures: &Path, path: &str) -> Result<PathBuf> {
    let file = fixtures.join(path);
    if file.exists() {
        return Ok(fs::canonicalize(file)?);
    }
    let name = path.rsplit('/').next().unwrap_or(path);
    let other = process::which(name).with_context(|| {
        format!(
            "neither {} nor {name} in the search path",
            fixtures.join(path).display()
        )
    })?;
    Ok(fs::canonicalize(other)?)
}

fn existing(file: PathBuf) -> Result<PathBuf> {
    ensure!(file.exists(), "{} is not there", file.display());
    Ok(file)
}

fn siblings(file: &Path) -> Result<Vec<PathBuf>> {
    let folder = file.parent().context("a program lies in a folder")?;
    let entries = fs::read_dir(folder).with_context(|| format!("{}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path != file);
    Ok(paths)
}
