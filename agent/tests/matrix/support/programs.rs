//! The programs of the matrix: how a table calls each, whose TLS it carries, and how its version is found out.
//!
//! Invariant: a cell about no program of this table is about none: its test fails.

use super::expected::Side;
use super::fixtures;
use super::servers::Wire;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

pub struct Kind {
    pub name: &'static str,
    tls: &'static str,
    /// Names that clients and servers of the tests have, if another.
    called: &'static [&'static str],
    version: Version,
}

enum Version {
    /// Of a package in the virtual environment.
    Package(&'static str),
    /// A program that tells it when given this argument.
    Told(fn() -> anyhow::Result<PathBuf>, &'static str),
    Is(&'static str),
}

const fn kind(name: &'static str, tls: &'static str, version: Version) -> Kind {
    Kind {
        name,
        tls,
        called: &[],
        version,
    }
}

impl Kind {
    const fn called(self, called: &'static [&'static str]) -> Self {
        Self { called, ..self }
    }
}

const OPENSSL: &str = "OpenSSL";
const OWN_OPENSSL: &str = "OpenSSL of its own";
const BORINGSSL: &str = "BoringSSL";
const GNUTLS: &str = "GnuTLS";
const RUSTLS: &str = "rustls";

macro_rules! told {
    ($path:literal, $argument:literal) => {
        Version::Told(|| fixtures::system($path), $argument)
    };
}

pub const ALL: [Kind; 36] = [
    kind("aiohttp", OPENSSL, Version::Package("aiohttp")),
    kind("Apache", OPENSSL, told!("/usr/sbin/apache2", "-v")).called(&["apache"]),
    kind("bun", BORINGSSL, Version::Told(fixtures::bun, "--version")).called(&["bun-fetch"]),
    kind(
        "chromium",
        BORINGSSL,
        told!("/usr/bin/chromium-headless-shell", "--version"),
    ),
    kind(
        "cryptography",
        OWN_OPENSSL,
        Version::Package("cryptography"),
    ),
    kind("curl", OPENSSL, told!("/usr/bin/curl", "--version")).called(&[
        "curl-key-header",
        "curl-query",
        "curl-basic",
    ]),
    kind("curl_cffi", BORINGSSL, Version::Package("curl_cffi")),
    kind("deno", RUSTLS, Version::Package("deno")).called(&["deno-fetch"]),
    kind("git", GNUTLS, told!("/usr/bin/git", "--version")),
    kind(
        "gnutls-cli",
        GNUTLS,
        told!("/usr/bin/gnutls-cli", "--version"),
    ),
    kind(
        "Go",
        "crypto/tls",
        Version::Told(fixtures::go_command, "version"),
    )
    .called(&["go"]),
    kind("Go, oldest", "crypto/tls", Version::Is("1.20.14")).called(&["go-1.20"]),
    kind("granian", RUSTLS, Version::Package("granian")),
    kind("gRPC for Python", BORINGSSL, Version::Package("grpcio")).called(&["grpc"]),
    kind("HAProxy", OPENSSL, told!("/usr/sbin/haproxy", "-v")).called(&["haproxy"]),
    kind("httpx", OPENSSL, Version::Package("httpx")),
    kind("hypercorn", OPENSSL, Version::Package("hypercorn")),
    kind("hyper", RUSTLS, Version::Is("1.12.0")).called(&["rust"]),
    kind("hyper with aws-lc", RUSTLS, Version::Is("1.12.0")).called(&["rust-aws-lc"]),
    kind("impit", RUSTLS, Version::Package("impit")),
    kind("Java", "JSSE", told!("/usr/bin/java", "-version")).called(&["java"]),
    kind("nginx", OPENSSL, told!("/usr/sbin/nginx", "-v")),
    kind("Node.js", OWN_OPENSSL, told!("/usr/bin/node", "--version")).called(&[
        "node",
        "node-fetch",
        "node-https",
    ]),
    kind(
        "Node.js 16",
        "OpenSSL 1.1.1",
        Version::Told(fixtures::old_node, "--version"),
    )
    .called(&["node-16"]),
    kind(
        "openssl s_client",
        OPENSSL,
        told!("/usr/bin/openssl", "version"),
    )
    .called(&["s_client"]),
    kind("primp", RUSTLS, Version::Package("primp")),
    kind(
        "psycopg2's libssl",
        OWN_OPENSSL,
        Version::Package("psycopg2-binary"),
    )
    .called(&["psycopg2"]),
    kind("Python", OPENSSL, told!("/usr/bin/python3", "--version")).called(&["python"]),
    kind("reqwest", RUSTLS, Version::Is("0.12.28")),
    kind("reqwest with aws-lc", RUSTLS, Version::Is("0.12.28")).called(&["reqwest-aws-lc"]),
    kind("requests", OPENSSL, Version::Package("requests")),
    kind(
        "sentry-cli",
        "OpenSSL, vendored in Rust",
        Version::Told(fixtures::sentry_cli, "--version"),
    ),
    kind("uv", RUSTLS, Version::Package("uv")),
    kind("uvicorn", OPENSSL, Version::Package("uvicorn")),
    kind(
        "workerd",
        BORINGSSL,
        Version::Told(fixtures::workerd, "--version"),
    ),
    kind("wget", GNUTLS, told!("/usr/bin/wget", "--version")),
];

/// By the name that a test has for it.
fn kind_of(name: &str) -> &'static Kind {
    static TABLE: &[Kind] = &ALL;
    TABLE
        .iter()
        .find(|kind| kind.name == name || kind.called.contains(&name))
        .unwrap_or_else(|| panic!("no program {name} in the table of programs"))
}

/// What a cell tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    One,
    /// So many at the same time.
    AtOnce(usize),
    /// So many, one after the other.
    InARow(usize),
    /// The connection was open before the agent was there.
    Late,
    /// Not read, and listed.
    Listed,
    /// Among the many of the test `crowd`.
    Crowd,
}

