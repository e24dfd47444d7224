//! Messages of RFC 5424.
//!
//! `<PRI>1 TIME HOST tokentrail-agent EPOCH KIND [tokentrail@ENTERPRISE agent="" epoch="" sequence="" first="" last=""] JSON`
//!
//! PROCID is the epoch: a change of it is a restart (section 6.2.6). MSGID is the event's kind. The JSON comes without
//! a byte order mark: the RFC asks for one before UTF-8, and what parses JSON behind rsyslog and syslog-ng stumbles
//! over it; without one the message is what the RFC calls MSG-ANY, which may be anything.

use crate::sink::batch::{Batch, Outcome};
use crate::sink::severity::Severity;
use agent_common::event::Time;
use bytes::Bytes;
use serde::Deserialize;
use std::borrow::Cow;
use std::io::Write;

/// HOSTNAME's longest (section 6).
const HOST_CHARS: usize = 255;
/// MSGID's longest.
const KIND_CHARS: usize = 32;

/// How messages are told apart on their transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Separation {
    /// One in each datagram.
    None,
    /// Its length before it (RFC 6587, section 3.4.1).
    Counted,
    /// A newline behind it (section 3.4.2).
    Newline,
}

/// What is the same for all messages.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    pub facility: u64,
    pub enterprise: u64,
    /// The largest message, where there is a largest.
    pub datagram_bytes: Option<usize>,
    pub separation: Separation,
}

#[derive(Deserialize)]
struct Facts<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    host: HostFacts<'a>,
}

#[derive(Deserialize)]
struct HostFacts<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

impl Framing {
    /// A batch's messages; `events` are its events in the form in which they are sent.
    ///
    /// # Errors
    /// If one of them is none, or larger than the transport's messages may be.
    pub fn messages(&self, batch: &Batch, events: &[Bytes]) -> Result<Vec<Vec<u8>>, Outcome> {
        let mut messages = Vec::with_capacity(events.len());
        for (encoded, event) in batch.events.iter().zip(events) {
            let facts = serde_json::from_slice::<Facts<'_>>(&encoded.json)
                .and_then(|facts| Ok((facts, Severity::of(&encoded.json)?)));
            let (facts, severity) = facts.map_err(|error| {
                let reason = format!("event {} cannot be read: {error}", encoded.sequence);
                apart(batch, reason)
            })?;
            let mut message = Vec::with_capacity(event.len() + 256);
            self.head(
                &mut message,
                batch,
                encoded.sequence,
                encoded.time,
                &facts,
                severity,
            );
            message.extend_from_slice(event);
            if let Some(limit) = self.datagram_bytes
                && message.len() > limit
            {
                // Before anything is sent, so that halving sends nothing twice.
                return Err(Outcome::TooLarge {
                    reason: format!(
                        "event {} makes a datagram of {} bytes, more than the {limit} of `datagram_bytes`",
                        encoded.sequence,
                        message.len()
                    ),
                });
            }
            messages.push(self.separate(message));
        }
        Ok(messages)
    }

    fn head(
        &self,
        message: &mut Vec<u8>,
        batch: &Batch,
        sequence: u64,
        time: Time,
        facts: &Facts<'_>,
        severity: Severity,
    ) {
        let severity = match severity {
            Severity::Warning => 4,
            Severity::Informational => 6,
        };
        // Writing to memory does not fail.
        let _ = write!(
            message,
            "<{pri}>1 {time} {host} tokentrail-agent {epoch} {kind} [tokentrail@{enterprise} agent=\"{agent}\" \
             epoch=\"{epoch}\" sequence=\"{sequence}\" first=\"{first}\" last=\"{last}\"] ",
            pri = self.facility * 8 + severity,
            time = time_of(time),
            host = name(&facts.host.name, HOST_CHARS),
            kind = name(&facts.kind, KIND_CHARS),
            enterprise = self.enterprise,
            agent = parameter(&batch.agent),
            epoch = batch.epoch,
            first = batch.first(),
            last = batch.last(),
        );
    }

    fn separate(&self, mut message: Vec<u8>) -> Vec<u8> {
        match self.separation {
            Separation::None => message,
            Separation::Newline => {
                message.push(b'\n');
                message
            }
            Separation::Counted => {
                let mut counted = format!("{} ", message.len()).into_bytes();
                counted.append(&mut message);
                counted
            }
        }
    }
}

fn apart(batch: &Batch, reason: String) -> Outcome {
    if batch.events.len() > 1 {
        Outcome::TooLarge { reason }
    } else {
        Outcome::Rejected { reason }
    }
}

/// TIMESTAMP has at most six digits of a second (section 6.2.3); the JSON has all nine.
fn time_of(time: Time) -> String {
    let text = time.to_string();
    match text.split_once('.') {
        Some((seconds, fraction)) if fraction.len() > 6 => {
            format!("{seconds}.{}Z", &fraction[..6])
        }
        _ => text,
    }
}

/// PRINTUSASCII, which has no space; `-` for nothing (NILVALUE).
fn name(text: &str, limit: usize) -> String {
    let name: String = text
        .chars()
        .map(|character| {
            if character.is_ascii_graphic() {
                character
            } else {
                '_'
            }
        })
        .take(limit)
        .collect();
    if name.is_empty() {
        "-".to_owned()
    } else {
        name
    }
}

/// PARAM-VALUE (section 6.3.3); control characters are left out.
fn parameter(text: &str) -> String {
    let mut value = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if matches!(character, '"' | '\\' | ']') {
            value.push('\\');
        }
        value.push(character);
    }
    value
}
