//! Blocks of addresses (CIDR, RFC 4632 and RFC 4291).
//!
//! Addresses compare as 128-bit numbers, IPv4 in its mapped form (`::ffff:0:0/96`), so that one comparison serves both
//! and a mapped address is the address.
//!
//! Invariant: bits beyond the prefix are zero.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// A block of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no block; the place is the part after the slash if `length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoNetwork {
    Address,
    Length { most: u8 },
}

impl Network {
    pub(super) fn parse(address: &str, prefix: &str) -> Result<Self, NoNetwork> {
        let address: IpAddr = address.parse().map_err(|_| NoNetwork::Address)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let digits = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix
            .parse::<u8>()
            .ok()
            .filter(|prefix| digits && *prefix <= most)
            .ok_or(NoNetwork::Length { most })?;
        Ok(Self::new(address, prefix))
    }

    fn new(address: IpAddr, prefix: u8) -> Self {
        let wide = prefix + if address.is_ipv4() { 96 } else { 0 };
        let first = number(address) & mask(wide);
        // A block within the mapped ones is one of IPv4.
        match Ipv6Addr::from_bits(first).to_ipv4_mapped() {
            Some(address) if wide >= 96 => Self {
                address: IpAddr::V4(address),
                prefix: wide - 96,
            },
            _ => Self {
                address: IpAddr::V6(Ipv6Addr::from_bits(first)),
                prefix: wide,
            },
        }
    }

    /// First and last address, as numbers.
    #[must_use]
    pub fn bounds(self) -> (u128, u128) {
        let wide = self.prefix + if self.address.is_ipv4() { 96 } else { 0 };
        let first = number(self.address);
        (first, first | !mask(wide))
    }
}

/// The address as a number, IPv4 mapped into IPv6.
#[must_use]
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX
        .checked_shl(128 - u32::from(prefix.min(128)))
        .unwrap_or(0)
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(network: &str, address: &str) -> bool {
        let (block, prefix) = network.split_once('/').unwrap();
        let (first, last) = Network::parse(block, prefix).unwrap().bounds();
        (first..=last).contains(&number(address.parse().unwrap()))
    }

    #[test]
    fn blocks_hold_their_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::"),
            ("::/0", "10.0.0.1", "10.0.0.1"),
        ] {
            assert!(within(network, inside), "{inside} in {network}");
            assert_eq!(
                within(network, outside),
                network == "::/0",
                "{outside} in {network}"
            );
        }
    }

    #[test]
    fn written_in_one_form() {
        for (text, prefix, written) in [
            ("10.1.2.3", "8", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "80", "::/80"),
            ("2001:DB8::1", "32", "2001:db8::/32"),
        ] {
            assert_eq!(Network::parse(text, prefix).unwrap().to_string(), written);
        }
        for (text, prefix, error) in [
            ("10.0.0", "8", NoNetwork::Address),
            ("10.0.0.0", "33", NoNetwork::Length { most: 32 }),
            ("10.0.0.0", "+8", NoNetwork::Length { most: 32 }),
            ("10.0.0.0", "", NoNetwork::Length { most: 32 }),
            ("::", "129", NoNetwork::Length { most: 128 }),
        ] {
            assert_eq!(Network::parse(text, prefix), Err(error));
        }
    }
}
