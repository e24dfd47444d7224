//! HTTP POST of batches, with one kept connection.
//!
//! Design: ureq, a blocking client over rustls, because one thread drives each receiver and has nothing else to do.
//! Redirects are not followed (they would carry events and keys elsewhere), and the environment's proxy variables
//! are not looked at: where the events of a privileged process go is in its configuration alone.

use super::file::Source;
use super::tls::{Files, Tls};
use super::{Error, retry};
use crate::config::{self, Compression};
use crate::sink::batch::Outcome;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;
use ureq::http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use ureq::http::{HeaderName, HeaderValue, Uri};
use zeroize::Zeroizing;

/// An answer that is longer is read no further.
const ANSWER_LIMIT: u64 = 64 * 1024;
/// Of what a receiver says in an error, this much is repeated.
const SAID_CHARS: usize = 200;
/// zstd's own default: about gzip's time and two thirds of its size.
const ZSTD_LEVEL: i32 = 3;
/// Names that the client or the protocol sets.
const OURS: [&str; 6] = [
    "host",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "connection",
];

/// What a section of the configuration says of a connection.
pub struct Settings<'a> {
    pub endpoint: &'a str,
    /// Used where the endpoint has no path.
    pub default_path: &'static str,
    pub compression: Compression,
    pub headers: &'a BTreeMap<String, String>,
    pub files: Files<'a>,
    pub connect: Duration,
    pub timeout: Duration,
}

impl<'a> Settings<'a> {
    /// Of `[otlp]`; nothing if it has no endpoint.
    #[must_use]
    pub fn otlp(config: &'a config::Otlp) -> Option<Self> {
        Some(Self {
            endpoint: config.endpoint.as_deref()?,
            default_path: "/v1/logs",
            compression: config.compression,
            headers: &config.headers,
            files: Files {
                ca: config.ca.as_ref(),
                certificate: config.certificate.as_ref(),
                key: config.key.as_ref(),
            },
            connect: Duration::from_secs(config.connect_seconds.get()),
            timeout: Duration::from_secs(config.timeout_seconds.get()),
        })
    }

    /// Of `[http]`; nothing if it has no endpoint.
    #[must_use]
    pub fn http(config: &'a config::Http) -> Option<Self> {
        Some(Self {
            endpoint: config.endpoint.as_deref()?,
            default_path: "/",
            compression: config.compression,
            headers: &config.headers,
            files: Files {
                ca: config.ca.as_ref(),
                certificate: config.certificate.as_ref(),
                key: config.key.as_ref(),
            },
            connect: Duration::from_secs(config.connect_seconds.get()),
            timeout: Duration::from_secs(config.timeout_seconds.get()),
        })
    }
}

/// A place to post to.
pub struct Poster {
    agent: ureq::Agent,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    compression: Compression,
}

/// A success (2xx).
pub struct Answer {
    pub status: u16,
    /// In lower case, without parameters; empty if there is none.
    pub content_type: String,
    /// At most 64 KiB of it.
    pub body: Vec<u8>,
}

impl Poster {
    /// Reads the files that `settings` names.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn new(settings: &Settings<'_>, source: &Source) -> Result<Self, Error> {
        let uri = uri(settings.endpoint, settings.default_path)?;
        let tls = match uri.scheme_str() {
            Some("https") => Some(Tls::load(settings.files, source)?),
            _ => {
                tracing::warn!(
                    endpoint = settings.endpoint,
                    "events are sent in cleartext: everyone on the way can read them"
                );
                None
            }
        };
        let mut config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("tokentrail-agent/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .max_response_header_size(64 * 1024)
            .timeout_connect(Some(settings.connect))
            .timeout_resolve(Some(settings.connect))
            .timeout_global(Some(settings.connect + settings.timeout));
        if let Some(tls) = tls {
            config = config.tls_config(tls.ureq);
        }
        Ok(Self {
            agent: config.build().new_agent(),
            uri,
            headers: headers(settings.headers, source)?,
            compression: settings.compression,
        })
    }

    /// Host and port.
    #[must_use]
    pub fn destination(&self) -> Option<(String, u16)> {
        let usual = if self.uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        // An IPv6 address stands in brackets.
        let host = self.uri.host()?.trim_matches(['[', ']']);
        Some((host.to_owned(), self.uri.port_u16().unwrap_or(usual)))
    }

