//! Who sends.

use async_trait::async_trait;
use axum::http::HeaderMap;
use std::sync::Arc;

/// The subject of the certificate that the client has proven to own: the TLS side puts it among a request's
/// extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    pub subject: Arc<str>,
}

/// Somebody who may send events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Stands with what they send: in the inbox, in the quarantine.
    pub origin: Arc<str>,
    /// The one agent for which they may speak; nothing: for all, as a collector in between must.
    pub agent: Option<Arc<str>>,
}

/// Why somebody may not. The reason is told to them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// 401.
    #[error("{0}")]
    Unknown(String),
    /// 403.
    #[error("{0}")]
    Forbidden(String),
}

/// Knows who sends.
#[async_trait]
pub trait Authenticate: Send + Sync {
    /// # Errors
    /// Why they may not send events.
    async fn ingest(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Sender, Denied>;
}
