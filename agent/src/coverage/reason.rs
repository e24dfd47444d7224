//! The closed sets of reasons. Their names are part of the event contract: never renamed, never reused.

use crate::flow::GapReason;
use crate::http::h1;

/// Makes an enum with a snake_case name and a sentence for each variant, from one table.
macro_rules! reasons {
    ($(#[$about:meta])* $name:ident { $($variant:ident = $text:literal: $sentence:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $sentence] $variant,)+
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// For people: what it means.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why a connection, or a part of one, was not read.
    Unread {
        OpenedBefore = "opened_before": "its TLS handshake was over before the agent saw it",
        AttachedLate = "attached_late": "its TLS handshake ran before its library's key-log point was attached",
        NoKeyLogPoint = "no_key_log_point": "no key-log point is known in its process's files",
        LibraryUnsupported = "library_unsupported": "its TLS library is known and cannot be read",
        SecretsNotReadable = "secrets_not_readable": "its process's files could not be read, so no key-log point was looked for",
        SecretUnproven = "secret_unproven": "secrets came, and none opened a record of it",
        NoSecret = "no_secret": "key-log points are attached, and no secret came",
        VersionUnsupported = "version_unsupported": "its TLS version is not read",
        CipherUnsupported = "cipher_unsupported": "its cipher suite is not read",
        EarlyData = "early_data": "TLS 1.3 early data is not read",
        HandshakeMalformed = "handshake_malformed": "its TLS handshake could not be understood",
        BytesLost = "bytes_lost": "bytes that were needed were not seen",
        Http2 = "http2": "HTTP/2 is not read yet",
        Quic = "quic": "QUIC is not read",
        NotHttp = "not_http": "it is neither HTTP nor TLS",
        Malformed = "malformed": "it is HTTP that could not be understood",
        KernelTls = "kernel_tls": "the kernel opens its TLS records",
        IoUring = "io_uring": "its bytes went through io_uring, which the hook in use does not see",
        Limit = "limit": "a limit of count or memory was reached",
        Stopped = "stopped": "the agent stopped before it showed what it was",
    }
}

reasons! {
    /// Why something was lost on its way.
    Loss {
        RingFull = "ring_full": "the ring buffer was full",
        CopyRefused = "copy_refused": "memory could not be read at that moment",
        Oversize = "oversize": "longer than what one record holds",
        OverBudget = "over_budget": "more bytes than the budget per connection and second",
        MapFull = "map_full": "a map of the probes was full",
        Policy = "policy": "left out by the copy policy",
        Unseen = "unseen": "the bytes went a way that the hooks do not see",
        Evicted = "evicted": "pushed out of the agent's memory by its limits",
        Unopened = "unopened": "a TLS record that no proven secret opened",
        UnknownRecord = "unknown_record": "a record of the ring that this agent does not understand",
        Malformed = "malformed": "bytes that are not what their place calls for",
        Limit = "limit": "over a limit of count or size",
        QueueFull = "queue_full": "a queue between stages was full",
        OutputFailed = "output_failed": "the output could not be written",
        InvalidFingerprint = "invalid_fingerprint": "a fingerprint had not the form of one",
        Stopped = "stopped": "the agent stopped before it was done",
    }
}

impl Loss {
    /// Left out on purpose rather than lost.
    pub fn is_intentional(self) -> bool {
        matches!(self, Self::Policy)
    }
}

impl From<h1::Reason> for Unread {
    fn from(reason: h1::Reason) -> Self {
        match reason {
            h1::Reason::OpaqueProtocol => Self::NotHttp,
            h1::Reason::Http2 => Self::Http2,
            h1::Reason::RequestLost
            | h1::Reason::ResponseWithoutRequest
            | h1::Reason::FramingLost => Self::BytesLost,
            h1::Reason::Malformed | h1::Reason::HeadIncomplete => Self::Malformed,
            h1::Reason::HeadTooLong
            | h1::Reason::TooManyFields
            | h1::Reason::TooManyOutstanding
            | h1::Reason::OverLimit => Self::Limit,
        }
    }
}

impl From<GapReason> for Loss {
    fn from(reason: GapReason) -> Self {
        match reason {
            GapReason::Policy => Self::Policy,
            GapReason::Unseen => Self::Unseen,
            GapReason::Evicted => Self::Evicted,
            GapReason::Unopened => Self::Unopened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[track_caller]
    fn check(names: &[&str], variants: &[String]) {
        assert_eq!(
            names.iter().collect::<BTreeSet<_>>().len(),
            names.len(),
            "each name once"
        );
        for (name, variant) in names.iter().zip(variants) {
            // The name is the variant's in snake_case, so it cannot drift from what the code says.
            let mut snake = String::new();
            for letter in variant.chars() {
                if letter.is_ascii_uppercase() && !snake.is_empty() {
                    snake.push('_');
                }
                snake.push(letter.to_ascii_lowercase());
            }
            assert_eq!(*name, snake);
        }
    }

    #[test]
    fn names() {
        let names: Vec<_> = Unread::ALL.iter().map(|reason| reason.as_str()).collect();
        check(
            &names,
            &Unread::ALL
                .iter()
                .map(|reason| format!("{reason:?}"))
                .collect::<Vec<_>>(),
        );
        let names: Vec<_> = Loss::ALL.iter().map(|reason| reason.as_str()).collect();
        check(
            &names,
            &Loss::ALL
                .iter()
                .map(|reason| format!("{reason:?}"))
                .collect::<Vec<_>>(),
        );
        assert_eq!(Unread::Http2.to_string(), "http2");
    }
}
