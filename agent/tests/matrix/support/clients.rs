//! The clients: how each real program is told to send one request with one credential.

use super::lab::Lab;
use super::process::{Place, Program, Spec};
use super::servers::{Target, Wire};
use super::{fixtures, seconds};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::path::PathBuf;

/// One request to make.
pub struct Errand<'a> {
    pub lab: &'a Lab,
    pub target: Target,
    /// Path of the cell; what the client asks for begins with it.
    pub path: String,
    pub credential: String,
}

/// What to start, and what will be on the wire.
pub struct Call {
    pub spec: Spec,
    /// The path that carries the credential.
    pub path: String,
    pub carrier: &'static str,
    pub scheme: &'static str,
    /// The executable that owns the socket.
    pub executable: PathBuf,
    /// The socket belongs to a descendant of the started process.
    pub descendant: bool,
    /// It takes the end of its standard input for the end of the connection.
    pub holds_stdin: bool,
}

pub struct Client {
    pub name: &'static str,
    call: fn(&Errand) -> Result<Call>,
    wires: &'static [Wire],
}

/// What a client run was, once it has ended.
pub struct Ran {
    pub pid: u32,
    pub call: Call,
    /// Its own word for the answer's status.
    pub status: u16,
    pub stdout: Vec<String>,
}

const TLS_ONLY: &[Wire] = &[Wire::Tls12, Wire::Tls13];

pub const CURL: Client = Client {
    name: "curl",
    call: curl,
    wires: &Wire::ALL,
};

/// rustls with ring.
pub const REQWEST: Client = Client {
    name: "reqwest",
    call: reqwest,
    wires: &Wire::ALL,
};

/// Not read. It speaks TLS 1.2 at most.
pub const MBEDTLS: Client = Client {
    name: "mbedtls",
    call: mbedtls,
    wires: &[Wire::Tls12],
};

/// Every client whose traffic the agent reads.
pub const CLIENTS: [Client; 29] = [
    CURL,
    Client {
        name: "curl-key-header",
        call: curl_key_header,
        wires: &Wire::ALL,
    },
    Client {
        name: "curl-query",
        call: curl_query,
        wires: &Wire::ALL,
    },
    Client {
        name: "curl-basic",
        call: curl_basic,
        wires: &Wire::ALL,
    },
    Client {
        name: "wget",
        call: wget,
        wires: &Wire::ALL,
    },
    Client {
        name: "git",
        call: git,
        wires: &Wire::ALL,
    },
    Client {
        name: "requests",
        call: requests,
        wires: &Wire::ALL,
    },
    Client {
        name: "httpx",
        call: httpx,
        wires: &Wire::ALL,
    },
    Client {
        name: "aiohttp",
        call: aiohttp,
        wires: &Wire::ALL,
    },
    Client {
        name: "curl_cffi",
        call: curl_cffi,
        wires: &Wire::ALL,
    },
    Client {
        name: "cryptography",
        call: cryptography,
        wires: TLS_ONLY,
    },
    Client {
        name: "psycopg2",
        call: psycopg2,
        wires: TLS_ONLY,
    },
    Client {
        name: "node-fetch",
        call: node_fetch,
        wires: &Wire::ALL,
    },
    Client {
        name: "node-https",
        call: node_https,
        wires: &Wire::ALL,
    },
    Client {
        name: "node-16",
        call: old_node,
        wires: &Wire::ALL,
    },
    Client {
        name: "bun-fetch",
        call: bun_fetch,
        wires: &Wire::ALL,
    },
    Client {
        name: "go",
        call: go,
        wires: &Wire::ALL,
    },
    Client {
        name: "go-1.20",
        call: oldest_go,
        wires: TLS_ONLY,
    },
    Client {
        name: "chromium",
        call: chromium,
        wires: &Wire::ALL,
    },
    Client {
        name: "deno-fetch",
        call: deno_fetch,
        wires: &Wire::ALL,
    },
    Client {
        name: "uv",
        call: uv,
        wires: &Wire::ALL,
    },
    Client {
        name: "primp",
        call: primp,
        wires: &Wire::ALL,
    },
    Client {
        name: "impit",
        call: impit,
        wires: &Wire::ALL,
    },
    REQWEST,
    Client {
        name: "reqwest-aws-lc",
        call: reqwest_aws_lc,
        wires: &Wire::ALL,
    },
    Client {
        name: "sentry-cli",
        call: sentry_cli,
        wires: &Wire::ALL,
    },
    Client {
        name: "workerd",
        call: workerd,
        wires: &Wire::ALL,
    },
    Client {
        name: "s_client",
        call: s_client,
        wires: TLS_ONLY,
    },
    Client {
        name: "gnutls-cli",
        call: gnutls_cli,
        wires: TLS_ONLY,
    },
];

