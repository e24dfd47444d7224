//! Syslog messages (RFC 5424) with an event's JSON in each, best effort.
//!
//! Design: [`frame`] makes messages, [`transport`] carries them. Syslog acknowledges nothing: an event counts as
//! accepted when the kernel (and with TLS the session) has taken it, so what was on its way when a receiver died is
//! lost without a trace; who needs more takes OTLP or HTTP. What can be seen is acted on: before each batch the
//! connection is looked at, a datagram that is too large is said before anything of its batch is sent, and a new TLS
//! connection with a client certificate is used only after the server had the time to refuse it.
//!
//! | address | transport |
//! |---|---|
//! | `udp://HOST:PORT` | RFC 5426, one message per datagram |
//! | `tcp://HOST:PORT` | RFC 6587, octet counting |
//! | `tls://HOST:PORT` | RFC 5425, octet counting |
//! | `unix:PATH` | datagrams, as `/dev/log` |
//! | `unix-stream:PATH` | RFC 6587, newlines: what both rsyslog and syslog-ng read there |
//!
//! Invariant: a message holds no newline, so that no event can pass for two.

mod address;
mod frame;
#[cfg(test)]
mod tests;
mod transport;

use super::batch::{Batch, Limits, Outcome, Receiver};
use super::encoding;
use super::remote::Error;
use super::remote::file::Source;
use super::remote::tls::{Files, Tls};
use crate::config::{self, Encoding};
use address::Address;
use frame::Framing;
use std::time::Duration;
use transport::Transport;

/// A receiver of syslog.
pub struct Syslog {
    transport: Transport,
    framing: Framing,
    encoding: Encoding,
    limits: Limits,
}

/// The receiver that `[syslog]` names; nothing if it names none.
///
/// # Errors
/// What is wrong with the section, or with the files that it names.
pub fn from_config(config: &config::Syslog) -> Result<Option<Syslog>, Error> {
    load(config, &Source::disk())
}

/// The same, with files that `source` has.
///
/// # Errors
/// As [`from_config`].
pub fn load(config: &config::Syslog, source: &Source) -> Result<Option<Syslog>, Error> {
    let Some(text) = config.address.as_deref() else {
        return Ok(None);
    };
    let address: Address = text.parse().map_err(|()| Error::Address {
        address: text.to_owned(),
    })?;
    let files = Files {
        ca: config.ca.as_ref(),
        certificate: config.certificate.as_ref(),
        key: config.key.as_ref(),
    };
    let tls = match address {
        Address::Tls { .. } => Some((
            Tls::load(files, source)?.config,
            // Without a certificate there is none to refuse.
            files.certificate.is_some(),
        )),
        _ => None,
    };
    let framing = Framing {
        facility: config.facility.get(),
        enterprise: config.enterprise.get(),
        datagram_bytes: address
            .is_datagram()
            .then_some(config.datagram_bytes.size()),
        separation: address.separation(),
    };
    Ok(Some(Syslog {
        transport: Transport::new(
            address,
            tls,
            Duration::from_secs(config.connect_seconds.get()),
            Duration::from_secs(config.timeout_seconds.get()),
        ),
        framing,
        encoding: config.encoding,
        limits: Limits {
            events: config.batch_events.size(),
            bytes: config.batch_bytes.size(),
        },
    }))
}

impl Receiver for Syslog {
    fn name(&self) -> &str {
        "syslog"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn destination(&self) -> Option<(String, u16)> {
        self.transport.address().destination()
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        let events = match encoding::events(self.encoding, batch) {
            Ok(events) => events,
            Err(outcome) => return outcome,
        };
        let messages = match self.framing.messages(batch, &events) {
            Ok(messages) => messages,
            Err(outcome) => return outcome,
        };
        match self.transport.send(&messages) {
            Ok(()) => Outcome::Accepted {
                rejected: 0,
                reason: None,
            },
            Err(error) if transport::is_too_large(&error) => Outcome::TooLarge {
                reason: format!("a datagram is larger than the system sends: {error}"),
            },
            Err(error) => Outcome::Retry {
                after: None,
                reason: format!("{} was not reached: {error}", self.transport),
            },
        }
    }
}

/// Entry point for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use super::address::Address;
    use super::frame::{Framing, Separation};
    use crate::sink::batch::{Batch, Encoded};
    use crate::sink::ocsf;
    use crate::sink::remote::retry;
    use agent_common::event::{Envelope, Time};
    use bytes::Bytes;

    /// Texts of a configuration and of headers are read or refused; an event makes one message of one line, and one
    /// of OCSF.
    pub fn fuzz(data: &[u8]) {
        if let Ok(text) = std::str::from_utf8(data) {
            if let Ok(address) = text.parse::<Address>() {
                assert_eq!(address.to_string().parse(), Ok(address));
            }
            if let Some(pause) = retry::after(text, jiff::Timestamp::UNIX_EPOCH) {
                assert!(pause <= retry::LONGEST);
            }
        }
        let Ok(event) = serde_json::from_slice::<Envelope>(data) else {
            return;
        };
        let Ok(json) = serde_json::to_vec(&event).map(Bytes::from) else {
            return;
        };
        assert!(ocsf::encode(&json).is_ok());
        let batch = Batch {
            agent: event.producer.id,
            epoch: event.producer.epoch,
            events: vec![Encoded {
                sequence: event.producer.sequence,
                time: Time::from_unix_nanos(0),
                json: json.clone(),
            }],
        };
        let framing = Framing {
            facility: 13,
            enterprise: 1,
            datagram_bytes: None,
            separation: Separation::None,
        };
        if let Ok(messages) = framing.messages(&batch, std::slice::from_ref(&json)) {
            assert!(messages.len() == 1 && !messages[0].contains(&b'\n'));
            assert!(messages[0].ends_with(&json));
        }
    }
}
