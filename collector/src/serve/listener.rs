//! Connections, with TLS or without, each with the name in its certificate.
//!
//! Handshakes run beside each other and have a time limit, so that nobody who connects and says nothing keeps others
//! out.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tracing::debug;

const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time.
const HANDSHAKES: usize = 256;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    pub address: SocketAddr,
    /// The name in its certificate, which one of `client_ca` has signed.
    pub certificate: Option<Arc<str>>,
}

type Stream = Either<TcpStream, TlsStream<TcpStream>>;

/// See the module.
pub struct Listener {
    address: SocketAddr,
    ready: mpsc::Receiver<(Stream, Peer)>,
}

impl Listener {
    /// Accepts until it is dropped.
    ///
    /// # Errors
    /// If the socket has no address.
    pub fn start(tcp: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let (sender, ready) = mpsc::channel(HANDSHAKES);
        tokio::spawn(accept(tcp, tls, sender));
        Ok(Self { address, ready })
    }
}

async fn accept(tcp: TcpListener, tls: Option<TlsAcceptor>, sender: mpsc::Sender<(Stream, Peer)>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = sender.closed() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            // No descriptors or memory are left; a connection that is gone already. Both pass.
            Err(error) => {
                debug!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let Some(tls) = &tls else {
            let peer = Peer {
                address,
                certificate: None,
            };
            if sender.send((Either::Left(stream), peer)).await.is_err() {
                return;
            }
            continue;
        };
        let (tls, sender) = (tls.clone(), sender.clone());
        let Ok(turn) = handshakes.clone().acquire_owned().await else {
            return;
        };
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let certificates = stream.get_ref().1.peer_certificates();
                    let certificate = certificates.and_then(|chain| chain.first()).map(name);
                    let peer = Peer {
                        address,
                        certificate,
                    };
                    // The server has stopped.
                    let _ = sender.send((Either::Right(stream), peer)).await;
                }
                Ok(Err(error)) => debug!(%address, "no TLS connection: {error}"),
                Err(_) => debug!(%address, "a TLS handshake took over {HANDSHAKE:?}"),
            }
            drop(turn);
        });
    }
}

/// The first DNS name in a certificate; its SHA-256 where it has none.
fn name(certificate: &CertificateDer<'_>) -> Arc<str> {
    let first = webpki::EndEntityCert::try_from(certificate)
        .ok()
        .and_then(|parsed| parsed.valid_dns_names().next().map(Arc::from));
    first.unwrap_or_else(|| {
        let digest = Sha256::digest(certificate);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}").into()
    })
}

impl axum::serve::Listener for Listener {
    type Io = Stream;
    type Addr = Peer;

    async fn accept(&mut self) -> (Stream, Peer) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            // The runtime ends.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            address: self.address,
            certificate: None,
        })
    }
}

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        stream.remote_addr().clone()
    }
}
