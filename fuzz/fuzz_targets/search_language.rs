#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tokentrail::fuzz::run("search_language", data));
