//! `tokentrail serve`: the parts of the collector, wired and kept going.
//!
//! One data folder holds everything: `access.db` (keys), `inbox/`, `catalog.db`, `store/` (or a bucket). Beside the
//! requests, three tasks run: seal, tidy (merge and retain), and telling of holes. None of them ends the collector when
//! it fails: what could not be done is said, and tried again.
//!
//! Invariant: nothing but loopback is listened to in cleartext.
//! Invariant: the collector says that it is ready only when an event that is sent then would be taken and found.

pub(crate) mod admin;
mod door;
mod gate;
mod health;
mod listener;
mod metrics;
mod objects;
pub(crate) mod quarantine;
mod questions;
mod tasks;
mod tls;
mod watchdog;

pub use gate::Gate;
pub use listener::Peer;

use crate::access::{self, Access, ApiKey};
use crate::api;
use crate::config::Config;
use crate::inbox::{self, AppendError, Inbox};
use crate::ingest;
use crate::search::engine::{self, Engine, SearchError};
use crate::store::catalog::{CatalogError, SqliteCatalog};
use crate::store::{self, Store};
use admin::Admin;
use agent_common::event::{Action, Audit, AuditDetail, Body, Host, Time};
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::{self, Next};
use axum::response::Response;
use listener::Listener;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};

