//! Azure shared access signatures: in a query (storage, Logic Apps) or after `SharedAccessSignature` (Service Bus,
//! IoT Hub, Event Hubs).
//!
//! Whoever has the whole set of parameters can use it; the signature over them stands for all and is what is hashed,
//! percent-decoded. What it allows is public.
//!
//! Invariant: only listed parameters are kept, short and plain.

use super::super::find::{Carrier, Find, Finds};
use super::super::text;

/// The scheme's name, in a query too.
const SAS: &str = "SharedAccessSignature";

/// Parameters that are kept: expiry, start, permissions, resource, service version, key name, protocol, IP range.
const PUBLIC: &[(&str, &str)] = &[
    ("se", "sas.se"),
    ("sip", "sas.sip"),
    ("skn", "sas.skn"),
    ("sp", "sas.sp"),
    ("spr", "sas.spr"),
    ("sr", "sas.sr"),
    ("st", "sas.st"),
    ("sv", "sas.sv"),
];

/// Adds the signature among `params` (names and values still percent-encoded), if there is one and, beside it, one of
/// the parameters that tell a shared access signature from any other `sig`.
pub(in crate::credential) fn sas_found<'p>(
    carrier: Carrier<'_>,
    params: impl Iterator<Item = (&'p [u8], &'p [u8])>,
    finds: &mut Finds<'_>,
) {
    let mut signature = None;
    let mut public = Vec::new();
    for (name, value) in params {
        if name == b"sig" {
            signature = Some(text::percent(value));
        } else if let Some((_, label)) = PUBLIC.iter().find(|(listed, _)| listed.as_bytes() == name)
        {
            public.push((*label, plain(value)));
        }
    }
    let marked = public
        .iter()
        .any(|(label, _)| matches!(*label, "sas.se" | "sas.sp" | "sas.sv" | "sas.skn"));
    if let Some(signature) = signature.filter(|signature| !signature.is_empty() && marked) {
        let find = Find::new(carrier, SAS, signature)
            .hint(Some(("azure", Some("shared_access_signature"))));
        finds.add(
            public
                .into_iter()
                .fold(find, |find, (label, value)| find.public(label, value)),
        );
    }
}

fn plain(value: &[u8]) -> Option<String> {
    let value = text::percent(value);
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.' | b',' | b'/' | b'_')
    };
    if value.iter().all(|&byte| allowed(byte)) {
        text::presentable(&value, 128)
    } else {
        None
    }
}
