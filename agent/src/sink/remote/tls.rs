//! TLS as a client: whom the agent trusts, and as whom it presents itself.
//!
//! rustls with ring, TLS 1.2 and 1.3, for HTTP through ureq and for syslog on its own.

use super::Error;
use super::file::Source;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where Debian, Fedora, SUSE and Alpine keep the certificates that the system trusts.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Files of a section of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Whom to trust; the system's certificates without it.
    pub ca: Option<&'a PathBuf>,
    pub certificate: Option<&'a PathBuf>,
    pub key: Option<&'a PathBuf>,
}

/// Both forms of the same: rustls's own, and ureq's.
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub ureq: ureq::tls::TlsConfig,
}

impl Tls {
    /// Reads and checks the files that `source` has.
    ///
    /// # Errors
    /// If one cannot be read or may be used by others, holds not what it should, or key and certificate do not match.
    pub fn load(files: Files<'_>, source: &Source) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let (trusted_path, trusted) = trusted(files.ca, source)?;
        let mut roots = RootCertStore::empty();
        let mut for_ureq = Vec::new();
        for certificate in &trusted {
            match roots.add(certificate.clone()) {
                Ok(()) => for_ureq.push(ureq::tls::Certificate::from_der(certificate).to_owned()),
                // A system's bundle may hold what rustls does not read; a file that was named has to be right.
                Err(_) if files.ca.is_none() => {}
                Err(error) => {
                    return Err(Error::Certificate {
                        path: trusted_path,
                        reason: error.to_string(),
                    });
                }
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Certificate {
                path: trusted_path,
                reason: error.to_string(),
            })?
            .with_root_certificates(roots);
        let mut ureq = ureq::tls::TlsConfig::builder()
            .provider(ureq::tls::TlsProvider::Rustls)
            .root_certs(ureq::tls::RootCerts::from(for_ureq))
            .unversioned_rustls_crypto_provider(provider);
        let config = match (files.certificate, files.key) {
            (None, None) => builder.with_no_client_auth(),
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate, source)?;
                let pem = source.secret(key)?;
                let no_key = || Error::NoKey { path: key.clone() };
                let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key())?;
                let client = ureq::tls::ClientCert::new_with_certs(
                    &chain
                        .iter()
                        .map(|der| ureq::tls::Certificate::from_der(der).to_owned())
                        .collect::<Vec<_>>(),
                    ureq::tls::PrivateKey::from_pem(&pem).map_err(|_| no_key())?,
                );
                ureq = ureq.client_cert(Some(client));
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| Error::Key {
                        path: key.clone(),
                        reason: error.to_string(),
                    })?
            }
            _ => return Err(Error::HalfIdentity),
        };
        Ok(Self {
            config: Arc::new(config),
            ureq: ureq.build(),
        })
    }
}

fn trusted(
    ca: Option<&PathBuf>,
    source: &Source,
) -> Result<(PathBuf, Vec<CertificateDer<'static>>), Error> {
    if let Some(path) = ca {
        return Ok((path.clone(), certificates(path, source)?));
    }
    let path = SYSTEM
        .iter()
        .map(Path::new)
        .find(|path| source.has(path))
        .ok_or_else(|| Error::NoSystemCertificates {
            looked_for: SYSTEM.join(", "),
        })?;
    Ok((path.to_owned(), certificates(path, source)?))
}

fn certificates(path: &Path, source: &Source) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = source.public(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| Error::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    if certificates.is_empty() {
        return Err(Error::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}
