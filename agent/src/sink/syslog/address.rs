//! Where a receiver of syslog is.

use super::frame::Separation;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Udp { host: String, port: u16 },
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16 },
    UnixDatagram { path: PathBuf },
    UnixStream { path: PathBuf },
}

impl Address {
    pub fn is_datagram(&self) -> bool {
        matches!(self, Self::Udp { .. } | Self::UnixDatagram { .. })
    }

    pub fn destination(&self) -> Option<(String, u16)> {
        match self {
            Self::Udp { host, port } | Self::Tcp { host, port } | Self::Tls { host, port } => {
                Some((host.clone(), *port))
            }
            Self::UnixDatagram { .. } | Self::UnixStream { .. } => None,
        }
    }

    pub fn separation(&self) -> Separation {
        match self {
            Self::Udp { .. } | Self::UnixDatagram { .. } => Separation::None,
            Self::Tcp { .. } | Self::Tls { .. } => Separation::Counted,
            Self::UnixStream { .. } => Separation::Newline,
        }
    }
}

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(path) = text.strip_prefix("unix-stream:") {
            return Ok(Self::UnixStream {
                path: path_of(path)?,
            });
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::UnixDatagram {
                path: path_of(path)?,
            });
        }
        let (scheme, rest) = text.split_once("://").ok_or(())?;
        let (host, port) = rest.rsplit_once(':').ok_or(())?;
        let port: u16 = port.parse().map_err(|_| ())?;
        // An IPv6 address stands in brackets, as in a URL.
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').ok_or(())?;
                inner.parse::<std::net::Ipv6Addr>().map_err(|_| ())?;
                inner
            }
            None => host,
        };
        let plain = |character: char| {
            character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_')
        };
        let fits = !host.is_empty() && (host.chars().all(plain) || rest.starts_with('['));
        if !fits || port == 0 {
            return Err(());
        }
        let host = host.to_owned();
        match scheme {
            "udp" => Ok(Self::Udp { host, port }),
            "tcp" => Ok(Self::Tcp { host, port }),
            "tls" => Ok(Self::Tls { host, port }),
            _ => Err(()),
        }
    }
}

/// An absolute path: the agent's working directory is nobody's business.
fn path_of(text: &str) -> Result<PathBuf, ()> {
    if text.starts_with('/') {
        Ok(PathBuf::from(text))
    } else {
        Err(())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = |scheme: &str, host: &str, port: u16| {
            if host.contains(':') {
                write!(f, "{scheme}://[{host}]:{port}")
            } else {
                write!(f, "{scheme}://{host}:{port}")
            }
        };
        match self {
            Self::Udp { host, port } => url("udp", host, *port),
            Self::Tcp { host, port } => url("tcp", host, *port),
            Self::Tls { host, port } => url("tls", host, *port),
            Self::UnixDatagram { path } => write!(f, "unix:{}", path.display()),
            Self::UnixStream { path } => write!(f, "unix-stream:{}", path.display()),
        }
    }
}
