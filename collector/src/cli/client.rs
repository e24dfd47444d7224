//! The commands' way to a collector: HTTP by ureq.
//!
//! The key is in a file that its owner alone may read, and in no argument: arguments are visible to everyone on the
//! host. Redirects are not followed and proxies of the environment not used; cleartext goes to loopback only.
//!
//! Invariant: the key leaves this process only in a header to the server that was named.

use crate::api::{Code, ErrorBody};
use crate::search::language::QueryError;
use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use ureq::http::{HeaderValue, Response, Uri};
use zeroize::Zeroizing;

const DEFAULT_SERVER: &str = "http://127.0.0.1:4318";
const KEY_LIMIT: u64 = 4 * 1024;
const CA_LIMIT: u64 = 4 * 1024 * 1024;
/// Of what is not an error of ours, this much is repeated.
const SAID_LIMIT: u64 = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(10);
/// Longer than the collector takes for a question.
const ANSWER: Duration = Duration::from_secs(120);

/// Where Debian, Fedora, SUSE and Alpine keep the certificates that the system trusts.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which collector, and who asks.
#[derive(Args, Clone, Debug)]
pub struct ServerArguments {
    /// The collector's address
    #[arg(
        long,
        global = true,
        env = "TOKENTRAIL_SERVER",
        value_name = "URL",
        default_value = DEFAULT_SERVER
    )]
    pub server: String,
    /// File with the API key; only its owner may read it
    #[arg(long, global = true, env = "TOKENTRAIL_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// Certificates to trust (PEM) instead of the system's
    #[arg(long, global = true, env = "TOKENTRAIL_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{server}: {reason}")]
    Server { server: String, reason: String },
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{path}: others may read it (mode {mode:04o}): `chmod 600` it, and make a new key if somebody may have"
    )]
    Readable { path: PathBuf, mode: u32 },
    #[error("{path}: it belongs to user {owner}, not to you")]
    Owner { path: PathBuf, owner: u32 },
    #[error("{path}: {reason}")]
    Content { path: PathBuf, reason: &'static str },
    #[error("{server} was not reached: {source}")]
    Unreached {
        server: String,
        source: Box<ureq::Error>,
    },
    #[error("the answer ended early: {0}")]
    Cut(io::Error),
    #[error("{0}")]
    Answered(String),
    /// Rendered with its place.
    #[error("{0}")]
    Query(String),
}

/// A collector that can be asked.
pub struct Client {
    agent: ureq::Agent,
    server: String,
    key: Option<HeaderValue>,
}

impl Client {
    /// Reads the files that the arguments name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(arguments: &ServerArguments) -> Result<Self, ClientError> {
        let server = arguments.server.trim_end_matches('/').to_owned();
        let secure = checked(&server)?;
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("tokentrail/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER));
        if secure {
            config = config.tls_config(tls(arguments.ca_file.as_deref())?);
        }
        let key = arguments.key_file.as_deref().map(key).transpose()?;
        Ok(Self {
            agent: config.build().new_agent(),
            server,
            key,
        })
    }

    /// Posts a question, and returns the body of its answer and its headers if it was one.
    ///
    /// # Errors
    /// [`ClientError`]; `query` is what an error of it is shown in.
    pub fn ask(
        &self,
        path: &str,
        body: &impl Serialize,
        accept: &str,
        query: &str,
    ) -> Result<Response<ureq::Body>, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| ClientError::Answered(error.to_string()))?;
        let mut request = self
            .agent
            .post(format!("{}{path}", self.server))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, accept);
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        self.answer(request.send(&body[..]), query)
    }

    /// Gets what is at `path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get(&self, path: &str) -> Result<Response<ureq::Body>, ClientError> {
        self.bodiless(self.agent.get(format!("{}{path}", self.server)))
    }

    /// Deletes what is at `path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn delete(&self, path: &str) -> Result<Response<ureq::Body>, ClientError> {
        self.bodiless(self.agent.delete(format!("{}{path}", self.server)))
    }

    fn bodiless(
        &self,
        mut request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
    ) -> Result<Response<ureq::Body>, ClientError> {
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        self.answer(request.call(), "")
    }

    fn answer(
        &self,
        answered: Result<Response<ureq::Body>, ureq::Error>,
        query: &str,
    ) -> Result<Response<ureq::Body>, ClientError> {
        let response = answered.map_err(|source| ClientError::Unreached {
            server: self.server.clone(),
            source: Box::new(source),
        })?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refused(response, query))
        }
    }
}

/// The whole body of an answer.
///
/// # Errors
/// If the connection ends before.
pub fn body(response: Response<ureq::Body>) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    let mut reader = response
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader();
    reader.read_to_end(&mut bytes).map_err(ClientError::Cut)?;
    Ok(bytes)
}