/// What requests that are being answered get when the collector is told to stop.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{0} is not loopback, and there is no certificate: keys and events would pass in cleartext (see [tls])"
    )]
    Cleartext(SocketAddr),
    #[error("cannot listen at {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] tls::Error),
    #[error(transparent)]
    Access(#[from] access::Error),
    #[error(transparent)]
    Inbox(#[from] inbox::Error),
    #[error("the collector's own events: {0}")]
    Own(#[from] AppendError),
    #[error(transparent)]
    Objects(#[from] objects::Error),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Engine(#[from] SearchError),
    #[error("serving failed: {0}")]
    Serve(std::io::Error),
}

impl Error {
    /// Whether only a person can mend it, so that starting again would be of no use.
    #[must_use]
    pub fn is_misuse(&self) -> bool {
        matches!(
            self,
            Self::Cleartext(_) | Self::Tls(_) | Self::Objects(objects::Error::Address { .. })
        )
    }
}

/// A collector that is ready.
pub struct Started {
    pub address: SocketAddr,
    pub tls: bool,
    /// At the first start only.
    pub first_key: Option<ApiKey>,
}

/// Serves until `stop` is done. `ready` is called once.
///
/// # Errors
/// If it cannot start, or the socket fails.
pub async fn serve(
    config: &Config,
    ready: impl FnOnce(Started),
    stop: impl Future<Output = String>,
) -> Result<(), Error> {
    let tls = tls::acceptor(&config.tls)?;
    let address = config.server.listen;
    if tls.is_none() && !address.ip().is_loopback() {
        return Err(Error::Cleartext(address));
    }
    let data = &config.server.data;
    make_folder(data)?;
    let (access, first_key) = Access::open(&data.join("access.db"), gate::now())?;
    let access = Arc::new(access);
    let (inbox, store) = storage(config).await?;
    inbox
        .identify(inbox::Identity {
            id: access.installation()?.into(),
            name: "tokentrail".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            host: Arc::new(host()),
        })
        .await?;
    let gate = Gate::new(access.clone());
    let receive = Arc::new(ingest::State::new(
        inbox.clone(),
        Arc::new(gate.clone()),
        ingest::Limits {
            decoded: config.inbox.request_bytes.size(),
            ..ingest::Limits::default()
        },
    ));
    let numbers = metrics::Numbers {
        inbox: inbox.clone(),
        inbox_limit: config.inbox.max_bytes.get(),
        store: store.clone(),
        ingest: receive.counters(),
        done: Arc::default(),
    };
    let questions = Arc::new(questions::Questions {
        store: store.clone(),
        inbox: inbox.clone(),
        gate: gate.clone(),
    });
    let limits = engine::Limits {
        time: Duration::from_secs(config.query.seconds.get()),
        memory: config.query.memory_bytes.size(),
        rows: config.query.scan_rows.get(),
        ..engine::Limits::default()
    };
    let answers = Arc::new(api::State::new(
        Engine::new(questions.clone(), limits)?,
        questions.clone(),
        questions.clone(),
        questions,
    ));
    let admin = Admin {
        access,
        gate,
        inbox: inbox.clone(),
    };
    let app = Router::new()
        .merge(ingest::router(receive))
        .merge(api::router(answers))
        .merge(admin::router(admin.clone()))
        .merge(quarantine::router(admin))
        .merge(health::router(numbers.clone()))
        .layer(middleware::from_fn(certificate));
    let tcp = TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    let with_tls = tls.is_some();
    let listener = Listener::start(tcp, tls).map_err(Error::Serve)?;
    let address = axum::serve::Listener::local_addr(&listener)
        .map_err(Error::Serve)?
        .address;
    say(
        &inbox,
        Action::CollectorStarted,
        format!("listening at {address}"),
    )
    .await?;
    let (stopping, stopped) = watch::channel(());
    let tasks = tasks::start(config, &inbox, &store, &numbers.done, &stopped);
    ready(Started {
        address,
        tls: with_tls,
        first_key,
    });
    let mut told = stopped.clone();
    let serving = axum::serve(listener, app.into_make_service_with_connect_info::<Peer>())
        .with_graceful_shutdown(async move {
            // An error is the sender's end, which is the same.
            let _ = told.changed().await;
        });
    let mut serving = tokio::spawn(serving.into_future());
    let why = tokio::select! {
        why = stop => why,
        ended = &mut serving => {
            return Err(Error::Serve(ended.map_or_else(std::io::Error::other, |ended| {
                ended.err().unwrap_or_else(|| std::io::Error::other("it ended"))
            })));
        }
    };
    info!("stopping: {why}");
    let _ = stopping.send(());
    if tokio::time::timeout(GRACE, &mut serving).await.is_err() {
        warn!("requests were cut off: they took over {GRACE:?} to end");
        serving.abort();
    }
    for task in tasks {
        // A task that was panicking has said so.
        let _ = task.await;
    }
    say(&inbox, Action::CollectorStopped, why).await?;
    Ok(())
}

/// Inbox and store of a configuration's folder, which is made if it is not there.
///
/// # Errors
/// If they cannot be used.
pub async fn storage(config: &Config) -> Result<(Inbox, Store), Error> {
    let data = &config.server.data;
    make_folder(data)?;
    let inbox = Inbox::open(
        &data.join("inbox"),
        inbox::Limits {
            bytes: config.inbox.max_bytes.get(),
            events: u64::MAX,
            quarantine: config.inbox.quarantine_bytes.get(),
        },
    )?;
    let store = Store::open(
        objects::open(config)?,
        Arc::new(SqliteCatalog::open(&data.join("catalog.db"))?),
        Arc::new(inbox.clone()),
        store::Settings::default(),
    )
    .await?;
    Ok((inbox, store))
}

async fn say(inbox: &Inbox, action: Action, detail: String) -> Result<(), AppendError> {
    let audit = AuditDetail {
        detail: Some(detail),
        ..AuditDetail::of(action)
    };
    inbox
        .say(Time::now(), Body::Audit(Audit { audit }))
        .await
        .map(drop)
}

/// Tells the ingest the name in a connection's certificate.
async fn certificate(
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(subject) = peer.certificate {
        request
            .extensions_mut()
            .insert(ingest::ClientCertificate { subject });
    }
    next.run(request).await
}

/// Makes the folder; its name, and those of the folders above it, are on the disk before anything in it is acknowledged.
fn make_folder(path: &Path) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Folder { path, source }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed(path))?;
    let whole = path.canonicalize().map_err(failed(path))?;
    for (above, folder) in whole.ancestors().enumerate() {
        let forced = File::open(folder).and_then(|folder| folder.sync_all());
        // Those further up may be another's, and were there before.
        if above < 2 {
            forced.map_err(failed(folder))?;
        }
    }
    Ok(())
}

fn host() -> Host {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .ok()
            .filter(|text| !text.is_empty())
    };
    Host {
        id: read("/etc/machine-id"),
        name: read("/proc/sys/kernel/hostname").unwrap_or_else(|| "unknown".to_owned()),
        boot_id: read("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
    }
}
