//! A library of the common form, in C, in many layouts: the function found is the true one.

use super::{Compiled, look};
use crate::kernel::keylog::elf::Elf;
use crate::kernel::keylog::finder::{How, Limits, PointKind, UnreadReason, look_at};
use crate::kernel::keylog::{Library, LookError};
use std::time::Duration;

/// The shape of OpenSSL's, BoringSSL's and GnuTLS's code, with functions around it that get labels otherwise.
pub(in super::super) const LIBRARY: &str = r#"
typedef unsigned char u8;
typedef void (*callback)(void *, const char *, const u8 *, unsigned long);
struct state { long version; callback log; u8 secret[64]; int resumed; };
volatile long sink;

__attribute__((noinline)) int same(const char *a, const char *b) {
    while (*a && *a == *b) a++, b++;
    return *a == *b;
}
__attribute__((noinline)) int log_secret(struct state *s, const char *label, const u8 *secret, unsigned long length) {
    if (!s->log) return 1;
    for (unsigned long i = 0; i < length; i++) sink += secret[i];
    s->log(s, label, secret, length);
    return 1;
}
__attribute__((noinline)) int derive(struct state *s, const char *label, u8 *out) {
    for (int i = 0; label[i] && i < 48; i++) out[i] ^= label[i] + s->version;
    return out[0] != 7;
}
/* Takes four arguments too, and never a label. */
long mix(long a, long b, long c, long d) { return sink ^ a ^ b ^ c ^ d; }
int master(struct state *s) {
    if (!derive(s, "master secret", s->secret)) return 0;
    return log_secret(s, "CLIENT_RANDOM", s->secret, 48);
}
int resume(struct state *s) {
    s->resumed = 1;
    if (!log_secret(s, "CLIENT_RANDOM", s->secret, 48)) { sink = 3; return 0; }
    s->version++;
    return 1;
}
int traffic(struct state *s, int server) {
    const char *label = server ? "SERVER_TRAFFIC_SECRET_0" : "CLIENT_TRAFFIC_SECRET_0";
    if (!derive(s, label, s->secret)) return 0;
    return log_secret(s, label, s->secret, 32);
}
int exporter(struct state *s, int early) {
    if (!derive(s, "exp master", s->secret)) return 0;
    if (early) return log_secret(s, "EARLY_EXPORTER_SECRET", s->secret, 32);
    return log_secret(s, "EXPORTER_SECRET", s->secret, 32) && s->version > 2;
}
int wanted(const char *name) { return same(name, "CLIENT_RANDOM") || same(name, "EXPORTER_SECRET"); }
#ifdef PROGRAM
int main(int argc, char **argv) {
    struct state s = {argc};
    return master(&s) + resume(&s) + traffic(&s, argc) + exporter(&s, argc) + wanted(argv[0]);
}
#endif
"#;

/// Every way of compiling finds `log_secret`, and only it.
#[test]
fn finds_the_function_in_every_layout() {
    let levels = ["-O0", "-O1", "-O2", "-O3", "-Os"];
    let layouts: [&[&str]; 6] = [
        &["-shared", "-fPIC"],
        &["-shared", "-fPIC", "-Wl,-z,noseparate-code"],
        &[
            "-shared",
            "-fPIC",
            "-fcf-protection",
            "-fvisibility=hidden",
            "-Wl,-Bsymbolic",
        ],
        &["-DPROGRAM", "-fPIE", "-pie"],
        &["-DPROGRAM", "-fno-pie", "-no-pie"],
        &["-DPROGRAM", "-fno-pie", "-no-pie", "-Wl,-z,noseparate-code"],
    ];
    for layout in layouts {
        for level in levels {
            let mut arguments = layout.to_vec();
            arguments.extend([level, "-fno-ipa-cp", "-fno-ipa-sra"]);
            // Exported functions are called through the PLT unless bound or hidden; TLS libraries hide this one.
            let hidden = LIBRARY.replace(
                "int log_secret(",
                "int __attribute__((visibility(\"hidden\"))) log_secret(",
            );
            let compiled = Compiled::new(&hidden, "c", &arguments);
            let found = look(&compiled.stripped).unwrap();
            let (address, offset) = compiled.place("log_secret");
            let places: Vec<_> = found
                .points
                .iter()
                .map(|point| (point.virtual_address, point.file_offset, point.chosen))
                .collect();
            assert_eq!(places, [(address, offset, true)], "{arguments:?}");
            assert!(found.points[0].how.votes() >= 2, "{arguments:?}: {found:?}");
        }
    }
}