impl Client {
    pub fn speaks(&self, wire: Wire) -> bool {
        self.wires.contains(&wire)
    }

    /// What to start; an error says which program is missing.
    pub fn call(&self, errand: &Errand) -> Result<Call> {
        (self.call)(errand)
    }

    /// One process that asks all of these, one after the other on one connection; `None` if the client cannot.
    pub fn call_in_a_row(&self, errands: &[Errand]) -> Option<Result<Call>> {
        let (first, more) = errands.split_first()?;
        if self.name == CURL.name {
            return Some(curl_in_a_row(first, more));
        }
        IN_A_ROW.contains(&self.name).then(|| {
            let mut call = self.call(first)?;
            call.spec = call.spec.stdin(format!("{}\n", plan(first, more)));
            Ok(call)
        })
    }

    /// Makes the request and waits for the client's end.
    pub fn run(&self, errand: &Errand, place: &Place) -> Result<Ran> {
        run(self.call(errand)?, errand, place)
    }
}

/// Clients that take `more` of a plan.
const IN_A_ROW: [&str; 15] = [
    "requests",
    "httpx",
    "aiohttp",
    "curl_cffi",
    "node-fetch",
    "node-https",
    "node-16",
    "bun-fetch",
    "go",
    "go-1.20",
    "deno-fetch",
    "primp",
    "impit",
    "reqwest",
    "reqwest-aws-lc",
];

/// Runs what was prepared by [`Client::call`], perhaps changed since.
pub fn run(call: Call, errand: &Errand, place: &Place) -> Result<Ran> {
    Running::start(call, errand.lab, place)?.finish()
}

/// A client that has been started.
pub struct Running {
    call: Call,
    program: Program,
}

impl Running {
    pub fn start(call: Call, lab: &Lab, place: &Place) -> Result<Self> {
        let spec = call.spec.clone().folder(lab.folder());
        let program = Program::start(&spec, place)?;
        Ok(Self { call, program })
    }

    /// Waits for its end.
    pub fn finish(self) -> Result<Ran> {
        let Self { call, mut program } = self;
        let pid = program.pid();
        if call.holds_stdin {
            program.wait(seconds(60))?;
        }
        let finished = program.finish()?;
        let name = call.spec.program.display();
        ensure!(
            finished.status.success(),
            "{name}: {}: {}",
            finished.status,
            finished.stderr.trim()
        );
        let said = finished
            .stdout
            .iter()
            .rev()
            .find_map(|line| status_in(line));
        let status =
            said.with_context(|| format!("{name} said no status: {:?}", finished.stdout))?;
        Ok(Ran {
            pid,
            call,
            status,
            stdout: finished.stdout,
        })
    }
}

/// A line that is, or begins with, a status (`200 ...`), or a status line (`HTTP/1.1 200 OK`).
fn status_in(line: &str) -> Option<u16> {
    let line = line.strip_prefix("HTTP/1.1 ").unwrap_or(line);
    line.split_whitespace()
        .next()?
        .parse()
        .ok()
        .filter(|status| (100..600).contains(status))
}

fn bearer(spec: Spec, errand: &Errand) -> Call {
    Call {
        executable: spec.executable(),
        spec,
        path: errand.path.clone(),
        carrier: "header:authorization",
        scheme: "Bearer",
        descendant: false,
        holds_stdin: false,
    }
}

/// What curl prints at its end: status, its own end, the other end.
const CURL_FACTS: &str = "%{http_code} %{local_ip} %{local_port} %{remote_ip} %{remote_port}\n";

fn bare_curl(errand: &Errand, path: &str) -> Result<Spec> {
    Ok(Spec::new(fixtures::system("/usr/bin/curl")?)
        .args([
            "-q",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            CURL_FACTS,
            "--noproxy",
            "*",
            "--cacert",
        ])
        .arg(errand.lab.certificate())
        .arg(errand.target.url(path)))
}

