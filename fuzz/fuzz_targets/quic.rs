#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tokentrail_agent::fuzz::run("quic", data));
