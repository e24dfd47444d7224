//! Who a request is from: by its key, its password, or its connection's certificate.

use crate::access::{Access, Caller, Denied, Role};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// See the module.
#[derive(Clone)]
pub struct Gate {
    access: Arc<Access>,
    /// One password is tried at a time: trying is slow on purpose, and must not be a way to keep the machine busy.
    tries: Arc<Semaphore>,
}

impl Gate {
    pub fn new(access: Arc<Access>) -> Self {
        Self {
            access,
            tries: Arc::new(Semaphore::new(1)),
        }
    }

    /// `Authorization: Bearer KEY`, `Authorization: Basic` of `admin:PASSWORD`, or else the certificate.
    ///
    /// # Errors
    /// [`Denied::Missing`] and [`Denied::Unknown`].
    pub async fn caller(
        &self,
        headers: &HeaderMap,
        certificate: Option<&str>,
    ) -> Result<Caller, Denied> {
        let Some(value) = headers.get(AUTHORIZATION) else {
            let certificate = certificate.ok_or(Denied::Missing)?;
            return Ok(Caller {
                name: format!("certificate:{certificate}").into(),
                role: Role::Ingest,
                first_use: false,
            });
        };
        let value = value.to_str().map_err(|_| Denied::Unknown)?;
        let (scheme, rest) = value.split_once(' ').ok_or(Denied::Unknown)?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            self.access.by_key(rest, now())
        } else if scheme.eq_ignore_ascii_case("basic") {
            let decoded = STANDARD.decode(rest).map_err(|_| Denied::Unknown)?;
            let decoded = Zeroizing::new(decoded);
            let pair = std::str::from_utf8(&decoded).map_err(|_| Denied::Unknown)?;
            let (user, password) = pair.split_once(':').ok_or(Denied::Unknown)?;
            let (user, password) = (user.to_owned(), Zeroizing::new(password.to_owned()));
            let _turn = self.tries.acquire().await.map_err(|_| Denied::Unknown)?;
            let access = self.access.clone();
            tokio::task::spawn_blocking(move || access.by_password(&user, &password))
                .await
                .map_err(|_| Denied::Unknown)?
        } else {
            Err(Denied::Unknown)
        }
    }
}

/// Seconds since the Unix epoch.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}
