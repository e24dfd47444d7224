//! Code in the shape of rustls's: what is watched, and which call stands for two.

use super::{Compiled, look};
use crate::kernel::keylog::finder::{How, Passes, PointKind};
use crate::kernel::keylog::places::LabelPlace;

/// `NoKeyLog` or, with `YES`, `KeyLogFile`, with their table of methods, and a handshake of each version.
const PROGRAM: &str = r#"
typedef unsigned char u8;
typedef unsigned long size;
struct table {
    void *drop; size length, alignment;
    int (*debug)(void *, void *);
    void (*log)(void *, const char *, size, const u8 *, size, const u8 *, size);
    _Bool (*will_log)(void *, const char *, size);
};
struct object { void *data; const struct table *table; };
extern int write_text(void *, const char *, size);
volatile const char *mark = "/rustls-0.23.45";

#ifdef YES
static int debug(void *self, void *to) { return write_text(to, "KeyLogFile { <", 14); }
static void do_log(void *self, const char *l, size n, const u8 *r, size m, const u8 *s, size k) { write_text(self, l, n); }
static _Bool will_log(void *self, const char *l, size n) { return 1; }
const struct table table = {0, 40, 8, debug, do_log, will_log};
#else
static int debug(void *self, void *to) { return write_text(to, "NoKeyLog", 8); }
static void do_log(void *self, const char *l, size n, const u8 *r, size m, const u8 *s, size k) {}
static _Bool will_log(void *self, const char *l, size n) { return 0; }
const struct table table = {0, 0, 1, debug, do_log, will_log};
#endif
/* Another object of the same shape, which has another name. */
static int other_debug(void *self, void *to) { return write_text(to, "NoOtherLog", 10); }
const struct table other = {0, 0, 1, other_debug, do_log, will_log};

void old(struct object o, const u8 *random, const u8 *secret) {
    o.table->log(o.data, "CLIENT_RANDOM", 13, random, 32, secret, 48);
}
/* As rustc writes it: two secrets in one frame, 64 bytes and a length each, and a call for each of them. */
#define CALL(TEXT, SECRET, LENGTH, NEXT) \
    "lea " SECRET "(%rsp), %rdi\n call derive@PLT\n" \
    "lea " TEXT "(%rip), %rsi\n mov $23, %edx\n mov %rbx, %rdi\n call *0x28(%r14)\n" \
    "test %al, %al\n je " NEXT "\n" \
    "mov " LENGTH "(%rsp), %rax\n mov %rax, (%rsp)\n lea " SECRET "(%rsp), %r9\n mov $32, %r8d\n" \
    "mov 0x18(%rsp), %rcx\n lea " TEXT "(%rip), %rsi\n mov $23, %edx\n mov %rbx, %rdi\n call *0x20(%r14)\n" \
    NEXT ":\n"
__asm__(".section .rodata\n"
    "client: .ascii \"CLIENT_TRAFFIC_SECRET_0\"\n"
    "server: .ascii \"SERVER_TRAFFIC_SECRET_0\"\n"
    ".text\n .globl traffic\n .type traffic, @function\n"
    "traffic: push %rbx\n push %r14\n sub $0x128, %rsp\n"
    "mov %rdi, %rbx\n mov %rsi, %r14\n mov %rdx, 0x18(%rsp)\n"
    CALL("client", "0x30", "0x70", "between")
    CALL("server", "0x80", "0xc0", "after")
    "add $0x128, %rsp\n pop %r14\n pop %rbx\n ret\n .size traffic, .-traffic\n");
"#;

fn compiled(more: &[&str]) -> Compiled {
    let mut arguments = vec!["-shared", "-fPIC", "-O2"];
    arguments.extend(more);
    Compiled::new(PROGRAM, "c", &arguments)
}

#[test]
fn the_word_of_log_is_watched_and_the_second_call_stands_for_both() {
    for (more, all) in [
        (&[][..], false),
        (&["-DYES"], true),
        (&["-fno-omit-frame-pointer"], false),
    ] {
        let compiled = compiled(more);
        let found = look(&compiled.stripped).unwrap();
        let (table, _) = compiled.place("table");
        let watched: Vec<_> = found
            .points
            .iter()
            .filter(|point| point.word.is_some())
            .collect();
        let [log] = watched[..] else {
            panic!("{more:?}: {watched:?}");
        };
        let word = log.virtual_address.wrapping_add_signed(log.word.unwrap());
        assert_eq!(word, table + 32, "{more:?}");
        assert_eq!(log.virtual_address, compiled.place("do_log").0);
        assert_eq!(log.how, How::MethodTable { all });

        let of = |which| {
            let mut points = found.points.iter();
            let point = points
                .find(|point| matches!(point.how, How::CallSite { passes, .. } if passes == which));
            point.unwrap_or_else(|| panic!("{which:?}: {found:?}"))
        };
        assert!(of(Passes::Master).chosen);
        let (client, server) = (of(Passes::Client), of(Passes::Server));
        assert_eq!((client.chosen, server.chosen), (false, true), "{more:?}");
        let PointKind::Placed(places) = client.kind else {
            panic!("{client:?}");
        };
        let also = server.also.unwrap();
        assert_eq!(also.label, LabelPlace::Client);
        assert_eq!((also.secret, also.length), (places.secret, places.length));
    }
}