impl Trial {
    /// As the table has it.
    pub fn text(self) -> String {
        match self {
            Self::One => "1".to_owned(),
            Self::AtOnce(count) => format!("{count}c"),
            Self::InARow(count) => format!("{count}s"),
            Self::Late => "late".to_owned(),
            Self::Listed => "listed".to_owned(),
            Self::Crowd => "crowd".to_owned(),
        }
    }
}

/// What one cell says something about.
#[derive(Clone, Debug)]
pub struct Tried {
    kind: &'static Kind,
    side: Side,
    wire: Wire,
    http2: bool,
    trial: Trial,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Tried {
    pub fn client(program: &str, wire: Wire, http2: bool, trial: Trial) -> Self {
        Self {
            kind: kind_of(program),
            side: Side::Client,
            wire,
            http2,
            trial,
        }
    }

    pub fn server(program: &str, wire: Wire, http2: bool, trial: Trial) -> Self {
        Self {
            side: Side::Server,
            ..Self::client(program, wire, http2, trial)
        }
    }

    /// Both ends of what passes between them.
    pub fn both(client: &str, server: &str, wire: Wire, http2: bool, trial: Trial) -> [Self; 2] {
        [
            Self::client(client, wire, http2, trial),
            Self::server(server, wire, http2, trial),
        ]
    }

    /// For the file of cells, which `cargo xtask matrix` reads.
    pub fn json(&self) -> Value {
        json!({
            "program": self.kind.name, "version": version(self.kind), "library": self.kind.tls,
            "side": self.side.name(), "http": if self.http2 { 2 } else { 1 },
            "tls": self.wire.version().strip_prefix("TLSv").unwrap_or_default(), "trial": self.trial.text(),
        })
    }
}

fn version(kind: &'static Kind) -> String {
    static KNOWN: LazyLock<Mutex<HashMap<&'static str, String>>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.entry(kind.name);
    found
        .or_insert_with(|| find(kind).unwrap_or_default())
        .clone()
}

fn find(kind: &Kind) -> Option<String> {
    match kind.version {
        Version::Is(version) => Some(version.to_owned()),
        Version::Package(name) => {
            let out = Command::new(fixtures::venv_python().ok()?)
                .args(["-c", "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"])
                .arg(name)
                .output()
                .ok()?;
            Some(String::from_utf8_lossy(&out.stdout).trim().to_owned())
        }
        Version::Told(program, argument) => {
            let out = Command::new(program().ok()?).arg(argument).output().ok()?;
            let said = [out.stdout, out.stderr].concat();
            version_in(&String::from_utf8_lossy(&said))
        }
    }
}

/// The first number with a point in it, or else a date.
fn version_in(said: &str) -> Option<String> {
    let first = |mark: char| {
        said.split(|c: char| !c.is_ascii_digit() && c != mark)
            .map(|word| word.trim_matches(mark))
            .find(|word| word.contains(mark))
    };
    first('.').or_else(|| first('-')).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::{clients, web};

    #[test]
    fn versions_are_found_in_what_programs_say() {
        for (said, version) in [
            ("curl 7.88.1 (x86_64-pc-linux-gnu) libcurl/7.88.1", "7.88.1"),
            ("go version go1.26.8 linux/amd64", "1.26.8"),
            ("v20.20.2\n", "20.20.2"),
            ("openjdk version \"17.0.19\" 2026-04-21", "17.0.19"),
            ("HAProxy version 2.6.12-1+deb12u3 2025/10/03", "2.6.12"),
            ("workerd 2026-11-17", "2026-11-17"),
        ] {
            assert_eq!(version_in(said).as_deref(), Some(version));
        }
    }

    #[test]
    fn every_client_and_server_is_in_the_table() {
        let clients = clients::CLIENTS.iter().map(|client| client.name);
        for name in clients.chain(web::ALL.iter().map(|web| web.name)) {
            kind_of(name);
        }
    }

    /// What `cargo xtask matrix --readme` writes there.
    #[test]
    fn the_readme_names_these_programs() {
        let readme = include_str!("../../../../README.md");
        let table = readme
            .split_once("<!-- matrix -->")
            .and_then(|(_, rest)| rest.split_once("<!-- end of matrix -->"))
            .map_or("", |(table, _)| table);
        let mut named: Vec<&str> = table
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
            .filter(|first| first.ends_with(|c: char| c.is_ascii_digit()))
            .filter_map(|first| Some(first.rsplit_once(' ')?.0))
            .collect();
        named.sort_unstable();
        named.dedup();
        let mut programs: Vec<_> = ALL.iter().map(|kind| kind.name).collect();
        programs.sort_unstable();
        assert_eq!(named, programs, "cargo xtask matrix --readme");
    }
}
