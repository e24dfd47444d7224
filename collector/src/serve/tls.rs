//! The collector's side of TLS 1.2 and 1.3, from the files that the configuration names.

use crate::config::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Read permission of group and others, and all others.
const NOT_OWNER: u32 = 0o077;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {message}")]
    File { path: PathBuf, message: String },
    #[error("{path} can be used by others (mode {mode:04o}); `chmod 600 {path}` would do")]
    Readable { path: PathBuf, mode: u32 },
    #[error("[tls] has {0} without {1}")]
    Half(&'static str, &'static str),
    #[error("certificate and key: {0}")]
    Certificate(#[from] rustls::Error),
    #[error("client_ca: {0}")]
    ClientCa(String),
}

/// `None` where no certificate is configured.
///
/// # Errors
/// If a file cannot be used, or the key is not the certificate's.
pub fn acceptor(config: &Tls) -> Result<Option<TlsAcceptor>, Error> {
    let (certificate, key) = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(Error::Half("certificate", "key")),
        (None, Some(_)) => return Err(Error::Half("key", "certificate")),
        (None, None) if config.client_ca.is_some() => {
            return Err(Error::Half("client_ca", "certificate"));
        }
        (None, None) => return Ok(None),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(certificate)?;
    let key = private_key(key)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?;
    let builder = match &config.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                // People come with keys instead.
                .allow_unauthenticated()
                .build()
                .map_err(|error| Error::ClientCa(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut server = builder.with_single_cert(chain, key)?;
    server.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

fn file_error(path: &Path, message: impl ToString) -> Error {
    Error::File {
        path: path.to_owned(),
        message: message.to_string(),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| file_error(path, error))?;
    if found.is_empty() {
        return Err(file_error(path, "there is no certificate in it"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let mode = std::fs::metadata(path)
        .map_err(|error| file_error(path, error))?
        .mode();
    if mode & NOT_OWNER != 0 {
        return Err(Error::Readable {
            path: path.to_owned(),
            mode: mode & 0o7777,
        });
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| file_error(path, error))
}
