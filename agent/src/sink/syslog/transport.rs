//! Sockets that carry syslog messages.

use super::address::Address;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use std::fmt;
use std::io::{Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a server may take to refuse a client certificate: with TLS 1.3 the client hears of it only after its own
/// handshake is done. Servers that send session tickets, which is nearly all, are waited for no longer than that takes.
const REFUSAL: Duration = Duration::from_secs(1);

pub struct Transport {
    address: Address,
    /// With whether a client certificate is presented.
    tls: Option<(Arc<ClientConfig>, bool)>,
    connect: Duration,
    timeout: Duration,
    link: Option<Link>,
}

enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    UnixDatagram(UnixDatagram),
    UnixStream(UnixStream),
}

impl Transport {
    pub fn new(
        address: Address,
        tls: Option<(Arc<ClientConfig>, bool)>,
        connect: Duration,
        timeout: Duration,
    ) -> Self {
        Self {
            address,
            tls,
            connect,
            timeout,
            link: None,
        }
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Hands all messages to the kernel, over a new connection if there is none that works.
    pub fn send(&mut self, messages: &[Vec<u8>]) -> Result<(), Error> {
        let mut link = match self.link.take().and_then(Link::if_open) {
            Some(link) => link,
            None => self.open()?,
        };
        link.send(messages)?;
        // What failed is dropped: the middle of a message is no place to go on.
        self.link = Some(link);
        Ok(())
    }

    fn open(&self) -> Result<Link, Error> {
        match &self.address {
            Address::Udp { host, port } => {
                let udp = any(host, *port, |address| {
                    let local: SocketAddr = if address.is_ipv4() {
                        ([0, 0, 0, 0], 0).into()
                    } else {
                        ([0_u16; 8], 0).into()
                    };
                    let socket = UdpSocket::bind(local)?;
                    // So that the kernel reports that nobody listens.
                    socket.connect(address)?;
                    Ok(socket)
                })?;
                udp.set_write_timeout(Some(self.timeout))?;
                Ok(Link::Udp(udp))
            }
            Address::Tcp { host, port } => Ok(Link::Tcp(self.tcp(host, *port)?)),
            Address::Tls { host, port } => self.tls(host, *port),
            Address::UnixDatagram { path } => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(self.timeout))?;
                Ok(Link::UnixDatagram(socket))
            }
            Address::UnixStream { path } => {
                let socket = UnixStream::connect(path)?;
                socket.set_write_timeout(Some(self.timeout))?;
                Ok(Link::UnixStream(socket))
            }
        }
    }

    fn tcp(&self, host: &str, port: u16) -> Result<TcpStream, Error> {
        let tcp = any(host, port, |address| {
            TcpStream::connect_timeout(&address, self.connect)
        })?;
        tcp.set_write_timeout(Some(self.timeout))?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }

    fn tls(&self, host: &str, port: u16) -> Result<Link, Error> {
        let Some((config, presents)) = &self.tls else {
            return Err(Error::other("no TLS was set up"));
        };
        let name = ServerName::try_from(host.to_owned()).map_err(Error::other)?;
        let mut tcp = self.tcp(host, port)?;
        let mut session = ClientConnection::new(Arc::clone(config), name).map_err(Error::other)?;
        let deadline = Instant::now() + self.connect;
        tcp.set_read_timeout(Some(self.connect))?;
        while session.is_handshaking() {
            if Instant::now() >= deadline {
                return Err(Error::new(
                    ErrorKind::TimedOut,
                    "the TLS handshake takes too long",
                ));
            }
            session.complete_io(&mut tcp).map_err(stalled)?;
        }
        if *presents {
            wait_for_refusal(&mut session, &mut tcp)?;
        }
        Ok(Link::Tls(Box::new(StreamOwned::new(session, tcp))))
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// A name may have several addresses: the first that works.
fn any<T>(
    host: &str,
    port: u16,
    open: impl Fn(SocketAddr) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut last = Error::new(ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match open(address) {
            Ok(opened) => return Ok(opened),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn stalled(error: Error) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock => Error::new(
            ErrorKind::TimedOut,
            "the receiver says nothing to the TLS handshake",
        ),
        _ => error,
    }
}

/// Waits until the server says anything at all: a session ticket, or that it refuses.
fn wait_for_refusal(session: &mut ClientConnection, tcp: &mut TcpStream) -> Result<(), Error> {
    tcp.set_read_timeout(Some(REFUSAL))?;
    match session.read_tls(tcp) {
        Ok(0) => Err(Error::new(
            ErrorKind::ConnectionAborted,
            "the receiver closed the connection after the TLS handshake",
        )),
        Ok(_) => session
            .process_new_packets()
            .map(drop)
            .map_err(Error::other),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// The system's, rather than the receiver's, refusal of a datagram.
pub fn is_too_large(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

impl Link {
    fn send(&mut self, messages: &[Vec<u8>]) -> Result<(), Error> {
        match self {
            Self::Udp(socket) => {
                for message in messages {
                    socket.send(message)?;
                }
                // That nobody listens is reported after the fact: on this host and its net at once, nearly.
                socket.take_error()?.map_or(Ok(()), Err)
            }
            Self::UnixDatagram(socket) => messages
                .iter()
                .try_for_each(|message| socket.send(message).map(drop)),
            Self::Tcp(stream) => write(stream, messages),
            Self::UnixStream(stream) => write(stream, messages),
            Self::Tls(stream) => write(stream, messages),
        }
    }

    fn if_open(mut self) -> Option<Self> {
        self.is_open().then_some(self)
    }

    /// Whether the other side still listens, as far as it has said. A stream that was closed takes one more write
    /// before it fails: that batch would be lost.
    fn is_open(&mut self) -> bool {
        match self {
            // A receiver that comes back finds its socket again.
            Self::Udp(_) => true,
            // The receiver's restart makes another socket at the same path, which only a connection finds; it costs
            // nothing.
            Self::UnixDatagram(_) => false,
            Self::Tcp(stream) => quiet(stream, TcpStream::set_nonblocking),
            Self::UnixStream(stream) => quiet(stream, UnixStream::set_nonblocking),
            Self::Tls(stream) => {
                if stream.sock.set_nonblocking(true).is_err() {
                    return false;
                }
                let open = match stream.conn.read_tls(&mut stream.sock) {
                    Ok(0) => false,
                    // A ticket, or a closing alert.
                    Ok(_) => stream
                        .conn
                        .process_new_packets()
                        .is_ok_and(|state| !state.peer_has_closed()),
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                };
                open && stream.sock.set_nonblocking(false).is_ok()
            }
        }
    }
}

/// Nothing was said, which is all that syslog's receivers ever say.
fn quiet<S: Read>(stream: &mut S, set_nonblocking: fn(&S, bool) -> Result<(), Error>) -> bool {
    if set_nonblocking(stream, true).is_err() {
        return false;
    }
    let mut ignored = [0; 512];
    let open = match stream.read(&mut ignored) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    };
    open && set_nonblocking(stream, false).is_ok()
}

fn write(stream: &mut impl Write, messages: &[Vec<u8>]) -> Result<(), Error> {
    // One write for all of them: with TLS each would be a record of its own.
    stream.write_all(&messages.concat())?;
    stream.flush()
}