#[test]
fn windows_of_any_size_find_the_same() {
    let compiled = Compiled::new(LIBRARY, "c", &["-shared", "-fPIC", "-O2", "-Wl,-Bsymbolic"]);
    let expected = look(&compiled.stripped).unwrap();
    assert_eq!(expected.key_log_points().count(), 1);
    for window_bytes in 64..400 {
        let limits = Limits {
            window_bytes,
            ..Limits::default()
        };
        let found = look_at(&compiled.stripped, limits).unwrap();
        assert_eq!(found, expected, "window of {window_bytes}");
    }
}

#[test]
fn limits_are_kept() {
    let compiled = Compiled::new(LIBRARY, "c", &["-shared", "-fPIC", "-O2"]);
    let limits = Limits {
        time: Duration::ZERO,
        ..Limits::default()
    };
    let stopped = look_at(&compiled.stripped, limits);
    assert!(matches!(stopped, Err(LookError::Time(_))), "{stopped:?}");
    let limits = Limits {
        file_bytes: 1000,
        ..Limits::default()
    };
    let message = look_at(&compiled.stripped, limits).unwrap_err().to_string();
    assert!(message.contains("over the limit of 1000"), "{message}");
}

#[test]
fn libraries_are_named() {
    let version =
        |text: &str| format!("{LIBRARY}\nconst char *version(void) {{ return \"{text}\"; }}");
    let cases = [
        (
            "OpenSSL 3.0.19 27 Jan 2026",
            "",
            Library::Openssl,
            Some("3.0.19"),
        ),
        (
            "OpenSSL 3's provider\\0OpenSSL 4.0.0-beta1 x",
            "",
            Library::Openssl,
            Some("4.0.0-beta1"),
        ),
        (
            "Enabled GnuTLS 3.7.9 logging...",
            "",
            Library::Gnutls,
            Some("3.7.9"),
        ),
        (
            "Enabled GnuTLS 3.8.1 logging",
            "libgnutls.so.30",
            Library::Gnutls,
            Some("3.8.1"),
        ),
        (
            "OpenSSL 1.1.1 (compatible)\\0PSK_IDENTITY_BINDER_COUNT_MISMATCH",
            "",
            Library::Boringssl,
            None,
        ),
        ("../ssl/statem/extensions.c", "", Library::Openssl, None),
        ("nothing", "libssl.so.1.1", Library::Openssl, Some("1.1")),
        ("nothing", "", Library::Unknown, None),
    ];
    for (text, soname, library, expected) in cases {
        let soname = format!("-Wl,-soname,{soname}");
        let mut arguments = vec!["-shared", "-fPIC", "-O2", "-Wl,-Bsymbolic"];
        if !soname.ends_with(',') {
            arguments.push(&soname);
        }
        let compiled = Compiled::new(&version(text), "c", &arguments);
        let found = look(&compiled.stripped).unwrap();
        let point = found.key_log_points().next().unwrap();
        assert_eq!(
            (point.library, point.version.as_deref()),
            (library, expected),
            "{text}"
        );
    }
}

/// Libraries that are not read are named, with the reason, and give no point.
#[test]
fn unread_libraries_are_named() {
    let labelled =
        |text: &str| format!("const char a[] = \"CLIENT_RANDOM\"; const char b[] = \"{text}\";");
    let go = "\\xff Go buildinf:\" \"\\x08\\x02\" \"0123456789abcdef\" \"\\x08\" \"go1.26.8\" \"abcdefghijklmnopqrstuvwxyz012345";
    let plain = |text: &str| format!("const char b[] = \"{text}\";");
    let exports = |name: &str| format!("int {name}(void) {{ return 1; }}");
    let cases = [
        (
            labelled(go),
            "",
            Some((Library::Go, UnreadReason::NotFound, Some("1.26.8"))),
        ),
        (
            labelled("x/rustls-0.23.46/src/msgs/codec.rs"),
            "",
            Some((Library::Rustls, UnreadReason::NotFound, Some("0.23.46"))),
        ),
        // A program that is written in Rust and only mentions it.
        (plain("x/rustls-0.23.46/src/msgs/codec.rs"), "", None),
        (
            plain("anything"),
            "libjvm.so",
            Some((Library::Jsse, UnreadReason::NoPlace, None)),
        ),
        (
            plain("anything"),
            "libssl3.so",
            Some((Library::Nss, UnreadReason::NoReader, None)),
        ),
        (
            exports("SSL_ImportFD"),
            "",
            Some((Library::Nss, UnreadReason::NoReader, None)),
        ),
        (
            exports("mbedtls_ssl_handshake"),
            "",
            Some((Library::Mbedtls, UnreadReason::NoReader, None)),
        ),
        (
            plain("mbedtls_ssl_flush_output"),
            "",
            Some((Library::Mbedtls, UnreadReason::NoReader, None)),
        ),
        (
            exports("wolfSSL_connect"),
            "",
            Some((Library::Wolfssl, UnreadReason::NoReader, None)),
        ),
        (
            exports("s2n_connection_new"),
            "",
            Some((Library::S2n, UnreadReason::NoReader, None)),
        ),
        (
            plain("anything"),
            "libssl.so.3",
            Some((Library::Openssl, UnreadReason::NotFound, None)),
        ),
        (
            plain("anything"),
            "libgnutls.so.30",
            Some((Library::Gnutls, UnreadReason::NotFound, None)),
        ),
        (plain("anything"), "libother.so.1", None),
        (labelled("text only, no code"), "", None),
    ];
    for (source, soname, expected) in cases {
        let soname = format!("-Wl,-soname,{soname}");
        let mut arguments = vec!["-shared", "-fPIC"];
        if !soname.ends_with(',') {
            arguments.push(&soname);
        }
        let compiled = Compiled::new(&source, "c", &arguments);
        let found = look(&compiled.stripped).unwrap();
        assert!(found.points.is_empty(), "{source}");
        let unread: Vec<_> = found
            .unread
            .iter()
            .map(|unread| (unread.library, unread.reason, unread.version.as_deref()))
            .collect();
        assert_eq!(unread, Vec::from_iter(expected), "{source} {soname}");
    }
}

