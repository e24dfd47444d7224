//! Credentials in `Sec-WebSocket-Protocol`, for browsers that cannot set other headers.
//!
//! Kubernetes: `base64url.bearer.authorization.k8s.io.<base64url of the token>`. OpenAI:
//! `openai-insecure-api-key.<key>`. Others offer the bare token as one of the subprotocols: only what has a known form
//! is taken for one.
//!
//! Invariant: an ordinary subprotocol (`v4.channel.k8s.io`, `graphql-ws`) is never a credential.

use super::super::find::{Carrier, Find, Finds, Unresolved};
use super::super::{provider, text};
use agent_common::fingerprint::Secret;

const KUBERNETES: &[u8] = b"base64url.bearer.authorization.k8s.io.";
const OPENAI: &[u8] = b"openai-insecure-api-key.";

pub(super) fn collect(value: &[u8], finds: &mut Finds<'_>) {
    let carrier = Carrier::Subprotocol;
    for offered in value.split(|&byte| byte == b',').take(32) {
        let offered = offered.trim_ascii();
        if let Some(encoded) = offered.strip_prefix(KUBERNETES) {
            finds.hide(encoded);
            match text::base64(encoded) {
                Some(credential) => finds.add(Find::new(carrier, "Bearer", credential)),
                None => finds.add(Find::unresolved(carrier, "Bearer", Unresolved::Malformed)),
            }
        } else if let Some(key) = offered.strip_prefix(OPENAI) {
            let find = Find::new(carrier, "api-key", Secret::copy_from(key));
            finds.add(find.hint(Some(("openai", None))));
        } else if provider::credential_shaped(offered) {
            finds.add(Find::new(carrier, "api-key", Secret::copy_from(offered)));
        }
    }
}
