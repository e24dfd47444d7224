//! PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`, sections 2.1 and 2.2).
//!
//! Invariant: never looks past the addresses, so an answer needs at most 107 bytes of version 1 or 52 of version 2,
//! whatever length the header claims.

use super::head::ProxyClaim;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Version 2's first 12 bytes.
pub const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest version 1 header, CR LF included.
const V1_LONGEST: usize = 107;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Undecided until more bytes come.
    More,
    Header {
        /// Bytes to strip from the stream; of version 2 they may not all be here yet (up to 65,551).
        len: usize,
        /// `None` where the header names no TCP addresses: `UNKNOWN`, `LOCAL`, Unix sockets, datagrams.
        claim: Option<ProxyClaim>,
    },
    /// Not a PROXY protocol header.
    Invalid,
}

/// Parses what stands at the beginning of a stream.
pub fn parse(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(V2_SIGNATURE.len());
    if bytes[..common] != V2_SIGNATURE[..common] {
        v1(bytes)
    } else if common < V2_SIGNATURE.len() {
        Parsed::More
    } else {
        v2(bytes)
    }
}

fn v1(bytes: &[u8]) -> Parsed {
    let start = b"PROXY ";
    let common = bytes.len().min(start.len());
    if bytes[..common] != start[..common] {
        return Parsed::Invalid;
    }
    let window = &bytes[..bytes.len().min(V1_LONGEST)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        return if window.len() < V1_LONGEST {
            Parsed::More
        } else {
            Parsed::Invalid
        };
    };
    let line = window[..end].strip_suffix(b"\r").unwrap_or(&window[..end]);
    match std::str::from_utf8(line).ok().and_then(v1_claim) {
        Some(claim) => Parsed::Header {
            len: end + 1,
            claim,
        },
        None => Parsed::Invalid,
    }
}

/// `None` if malformed, `Some(None)` if it claims nothing.
fn v1_claim(line: &str) -> Option<Option<ProxyClaim>> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None);
    }
    let source: IpAddr = words.next()?.parse().ok()?;
    let destination: IpAddr = words.next()?.parse().ok()?;
    let source_port = words.next()?.parse().ok()?;
    let destination_port = words.next()?.parse().ok()?;
    let as_said = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (as_said && words.next().is_none()).then_some(Some(ProxyClaim {
        version: 1,
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    }))
}

fn v2(bytes: &[u8]) -> Parsed {
    const FIXED: usize = 16;
    let Some(&[version_command, family, high, low]) = bytes.get(12..FIXED) else {
        // Refuse a wrong version as soon as it is there.
        return match bytes.get(12) {
            Some(byte) if byte >> 4 != 2 || byte & 0xf > 1 => Parsed::Invalid,
            _ => Parsed::More,
        };
    };
    if version_command >> 4 != 2 || version_command & 0xf > 1 {
        return Parsed::Invalid;
    }
    let claimed = usize::from(u16::from_be_bytes([high, low]));
    let len = FIXED + claimed;
    let local = version_command & 0xf == 0;
    // High nibble the address family, low nibble the transport; 1 is a stream.
    let addresses = match family {
        0x11 => 12,
        0x21 => 36,
        _ => 0,
    };
    if local || addresses == 0 {
        return Parsed::Header { len, claim: None };
    }
    if claimed < addresses {
        return Parsed::Invalid;
    }
    let Some(block) = bytes.get(FIXED..FIXED + addresses) else {
        return Parsed::More;
    };
    let (ips, ports) = block.split_at(addresses - 4);
    let (source, destination) = ips.split_at(ips.len() / 2);
    let (Some(source), Some(destination)) = (ip(source), ip(destination)) else {
        return Parsed::Invalid;
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Parsed::Header {
        len,
        claim: Some(ProxyClaim {
            version: 2,
            source: SocketAddr::new(source, port(0)),
            destination: SocketAddr::new(destination, port(2)),
        }),
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).into());
    }
    <[u8; 16]>::try_from(bytes)
        .ok()
        .map(|sixteen| Ipv6Addr::from(sixteen).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `needs` bytes decide; every longer prefix says the same.
    #[track_caller]
    fn check(input: &[u8], needs: usize, expected: Parsed) {
        for len in 0..=input.len() {
            let wanted = if len < needs { Parsed::More } else { expected };
            assert_eq!(parse(&input[..len]), wanted, "first {len} bytes");
        }
    }

    fn claim(version: u8, source: &str, destination: &str) -> Option<ProxyClaim> {
        Some(ProxyClaim {
            version,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        })
    }

    fn version2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((block.len() as u16).to_be_bytes());
        bytes.extend(block);
        bytes
    }

    #[test]
    fn version_1() {
        let four = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\nGET /";
        check(
            four,
            45,
            Parsed::Header {
                len: 45,
                claim: claim(1, "192.0.2.1:56324", "198.51.100.7:443"),
            },
        );
        let six = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
        check(
            six,
            44,
            Parsed::Header {
                len: 44,
                claim: claim(1, "[2001:db8::1]:1", "[2001:db8::2]:65535"),
            },
        );
        check(
            b"PROXY UNKNOWN\r\nx",
            15,
            Parsed::Header {
                len: 15,
                claim: None,
            },
        );
        check(
            b"PROXY UNKNOWN ffff:f::f ::1 65535 65535\r\n",
            41,
            Parsed::Header {
                len: 41,
                claim: None,
            },
        );
    }

    #[test]
    fn malformed_version_1() {
        for line in [
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.7 1 65536\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n",
            "PROXY \r\n",
        ] {
            check(line.as_bytes(), line.len(), Parsed::Invalid);
        }
        check(b"PROXX", 5, Parsed::Invalid);
        let mut endless = b"PROXY ".to_vec();
        endless.resize(200, b'x');
        check(&endless, 107, Parsed::Invalid);
    }

    #[test]
    fn version_2() {
        let four = version2(
            1,
            0x11,
            &[192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 4, 1, 0xbb, 4, 0, 1, 0],
        );
        check(
            &four,
            28,
            Parsed::Header {
                len: 32,
                claim: claim(2, "192.0.2.1:56324", "198.51.100.7:443"),
            },
        );
        let mut block = [0; 36];
        (block[15], block[31], block[33], block[35]) = (1, 2, 3, 4);
        let six = version2(1, 0x21, &block);
        check(
            &six,
            52,
            Parsed::Header {
                len: 52,
                claim: claim(2, "[::1]:3", "[::2]:4"),
            },
        );
        check(
            &version2(0, 0, &[]),
            16,
            Parsed::Header {
                len: 16,
                claim: None,
            },
        );
        check(
            &version2(1, 0x31, &[0; 216]),
            16,
            Parsed::Header {
                len: 232,
                claim: None,
            },
        );
    }

    #[test]
    fn malformed_version_2() {
        check(&version2(1, 0x11, &[0; 11]), 16, Parsed::Invalid);
        check(&version2(2, 0x11, &[0; 12]), 13, Parsed::Invalid);
        let mut version3 = version2(1, 0x11, &[0; 12]);
        version3[12] = 0x31;
        check(&version3, 13, Parsed::Invalid);
    }
}