    /// Posts `body` compressed; `headers` are the protocol's.
    ///
    /// # Errors
    /// What is to be done with the batch, if it was not a success.
    pub fn post(
        &self,
        content_type: &'static str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<Answer, Outcome> {
        let mut request = self
            .agent
            .post(self.uri.clone())
            .header(CONTENT_TYPE, content_type);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let encoding = match self.compression {
            Compression::Zstd => Some("zstd"),
            Compression::Gzip => Some("gzip"),
            Compression::None => None,
        };
        if let Some(encoding) = encoding {
            request = request.header(CONTENT_ENCODING, encoding);
        }
        let sent = match compress(self.compression, body) {
            Ok(Some(compressed)) => request.send(&compressed[..]),
            Ok(None) => request.send(body),
            Err(error) => {
                return Err(Outcome::Rejected {
                    reason: format!("the batch cannot be compressed: {error}"),
                });
            }
        };
        let response = sent.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let header = |name: HeaderName| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let retry_after = header(RETRY_AFTER);
        let content_type = header(CONTENT_TYPE).unwrap_or_default();
        let mut body = Vec::new();
        let read = response
            .into_body()
            .into_reader()
            .take(ANSWER_LIMIT)
            .read_to_end(&mut body);
        if (200..300).contains(&status) {
            // Without the whole answer it is not known whether it was one.
            read.map_err(|error| Outcome::Retry {
                after: None,
                reason: format!("the receiver's answer ended early: {error}"),
            })?;
            let content_type = content_type.split(';').next().unwrap_or_default();
            return Ok(Answer {
                status,
                content_type: content_type.trim().to_ascii_lowercase(),
                body,
            });
        }
        Err(retry::outcome(
            status,
            retry_after.as_deref(),
            Timestamp::now(),
            &said(&body),
        ))
    }
}

/// The begin of an error's body in one line, if it is text.
pub fn said(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let printable = |character: char| {
        if character.is_control() || character == char::REPLACEMENT_CHARACTER {
            ' '
        } else {
            character
        }
    };
    let line: String = text.chars().take(4 * SAID_CHARS).map(printable).collect();
    let words: Vec<&str> = line.split_whitespace().collect();
    words.join(" ").chars().take(SAID_CHARS).collect()
}

/// Everything below an HTTP status is the network, or a receiver that speaks something else just now.
fn failed(error: &ureq::Error) -> Outcome {
    Outcome::Retry {
        after: None,
        reason: format!("the receiver was not reached: {error}"),
    }
}

fn uri(endpoint: &str, default_path: &str) -> Result<Uri, Error> {
    let wrong = |reason: &str| Error::Endpoint {
        // It may hold a password.
        endpoint: endpoint.rsplit('@').next().unwrap_or_default().to_owned(),
        reason: reason.to_owned(),
    };
    let uri: Uri = endpoint
        .parse()
        .map_err(|_| wrong("it cannot be taken apart"))?;
    let scheme = uri.scheme_str().unwrap_or_default().to_owned();
    if scheme != "http" && scheme != "https" {
        return Err(wrong("neither http: nor https:"));
    }
    let authority = uri
        .authority()
        .filter(|authority| !authority.host().is_empty());
    let authority = authority.ok_or_else(|| wrong("no host"))?;
    if authority.as_str().contains('@') {
        return Err(wrong(
            "a user or password does not belong there; `headers` takes an authorization from a file",
        ));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Ok(uri);
    }
    Uri::builder()
        .scheme(scheme.as_str())
        .authority(authority.clone())
        .path_and_query(default_path)
        .build()
        .map_err(|error| wrong(&error.to_string()))
}

fn headers(
    from: &BTreeMap<String, String>,
    source: &Source,
) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
    let mut headers = Vec::new();
    for (name, value) in from {
        let wrong_name = || Error::HeaderName { name: name.clone() };
        let wrong_value = || Error::HeaderValue { name: name.clone() };
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong_name())?;
        if OURS.contains(&parsed.as_str()) || parsed.as_str().starts_with("tokentrail-") {
            return Err(wrong_name());
        }
        let mut value = match value.strip_prefix("file:") {
            Some(path) => {
                let bytes: Zeroizing<Vec<u8>> = source.secret(Path::new(path))?;
                // Editors end a file with a newline.
                HeaderValue::from_bytes(bytes.trim_ascii_end())
            }
            None => HeaderValue::from_str(value),
        }
        .map_err(|_| wrong_value())?;
        // Left out of its own Debug, and so of whatever a library logs.
        value.set_sensitive(true);
        headers.push((parsed, value));
    }
    Ok(headers)
}

fn compress(compression: Compression, body: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
    match compression {
        Compression::None => Ok(None),
        Compression::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL).map(Some),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(body)?;
            encoder.finish().map(Some)
        }
    }
}
