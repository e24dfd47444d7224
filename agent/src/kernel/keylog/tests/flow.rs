//! The way from a label to the function, instruction by instruction: each case is assembly, and the functions that
//! must be found, the chosen ones first.

use super::{Compiled, look};
use crate::kernel::keylog::finder::{PointKind, UnreadReason};

/// Functions and strings that the cases use. `log` has the form; `three` takes three arguments only.
const COMMON: &str = r#"
.intel_syntax noprefix
.section .rodata
random: .asciz "CLIENT_RANDOM"
exporter: .asciz "EXPORTER_SECRET"
early: .asciz "EARLY_EXPORTER_SECRET"
unterminated: .ascii "CLIENT_RANDOM "
other: .asciz "other"
.text
.p2align 4
log: endbr64
 mov rax, [rdi+0x68]
 cmp qword ptr [rax+0x250], 0
 je 1f
 push rbx
 mov rbx, rdx
 mov r12, rcx
 pop rbx
1: mov eax, 1
 ret
.p2align 4
log2: cmp qword ptr [rdi], 0
 je 1f
 mov [rsp-8], rdx
 mov [rsp-16], ecx
 jmp rax
1: ret
.p2align 4
three: push rcx_saved@GOTPCREL[rip]
 pop rax
 mov rax, rdx
 xor ecx, ecx
 mov rax, rcx
 ret
.p2align 4
helper: xor eax, eax
 ret
rcx_saved: ret
thunk: jmp log
calls: call log
 call log2
 ret
.p2align 4
case:
"#;

/// Expected: names of the functions, `!` before those that are not chosen.
fn check(name: &str, code: &str, expected: &[&str]) {
    let source = format!("{COMMON}\n{code}\n.space 64, 0xcc\n");
    let compiled = Compiled::new(&source, "s", &["-shared", "-nostdlib"]);
    let found = look(&compiled.stripped).unwrap();
    let names: Vec<String> = found
        .points
        .iter()
        .filter(|point| point.kind == PointKind::KeyLog)
        .map(|point| {
            let name = ["log", "log2", "three", "helper", "thunk"]
                .into_iter()
                .find(|name| compiled.place(name) == (point.virtual_address, point.file_offset))
                .unwrap_or("a place that is no function");
            format!("{}{name}", if point.chosen { "" } else { "!" })
        })
        .collect();
    assert_eq!(names, expected, "{name}");
    assert_eq!(found.is_ambiguous(), expected.len() > 1, "{name}");
}

