//! Every fuzz entry point by its name: what `fuzz/` runs for hours and `tests/fuzz_smoke.rs` for seconds.
//!
//! An entry takes any bytes, is deterministic, and panics only where its module breaks an invariant.
//!
//! Invariant: each entry point in the source has a row here and a target in `fuzz/` (`tests/fuzz_smoke.rs` looks).

/// One entry point.
pub struct Target {
    pub name: &'static str,
    /// Where it is, as the test that looks for forgotten ones finds it.
    pub path: &'static str,
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:literal: $($part:ident)::+,)*) => {
        &[$(Target {
            name: $name,
            path: stringify!($($part)::+),
            run: $($part)::+,
        },)*]
    };
}

/// All of them.
pub const TARGETS: &[Target] = targets! {
    "config": crate::config::fuzz::fuzz,
    "credential": crate::credential::fuzz::fuzz,
    "fingerprint": agent_common::fingerprint::fuzz::fuzz,
    "flow": crate::flow::fuzz::flow,
    "http2": crate::http::h2::fuzz::http2,
    "http_connection": crate::http::fuzz::connection,
    "http_detect": crate::http::fuzz::detect,
    "http_proxy": crate::http::fuzz::proxy,
    "identity_placement": crate::identity::fuzz::placement,
    "identity_texts": crate::identity::fuzz::texts,
    "kernel_decode": crate::kernel::decode::fuzz::fuzz,
    "keylog_elf": crate::kernel::keylog::fuzz::elf,
    "keylog_text": crate::kernel::keylog::fuzz::text,
    "otlp": crate::sink::otlp::fuzz::fuzz,
    "pipeline": crate::pipeline::fuzz::fuzz,
    "privilege_messages": crate::privilege::fuzz::messages,
    "quic": crate::quic::fuzz::fuzz,
    "replay": crate::replay::fuzz::fuzz,
    "syslog": crate::sink::syslog::fuzz::fuzz,
    "tls_hellos": crate::tls::fuzz::hellos,
    "tls_messages": crate::tls::fuzz::messages,
    "tls_records": crate::tls::fuzz::records,
    "tls_session": crate::tls::fuzz::session,
};

/// Runs one of them.
///
/// # Panics
/// Where an invariant is broken, or there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let Some(target) = target else {
        panic!("no fuzz target {name}");
    };
    (target.run)(data);
}