fn curl(errand: &Errand) -> Result<Call> {
    let header = format!("Authorization: Bearer {}", errand.credential);
    Ok(bearer(
        bare_curl(errand, &errand.path)?.arg("-H").arg(header),
        errand,
    ))
}

/// A section of its arguments for each.
fn curl_in_a_row(first: &Errand, more: &[Errand]) -> Result<Call> {
    let mut call = curl(first)?;
    for errand in more {
        let section = curl(errand)?.spec.args;
        call.spec = call.spec.arg("--next").args(section);
    }
    Ok(call)
}

fn curl_key_header(errand: &Errand) -> Result<Call> {
    let spec = bare_curl(errand, &errand.path)?
        .arg("-H")
        .arg(format!("X-Api-Key: {}", errand.credential));
    Ok(Call {
        carrier: "header:x-api-key",
        scheme: "api-key",
        ..bearer(spec, errand)
    })
}

fn curl_query(errand: &Errand) -> Result<Call> {
    let spec = bare_curl(
        errand,
        &format!("{}?page=2&access_token={}", errand.path, errand.credential),
    )?;
    Ok(Call {
        carrier: "query:access_token",
        ..bearer(spec, errand)
    })
}

fn curl_basic(errand: &Errand) -> Result<Call> {
    let spec = bare_curl(errand, &errand.path)?
        .arg("-u")
        .arg(format!("x-access-token:{}", errand.credential));
    Ok(Call {
        scheme: "Basic",
        ..bearer(spec, errand)
    })
}