#[test]
fn the_label_is_followed_to_the_function() {
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "a call",
            "lea rsi, random[rip]\n mov ecx, 48\n call log\n ret",
            &["log"],
        ),
        (
            "through another register",
            "lea r12, random[rip]\n mov rsi, r12\n call log\n ret",
            &["log"],
        ),
        (
            "a tail call, near",
            "lea rsi, random[rip]\n jmp log",
            &["log"],
        ),
        (
            "a tail call, far",
            "lea rsi, random[rip]\n jmp log\n .space 8192, 0xcc",
            &["log"],
        ),
        (
            "a jump within the function",
            "lea rsi, random[rip]\n jmp 2f\n .space 32, 0xcc\n2: call log\n ret",
            &["log"],
        ),
        (
            "a far jump within the function, out of its cold part",
            "2: mov ecx, 48\n call log\n ret\n .space 16384, 0xcc\n lea rsi, random[rip]\n jmp 2b",
            &["log"],
        ),
        (
            "kept over other calls",
            "lea rbx, random[rip]\n call helper\n call rax\n mov rsi, rbx\n call log\n ret",
            &["log"],
        ),
        (
            "lost in another call",
            "lea rsi, random[rip]\n mov r8, rsi\n call rax\n mov rsi, r8\n call log\n ret",
            &[],
        ),
        (
            "overwritten",
            "lea rsi, random[rip]\n lea rsi, other[rip]\n call log\n ret",
            &[],
        ),
        (
            "overwritten in part",
            "lea rsi, random[rip]\n xor esi, esi\n call log\n ret",
            &[],
        ),
        (
            "one of two",
            "lea rsi, other[rip]\n lea rax, random[rip]\n test ecx, ecx\n cmove rsi, rax\n call log\n ret",
            &["log"],
        ),
        (
            "one of two, the other way",
            "lea rax, other[rip]\n lea rsi, random[rip]\n test ecx, ecx\n cmove rsi, rax\n call log\n ret",
            &["log"],
        ),
        (
            "in the branch that is taken",
            "lea rsi, random[rip]\n test rax, rax\n jne 2f\n ret\n .space 64, 0xcc\n2: call log\n ret",
            &["log"],
        ),
        (
            "as first argument",
            "lea rdi, random[rip]\n call log\n ret",
            &[],
        ),
        (
            "by pointer only",
            "lea rsi, random[rip]\n call [rax+8]\n ret",
            &[],
        ),
        (
            "into a function of three arguments",
            "lea rsi, random[rip]\n call three\n ret",
            &[],
        ),
        (
            "through a thunk",
            "lea rsi, random[rip]\n call thunk\n ret",
            &["log"],
        ),
        (
            "the end of a merged string",
            "lea rsi, early[rip+6]\n call log\n ret",
            &["log"],
        ),
        (
            "the middle of a string",
            "lea rsi, random[rip+1]\n call log\n ret",
            &[],
        ),
        (
            "a longer string",
            "lea rsi, early[rip]\n call log\n ret",
            &[],
        ),
        (
            "not terminated",
            "lea rsi, unterminated[rip]\n call log\n ret",
            &[],
        ),
        ("a loop", "lea rsi, random[rip]\n2: jmp 2b", &[]),
        (
            "a longer loop",
            "2: lea rsi, random[rip]\n test eax, eax\n je 2b\n nop\n jmp 2b",
            &[],
        ),
        (
            "invalid code",
            "lea rsi, random[rip]\n .byte 0x06\n call log",
            &[],
        ),
        (
            "the end of the code",
            "lea rsi, random[rip]\n call [rip]",
            &[],
        ),
        (
            "by vote",
            "lea rsi, random[rip]\n call log\n lea rsi, exporter[rip]\n call log\n lea rsi, random[rip]\n call log2\n ret",
            &["log", "!log2"],
        ),
        (
            "a tie",
            "lea rsi, random[rip]\n call log2\n lea rsi, exporter[rip]\n call log\n ret",
            &["log", "log2"],
        ),
    ];
    for (name, code, expected) in cases {
        check(name, code, expected);
    }
}

/// At fixed addresses code takes a label as an immediate.
#[test]
fn immediates_count_at_fixed_addresses() {
    let cases = [
        "mov esi, offset random\n call log\n ret",
        "mov r9d, offset random\n mov rsi, r9\n call log\n ret",
        ".byte 0x48, 0xc7, 0xc6\n .long random\n call log\n ret",
        "lea rsi, random[rip]\n call log\n ret",
    ];
    for code in cases {
        let source =
            format!("{COMMON}\n{code}\n").replace("push rcx_saved@GOTPCREL[rip]", "push 1");
        let arguments = ["-no-pie", "-static", "-nostdlib", "-Wl,-e,case"];
        let compiled = Compiled::new(&source, "s", &arguments);
        let found = look(&compiled.stripped).unwrap();
        let places: Vec<_> = found
            .points
            .iter()
            .map(|point| point.virtual_address)
            .collect();
        assert_eq!(places, [compiled.place("log").0], "{code}");
    }
}

#[test]
fn another_form_is_said() {
    let source = format!("{COMMON}\nlea rsi, random[rip]\n call three\n ret\n");
    let compiled = Compiled::new(&source, "s", &["-shared", "-nostdlib"]);
    let found = look(&compiled.stripped).unwrap();
    let reasons: Vec<_> = found.unread.iter().map(|unread| unread.reason).collect();
    assert_eq!(reasons, [UnreadReason::OtherForm]);
}
