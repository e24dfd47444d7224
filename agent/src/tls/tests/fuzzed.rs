//! The fuzz drivers on real connections with damage, and on noise.

use super::real::sample;
use crate::flow::Direction;
use crate::tls::fuzz;
use proptest::prelude::*;

/// A sample's records and secrets as the driver's input, so that what it does gets past the hellos.
fn script(number: usize) -> Vec<u8> {
    let recording = sample(number);
    let mut script = Vec::new();
    for (label, _, secret) in &recording.secrets {
        let kind = match (label.as_str(), secret.len()) {
            ("CLIENT_RANDOM", _) => 4,
            ("CLIENT_TRAFFIC_SECRET_0", 32) => 9,
            ("CLIENT_TRAFFIC_SECRET_0", _) => 5,
            ("SERVER_TRAFFIC_SECRET_0", 32) => 6,
            ("SERVER_TRAFFIC_SECRET_0", _) => 10,
            _ => continue,
        };
        // A control byte of this kind that means a secret: its low bits are 0, and it divides by 5.
        let control = (0u8..=255)
            .find(|control| control >> 3 == kind && control & 6 == 0 && control % 5 == 0);
        let Some(control) = control else { continue };
        let mut bytes = secret.clone();
        bytes.truncate(1 + usize::from(control >> 3));
        script.push(control);
        script.extend(bytes);
    }
    for (direction, bytes) in &recording.chunks {
        for part in bytes.chunks(32) {
            let control =
                ((part.len() as u8 - 1) << 3) | 2 | u8::from(*direction == Direction::Received);
            script.push(control);
            script.extend(part);
        }
    }
    script
}

#[test]
fn drivers_take_real_connections_with_damage() {
    for number in 0..6 {
        let script = script(number);
        fuzz::session(&script);
        for at in (0..script.len()).step_by(3) {
            let mut changed = script.clone();
            changed[at] ^= 1 << (at % 8);
            fuzz::session(&changed);
            fuzz::records(&changed);
        }
        for direction in [Direction::Sent, Direction::Received] {
            let stream = sample(number).stream(direction);
            for cut in 0..stream.len().min(400) {
                fuzz::hellos(&stream[9..][..cut.min(stream.len() - 9)]);
                fuzz::messages(&stream[cut..]);
            }
        }
    }
}

proptest! {
    #[test]
    fn drivers_take_noise(data in proptest::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::session(&data);
        fuzz::records(&data);
        fuzz::hellos(&data);
        fuzz::messages(&data);
    }

    /// Heads that are plausible, so that records come about.
    #[test]
    fn drivers_take_records_of_noise(
        parts in proptest::collection::vec((20u8..24, 0u8..60, proptest::collection::vec(any::<u8>(), 0..60)), 0..40),
    ) {
        let mut data = Vec::new();
        for (kind, len, bytes) in parts {
            let record = [&[kind, 3, 3, 0, len][..], &bytes].concat();
            for part in record.chunks(31) {
                data.push(((part.len() as u8 - 1) << 3) | 2 | (kind & 1));
                data.extend(part);
            }
        }
        fuzz::session(&data);
        fuzz::records(&data);
    }
}