/// Debian's wget is built with GnuTLS. Its exit status says whether the answer was 200.
fn wget(errand: &Errand) -> Result<Call> {
    let spec = Spec::new("/bin/sh")
        .args(["-c", r#""$@" && echo 200"#, "sh"])
        .arg(fixtures::system("/usr/bin/wget")?)
        .args([
            "--no-config",
            "--no-hsts",
            "--no-proxy",
            "-q",
            "-O",
            "/dev/null",
        ])
        .arg(format!(
            "--ca-certificate={}",
            errand.lab.certificate().display()
        ))
        .arg(format!(
            "--header=Authorization: Bearer {}",
            errand.credential
        ))
        .arg(errand.target.url(&errand.path));
    Ok(Call {
        executable: "/usr/bin/wget".into(),
        descendant: true,
        ..bearer(spec, errand)
    })
}

/// git asks without a credential first, is refused, and asks again with Basic (libcurl over GnuTLS).
fn git(errand: &Errand) -> Result<Call> {
    let repository = format!("{}/repository.git", errand.path);
    let url = errand.target.url(&repository).replacen(
        "://",
        &format!("://x-access-token:{}@", errand.credential),
        1,
    );
    let spec = Spec::new("/bin/sh")
        .args(["-c", r#""$@" >/dev/null && echo 200"#, "sh"])
        .arg(fixtures::system("/usr/bin/git")?)
        .args(["ls-remote"])
        .arg(url)
        .env("GIT_SSL_CAINFO", errand.lab.certificate())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_TERMINAL_PROMPT", "0");
    let executable =
        std::fs::canonicalize("/usr/lib/git-core/git-remote-http").context("git-remote-http")?;
    Ok(Call {
        path: format!("{repository}/info/refs"),
        scheme: "Basic",
        executable,
        descendant: true,
        ..bearer(spec, errand)
    })
}

/// A client of ours over somebody's library: told what to do on standard input.
fn script(errand: &Errand, spec: Spec) -> Call {
    bearer(spec.stdin(format!("{}\n", plan(errand, &[]))), errand)
}

fn plan(errand: &Errand, more: &[Errand]) -> serde_json::Value {
    let url = |errand: &Errand| errand.target.url(&errand.path);
    let headers =
        |errand: &Errand| json!([["Authorization", format!("Bearer {}", errand.credential)]]);
    let more: Vec<_> = more
        .iter()
        .map(|errand| json!([url(errand), headers(errand)]))
        .collect();
    json!({
        "url": url(errand), "method": "GET", "body": "", "ca": errand.lab.certificate(),
        "headers": headers(errand), "highest": errand.target.wire.version(), "more": more,
    })
}

fn go(errand: &Errand) -> Result<Call> {
    Ok(script(errand, Spec::new(fixtures::go_client()?)))
}

fn oldest_go(errand: &Errand) -> Result<Call> {
    Ok(script(errand, Spec::new(fixtures::oldest_go_client()?)))
}

fn venv(errand: &Errand, name: &str) -> Result<Call> {
    Ok(script(
        errand,
        Spec::new(fixtures::venv_python()?).arg(errand.lab.path(name)),
    ))
}

fn mbedtls(errand: &Errand) -> Result<Call> {
    fixtures::venv_package("mbedtls")?;
    venv(errand, "client_mbedtls.py")
}

fn requests(errand: &Errand) -> Result<Call> {
    venv(errand, "client_requests.py")
}

fn httpx(errand: &Errand) -> Result<Call> {
    venv(errand, "client_httpx.py")
}

fn aiohttp(errand: &Errand) -> Result<Call> {
    venv(errand, "client_aiohttp.py")
}

fn curl_cffi(errand: &Errand) -> Result<Call> {
    venv(errand, "client_curl_cffi.py")
}

fn cryptography(errand: &Errand) -> Result<Call> {
    venv(errand, "client_cryptography.py")
}

fn psycopg2(errand: &Errand) -> Result<Call> {
    venv(errand, "client_psycopg2.py")
}

fn node(errand: &Errand, name: &str) -> Result<Call> {
    let spec = Spec::new(fixtures::system("/usr/bin/node")?).arg(errand.lab.path(name));
    Ok(script(
        errand,
        spec.env("NODE_EXTRA_CA_CERTS", errand.lab.certificate()),
    ))
}

fn node_fetch(errand: &Errand) -> Result<Call> {
    node(errand, "client_fetch.mjs")
}

fn node_https(errand: &Errand) -> Result<Call> {
    node(errand, "client_https.mjs")
}

/// OpenSSL 1.1.1. It has no fetch that is on by default.
fn old_node(errand: &Errand) -> Result<Call> {
    let spec = Spec::new(fixtures::old_node()?).arg(errand.lab.path("client_https.mjs"));
    Ok(script(
        errand,
        spec.env("NODE_EXTRA_CA_CERTS", errand.lab.certificate()),
    ))
}

fn reqwest(errand: &Errand) -> Result<Call> {
    Ok(script(errand, Spec::new(fixtures::rust_ring()?)))
}

fn reqwest_aws_lc(errand: &Errand) -> Result<Call> {
    Ok(script(errand, Spec::new(fixtures::rust_aws_lc()?)))
}

fn bun_fetch(errand: &Errand) -> Result<Call> {
    let spec = Spec::new(fixtures::bun()?).arg(errand.lab.path("client_fetch.mjs"));
    Ok(script(
        errand,
        spec.env("BUN_RUNTIME_TRANSPILER_CACHE_PATH", "0")
            .env("DO_NOT_TRACK", "1"),
    ))
}

/// rustls with aws-lc.
fn deno_fetch(errand: &Errand) -> Result<Call> {
    let spec = Spec::new(fixtures::venv_program("deno")?)
        .args(["run", "--quiet", "--allow-all", "--no-config", "--no-lock"])
        .arg("--cert")
        .arg(errand.lab.certificate())
        .arg(errand.lab.path("client_fetch.mjs"))
        .env("DENO_DIR", errand.lab.path("deno"))
        .env("DENO_NO_UPDATE_CHECK", "1");
    Ok(script(errand, spec))
}

/// uv publishes a package: rustls with aws-lc. Its exit status says whether the answer was 200.
fn uv(errand: &Errand) -> Result<Call> {
    let spec = Spec::new("/bin/sh")
        .args(["-c", r#""$@" && echo 200"#, "sh"])
        .arg(fixtures::venv_program("uv")?)
        .args(["publish", "--quiet", "--no-cache", "--no-config"])
        .args(["--token", &errand.credential, "--publish-url"])
        .arg(errand.target.url(&errand.path))
        .arg(fixtures::wheel()?)
        .env("SSL_CERT_FILE", errand.lab.certificate());
    Ok(Call {
        scheme: "Basic",
        executable: fixtures::venv_program("uv")?,
        descendant: true,
        ..bearer(spec, errand)
    })
}

fn primp(errand: &Errand) -> Result<Call> {
    venv(errand, "client_primp.py")
}

fn impit(errand: &Errand) -> Result<Call> {
    venv(errand, "client_impit.py")
}

/// Its network service is a process of its own. It shows the page that it got.
fn chromium(errand: &Errand) -> Result<Call> {
    let path = format!("{}?page=2&access_token={}", errand.path, errand.credential);
    let spec = Spec::new("/bin/sh")
        .args(["-c", r#""$@" | grep -q ok && echo 200"#, "sh"])
        .arg(fixtures::system("/usr/bin/chromium-headless-shell")?)
        // As root it has no sandbox.
        .args(["--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args([
            "--disable-background-networking",
            "--ignore-certificate-errors",
        ])
        .arg(format!(
            "--user-data-dir={}",
            errand.lab.path("chromium").display()
        ))
        .arg("--dump-dom")
        .arg(errand.target.url(&path));
    Ok(Call {
        carrier: "query:access_token",
        executable: fixtures::system("/usr/lib/chromium/chromium-headless-shell")?,
        descendant: true,
        ..bearer(spec, errand)
    })
}

/// It asks for the releases of an organisation, which is named like the cell, and complains of an answer that is good
/// and no JSON.
fn sentry_cli(errand: &Errand) -> Result<Call> {
    let organisation = errand.path.replace('/', "-");
    let organisation = organisation.trim_start_matches('-');
    let properties = errand.lab.path("sentry.properties");
    // The test's certificate is no authority.
    std::fs::write(&properties, "http.verify_ssl=false\n").context("write sentry.properties")?;
    let spec = Spec::new("/bin/sh")
        .args([
            "-c",
            r#""$@" 2>&1 | grep -q "not a JSON response" && echo 200"#,
            "sh",
        ])
        .arg(fixtures::sentry_cli()?)
        .args(["releases", "list", "--org", organisation])
        .env("SENTRY_PROPERTIES", properties)
        .env("SENTRY_URL", errand.target.url(""))
        .env("SENTRY_AUTH_TOKEN", &errand.credential);
    Ok(Call {
        path: format!("/api/0/organizations/{organisation}/releases/"),
        executable: fixtures::sentry_cli()?,
        descendant: true,
        ..bearer(spec, errand)
    })
}

/// A worker's configuration (workerd.capnp), which reaches loopback and trusts the test's certificate.
const WORKER: &str = r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (services = [
  (name = "client", worker = (
    modules = [(name = "client_workerd.mjs", esModule = embed "client_workerd.mjs")],
    bindings = [(name = "PLAN", fromEnvironment = "PLAN")],
    compatibilityDate = "2025-01-01", globalOutbound = "loopback")),
  (name = "loopback", network = (allow = ["local"], tlsOptions = (trustedCertificates = [embed "certificate.pem"]))),
]);
"#;

fn workerd(errand: &Errand) -> Result<Call> {
    let config = errand.lab.path("workerd.capnp");
    std::fs::write(&config, WORKER).context("write workerd.capnp")?;
    let spec = Spec::new(fixtures::workerd()?)
        .arg("test")
        .arg(config)
        .env("PLAN", plan(errand, &[]).to_string());
    Ok(bearer(spec, errand))
}

fn raw_request(errand: &Errand) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        errand.path, errand.target.address, errand.credential
    )
}

fn s_client(errand: &Errand) -> Result<Call> {
    let spec = Spec::new(fixtures::system("/usr/bin/openssl")?)
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &errand.target.address.to_string(),
            "-CAfile",
        ])
        .arg(errand.lab.certificate());
    Ok(bearer(spec.stdin(raw_request(errand)), errand))
}

fn gnutls_cli(errand: &Errand) -> Result<Call> {
    let spec = Spec::new(fixtures::system("/usr/bin/gnutls-cli")?)
        .args(["--port", &errand.target.address.port().to_string()])
        .arg(format!(
            "--x509cafile={}",
            errand.lab.certificate().display()
        ))
        .arg(errand.target.address.ip().to_string());
    Ok(Call {
        holds_stdin: true,
        ..bearer(spec.stdin(raw_request(errand)), errand)
    })
}
