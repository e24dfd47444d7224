//! Who may send events: ingest keys and agents' certificates.

use super::gate::Gate;
use crate::access::{Denied, Role};
use crate::ingest::{self, Authenticate, ClientCertificate, Sender};
use async_trait::async_trait;
use axum::http::HeaderMap;

#[async_trait]
impl Authenticate for Gate {
    async fn ingest(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Sender, ingest::Denied> {
        let certificate = certificate.map(|certificate| &*certificate.subject);
        let denied = |denied: Denied| match denied {
            Denied::Missing | Denied::Unknown => ingest::Denied::Unknown(denied.to_string()),
            Denied::Role { .. } | Denied::FirstUse => ingest::Denied::Forbidden(denied.to_string()),
        };
        let caller = self.caller(headers, certificate).await.map_err(denied)?;
        caller.may(Role::Ingest).map_err(denied)?;
        Ok(Sender {
            origin: caller.name,
            agent: None,
        })
    }
}