/// The fallback is found by export, with either hash table.
#[test]
fn derivation_function_is_the_fallback() {
    let source = "int other(void) { return 2; } int EVP_KDF_derive(void *c, char *o, long n, void *p) { return 1; }";
    for style in ["gnu", "sysv", "both"] {
        let hash = format!("-Wl,--hash-style={style}");
        let arguments = [
            "-shared",
            "-fPIC",
            "-O2",
            "-Wl,-soname,libcrypto.so.3",
            &hash,
        ];
        let compiled = Compiled::new(source, "c", &arguments);
        let found = look(&compiled.stripped).unwrap();
        let point = found
            .fallback()
            .unwrap_or_else(|| panic!("{style}: {found:?}"));
        let (address, offset) = compiled.place("EVP_KDF_derive");
        assert_eq!(
            (point.virtual_address, point.file_offset),
            (address, offset),
            "{style}"
        );
        assert_eq!(point.kind, PointKind::KdfDerive);
        assert_eq!(point.how, How::Export("EVP_KDF_derive".to_owned()));
        assert_eq!(point.version.as_deref(), Some("3"));
        assert_eq!(found.key_log_points().count(), 0);
        assert!(!found.wants_fallback());
    }
    let needs = Compiled::new(
        "int x;",
        "c",
        &["-shared", "-fPIC", "-Wl,-soname,libssl.so.3"],
    );
    assert!(look(&needs.stripped).unwrap().wants_fallback());
}

#[test]
fn headers_are_read() {
    let arguments = [
        "-shared",
        "-fPIC",
        "-Wl,--build-id=0x00ff1234",
        "-Wl,-soname,libown.so.1",
        "-Wl,-rpath,$ORIGIN/../lib",
        "-Wl,--no-as-needed",
        "-lm",
    ];
    let compiled = Compiled::new(
        "int exported(void) { return 1; } static int hidden(void) { return 2; } int (*p)(void) = hidden;",
        "c",
        &arguments,
    );
    for (bytes, has_symbols) in [(&compiled.whole, true), (&compiled.stripped, false)] {
        let elf = Elf::open(bytes, u64::MAX).unwrap();
        assert_eq!(elf.build_id().unwrap().as_str(), "00ff1234");
        assert_eq!(elf.dynamic().soname.as_deref(), Some("libown.so.1"));
        let paths = (&elf.dynamic().runpath, &elf.dynamic().rpath);
        assert_eq!(
            paths.0.as_deref().or(paths.1.as_deref()),
            Some("$ORIGIN/../lib")
        );
        assert!(
            elf.dynamic()
                .needed
                .iter()
                .any(|name| name.starts_with("libm.so"))
        );
        let exported = elf.exported_function("exported").unwrap().unwrap();
        assert_eq!(exported.address, compiled.place("exported").0);
        assert_eq!(
            elf.offset_of(exported.address),
            Some(compiled.place("exported").1)
        );
        assert_eq!(elf.exported_function("hidden").unwrap(), None);
        assert_eq!(elf.exported_function("exporte").unwrap(), None);
        let hidden = elf.function("hidden").unwrap().map(|symbol| symbol.address);
        assert_eq!(hidden, has_symbols.then(|| compiled.place("hidden").0));
        assert!(!elf.is_dynamic_program());
    }
}
