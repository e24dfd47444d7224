//! Where a key-log point that is no C function has what it passes.

use agent_common::abi;
use serde::{Deserialize, Serialize};

/// A general register, by its number in x86-64 machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Register {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

impl Register {
    const ALL: [Self; 16] = [
        Self::Rax,
        Self::Rcx,
        Self::Rdx,
        Self::Rbx,
        Self::Rsp,
        Self::Rbp,
        Self::Rsi,
        Self::Rdi,
        Self::R8,
        Self::R9,
        Self::R10,
        Self::R11,
        Self::R12,
        Self::R13,
        Self::R14,
        Self::R15,
    ];

    pub fn from_number(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }
}

/// A value when the point is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The same at every hit.
    Constant(i32),
    In(Register),
    /// The 8 bytes at an address: register + offset.
    At(Register, i32),
    /// The 8 bytes at the address that stands at another: register + offset, then + offset.
    Behind(Register, i32, i32),
    /// An address: register + offset.
    Sum(Register, i32),
    /// An address: the 8 bytes at register + offset, then + offset.
    Past(Register, i32, i32),
}

/// What the label of a point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelPlace {
    /// Text of the NSS key log, not terminated.
    Text { address: Place, length: Place },
    /// Always `CLIENT_RANDOM`, the master secret of TLS 1.2.
    Master,
    /// Always `CLIENT_TRAFFIC_SECRET_0`.
    Client,
    /// Always `SERVER_TRAFFIC_SECRET_0`.
    Server,
}

/// Addresses and lengths in bytes of what a hit passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Places {
    pub label: LabelPlace,
    pub secret: Place,
    pub length: Place,
    /// Address of the 32 bytes of the client's random.
    pub client_random: Option<Place>,
}

impl From<Place> for abi::Place {
    fn from(place: Place) -> Self {
        let (register, loads, offsets) = match place {
            Place::Constant(value) => (abi::Place::CONSTANT, 0, [value, 0, 0]),
            Place::In(register) => (register as u8, 0, [0; 3]),
            Place::Sum(register, offset) => (register as u8, 0, [offset, 0, 0]),
            Place::At(register, offset) => (register as u8, 1, [offset, 0, 0]),
            Place::Behind(register, first, second) => (register as u8, 2, [first, second, 0]),
            Place::Past(register, first, second) => (register as u8, 1, [first, second, 0]),
        };
        Self {
            offsets,
            register,
            loads,
            _pad: [0; 2],
        }
    }
}

impl From<Places> for abi::Places {
    fn from(places: Places) -> Self {
        let nothing = Place::Constant(0);
        let (label, label_len) = match places.label {
            LabelPlace::Text { address, length } => (address, length),
            LabelPlace::Master => (Place::Constant(abi::label::MASTER), nothing),
            LabelPlace::Client => (Place::Constant(abi::label::CLIENT), nothing),
            LabelPlace::Server => (Place::Constant(abi::label::SERVER), nothing),
        };
        Self {
            label: label.into(),
            label_len: label_len.into(),
            secret: places.secret.into(),
            secret_len: places.length.into(),
            client_random: places.client_random.unwrap_or(nothing).into(),
        }
    }
}