fn refused(response: Response<ureq::Body>, query: &str) -> ClientError {
    let status = response.status();
    let mut said = Vec::new();
    // What came of it is enough.
    let _ = response
        .into_body()
        .into_reader()
        .take(SAID_LIMIT)
        .read_to_end(&mut said);
    let Ok(body) = serde_json::from_slice::<ErrorBody>(&said) else {
        return ClientError::Answered(format!("the server answers {status}"));
    };
    let said = printable(&body.detail);
    match (body.error, body.span, body.expected) {
        (Code::Query, Some(span), Some(expected)) => {
            let error = QueryError {
                span: span.start..span.end,
                message: said,
                expected: printable(&expected),
            };
            ClientError::Query(error.render(query).to_string())
        }
        (Code::TooMuch, ..) => ClientError::Answered(format!("{said}\n`--force` reads them")),
        (Code::Unauthorized, ..) => ClientError::Answered(format!(
            "{said} (the key is read from the file of --key-file or TOKENTRAIL_KEY_FILE)"
        )),
        _ => ClientError::Answered(said),
    }
}

/// Nothing that a terminal would act on: what events say is their senders' choice.
#[must_use]
pub fn printable(text: &str) -> String {
    let shown = |character: char| {
        if character.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            character
        }
    };
    text.chars().map(shown).collect()
}

/// Whether it is by TLS.
fn checked(server: &str) -> Result<bool, ClientError> {
    let wrong = |reason: &str| ClientError::Server {
        // It may hold a password.
        server: server.rsplit('@').next().unwrap_or_default().to_owned(),
        reason: reason.to_owned(),
    };
    let uri: Uri = server
        .parse()
        .map_err(|_| wrong("not an address such as https://collector.example:4318"))?;
    if uri
        .authority()
        .is_none_or(|authority| authority.as_str().contains('@'))
    {
        return Err(wrong(
            "a user or password does not belong there: the key is in a file",
        ));
    }
    let host = uri.host().unwrap_or_default();
    let loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match uri.scheme_str() {
        Some("https") => Ok(true),
        Some("http") if loopback => Ok(false),
        Some("http") => Err(wrong("the key would be sent in cleartext: use https")),
        _ => Err(wrong("neither http: nor https:")),
    }
}

fn tls(ca: Option<&Path>) -> Result<ureq::tls::TlsConfig, ClientError> {
    let path = ca
        .or_else(|| SYSTEM.iter().map(Path::new).find(|path| path.exists()))
        .ok_or_else(|| ClientError::Content {
            path: SYSTEM[0].into(),
            reason: "there are no certificates of the system: name some by --ca-file",
        })?;
    let failed = |source| ClientError::File {
        path: path.to_owned(),
        source,
    };
    let mut pem = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(CA_LIMIT).read_to_end(&mut pem).map_err(failed)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.unwrap_or_default();
    if certificates.is_empty() {
        return Err(ClientError::Content {
            path: path.to_owned(),
            reason: "no certificates in it (PEM)",
        });
    }
    let roots: Vec<_> = certificates
        .iter()
        .map(|der| ureq::tls::Certificate::from_der(der).to_owned())
        .collect();
    Ok(ureq::tls::TlsConfig::builder()
        .provider(ureq::tls::TlsProvider::Rustls)
        .root_certs(ureq::tls::RootCerts::from(roots))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// The header with the key of the file.
fn key(path: &Path) -> Result<HeaderValue, ClientError> {
    let failed = |source| ClientError::File {
        path: path.to_owned(),
        source,
    };
    // Checked on the opened file, so that it cannot be exchanged meanwhile; a pipe would hold the program.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let content = |reason| ClientError::Content {
        path: path.to_owned(),
        reason,
    };
    if !metadata.is_file() {
        return Err(content("not a file"));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(ClientError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    let me = rustix::process::geteuid().as_raw();
    if metadata.uid() != me && metadata.uid() != 0 {
        let owner = metadata.uid();
        return Err(ClientError::Owner {
            path: path.to_owned(),
            owner,
        });
    }
    // In one piece from the start: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_LIMIT as usize + 16));
    bytes.extend_from_slice(b"Bearer ");
    let begin = bytes.len();
    file.take(KEY_LIMIT)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let value = bytes.trim_ascii_end();
    if value.len() <= begin {
        return Err(content("no key in it"));
    }
    let mut value =
        HeaderValue::from_bytes(value).map_err(|_| content("its content cannot be a key"))?;
    value.set_sensitive(true);
    Ok(value)
}
