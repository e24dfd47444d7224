//! Command lines: what program was started how, without what was typed into it.
//!
//! By construction, not by search: every argument is `*` unless it is one of these.
//!
//! | argument | recorded |
//! |---|---|
//! | the program (argument 0) | as a path, up to the first space |
//! | `--name`, `--name=value` | the name, and `=` with the value as if it stood alone |
//! | `-x` | as it is |
//! | `-xyz`: up to 3 letters of which the first takes no value in common programs | as it is |
//! | `-x…` otherwise (`-pSECRET`, `-Dname=value`) | `-x*` |
//! | `-`, `--` | as it is |
//! | a URL | as a request's target is recorded |
//! | an absolute path below a usual top-level folder | as a request's path is recorded |
//! | a relative path that ends like a script (`run.sh`, `server.js`) | as it is |
//!
//! What follows an option that takes code or a secret (`-c`, `-e`, `-p`, `-u`, `-H`, `--user`, `--header`, `--token`,
//! ...) is `*` whatever it looks like. The last argument of a truncated vector is `*`, because its end is not known.
//!
//! Invariant: bare words, numbers and values are never recorded. Invariant: bounded output.

use super::super::carrier::is_secret_name;
use super::{CUT, Known, opaque, path, url};

const ARGUMENTS_MAX: usize = 64;
const ARGUMENT_MAX: usize = 1024;
const RECORDED_MAX: usize = 512;
const NAME_MAX: usize = 40;
/// A name or file name of this weight may be a secret.
const OPAQUE_MIN: usize = 8;
const STAR: &str = "*";

/// Short options whose value, attached or next, may be a secret or code in common programs.
const TAKES_VALUE: &[u8] = b"AHPUbcdeiknptuwx";
/// Short options after which nothing is recorded, not even a path.
const HIDES_NEXT: &[u8] = b"EFHPUabcdekptuw";
/// Words within long options that do the same, beside the names of secrets.
const HIDES_NEXT_LONG: &[&str] = &[
    "user",
    "header",
    "eval",
    "exec",
    "command",
    "code",
    "print",
    "data",
    "form",
    "proxy-user",
    "auth",
    "env",
    "cookie",
];
const TOP_FOLDERS: &[&str] = &[
    "app", "bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "media", "mnt", "nix",
    "opt", "proc", "root", "run", "sbin", "snap", "srv", "sys", "tmp", "usr", "var",
];
const SCRIPTS: &[&str] = &[
    "bash", "cjs", "class", "cfg", "conf", "exs", "fish", "go", "ini", "jar", "js", "json", "ksh",
    "lua", "mjs", "php", "pl", "ps1", "py", "pyc", "pyz", "r", "rb", "rs", "sh", "so", "sql",
    "tcl", "toml", "ts", "war", "wasm", "xml", "yaml", "yml", "zsh",
];

/// The recordable form of an argument vector (NUL separated, as in `/proc/PID/cmdline`); `truncated`: its end is
/// missing. At most 64 arguments of at most 512 bytes each come out, and `{cut}` stands for the rest.
pub fn command_line(args: &[u8], truncated: bool) -> Vec<String> {
    if args.is_empty() {
        return Vec::new();
    }
    let whole = args.strip_suffix(b"\0");
    let ends_open = truncated && whole.is_none();
    let arguments: Vec<&[u8]> = whole
        .unwrap_or(args)
        .split(|&byte| byte == 0)
        .take(ARGUMENTS_MAX + 1)
        .collect();
    let mut out = Vec::with_capacity(arguments.len());
    let mut hidden = false;
    let mut only_values = false;
    for (index, argument) in arguments.iter().enumerate() {
        if index == ARGUMENTS_MAX {
            out.push(CUT.to_owned());
            break;
        }
        let is_open = ends_open && index + 1 == arguments.len();
        let text = match index {
            0 => program(argument),
            _ if is_open || hidden => STAR.to_owned(),
            _ if only_values => value(argument),
            _ => option_or_value(argument),
        };
        only_values |= !hidden && index > 0 && *argument == b"--";
        hidden = !hidden && !only_values && index > 0 && hides_next(argument);
        out.push(bounded(text));
    }
    if truncated && !ends_open && out.len() <= ARGUMENTS_MAX {
        out.push(CUT.to_owned());
    }
    out
}

fn bounded(mut text: String) -> String {
    if text.len() > RECORDED_MAX {
        // Everything recorded is ASCII, so any place is a boundary; were it not, nothing is kept.
        if text.is_char_boundary(RECORDED_MAX) {
            text.truncate(RECORDED_MAX);
        } else {
            text.clear();
        }
        text.push_str(CUT);
    }
    text
}

/// Servers rewrite argument 0 into a whole title (`nginx: worker`), and some put a command line there.
fn program(argument: &[u8]) -> String {
    let end = argument
        .iter()
        .position(u8::is_ascii_whitespace)
        .unwrap_or(argument.len());
    let word = &argument[..end.min(ARGUMENT_MAX)];
    if word.is_empty() {
        return STAR.to_owned();
    }
    if let Some(url) = url::sanitize(word) {
        return url;
    }
    let mut text = path::sanitize(word, &Known::nothing()).path;
    if end < argument.len() {
        text.push_str(" *");
    }
    text
}

fn option_or_value(argument: &[u8]) -> String {
    match argument {
        b"-" | b"--" => String::from_utf8_lossy(argument).into_owned(),
        [b'-', b'-', rest @ ..] => {
            let equals = rest
                .iter()
                .position(|&byte| byte == b'=')
                .unwrap_or(rest.len());
            let name = &rest[..equals];
            let Some(text) = option_name(name) else {
                return format!("--{STAR}");
            };
            match rest.get(equals + 1..) {
                None => format!("--{text}"),
                Some(_) if hides_value(name) => format!("--{text}={STAR}"),
                Some(attached) => format!("--{text}={}", value(attached)),
            }
        }
        [b'-', first, rest @ ..] if first.is_ascii_alphanumeric() => {
            let first = char::from(*first);
            let letters = rest.len() <= 2 && rest.iter().all(u8::is_ascii_alphabetic);
            let takes_none = !TAKES_VALUE.contains(&(first as u8));
            if rest.is_empty() {
                format!("-{first}")
            } else if let (true, true, Ok(rest)) = (letters, takes_none, std::str::from_utf8(rest))
            {
                format!("-{first}{rest}")
            } else {
                format!("-{first}{STAR}")
            }
        }
        _ => value(argument),
    }
}

/// A long option's name, if it reads like one.
fn option_name(name: &[u8]) -> Option<&str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let reads_like_one = !name.is_empty()
        && name.len() <= NAME_MAX
        && name[0].is_ascii_alphabetic()
        && name.iter().all(|&byte| allowed(byte))
        && !Known::nothing().secret(name)
        && opaque::raw_weight(name) < OPAQUE_MIN;
    std::str::from_utf8(name).ok().filter(|_| reads_like_one)
}

fn hides_value(name: &[u8]) -> bool {
    let lower = zeroize::Zeroizing::new(name.to_ascii_lowercase());
    is_secret_name(&lower)
        || HIDES_NEXT_LONG
            .iter()
            .any(|word| super::super::text::contains(&lower, word.as_bytes()))
}

fn hides_next(argument: &[u8]) -> bool {
    match argument {
        [b'-', b'-', name @ ..] => !name.contains(&b'=') && hides_value(name),
        [b'-', letter] => HIDES_NEXT.contains(letter),
        // In a combination the last letter is the one that may take a value: `curl -sSu`.
        [b'-', first, .., last] => {
            argument.len() <= 4
                && argument[1..].iter().all(u8::is_ascii_alphabetic)
                && !TAKES_VALUE.contains(first)
                && HIDES_NEXT.contains(last)
                && *last != b'a'
        }
        _ => false,
    }
}

/// A value on its own.
fn value(argument: &[u8]) -> String {
    if argument.len() > ARGUMENT_MAX {
        return STAR.to_owned();
    }
    url::sanitize(argument)
        .or_else(|| absolute_path(argument))
        .or_else(|| script(argument))
        .unwrap_or_else(|| STAR.to_owned())
}

fn is_path_character(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b'+' | b'@' | b',')
}

fn absolute_path(argument: &[u8]) -> Option<String> {
    let rest = argument.strip_prefix(b"/")?;
    let first = rest.split(|&byte| byte == b'/').next()?;
    let usual = TOP_FOLDERS.iter().any(|folder| folder.as_bytes() == first);
    let plain = argument.iter().all(|&byte| is_path_character(byte));
    (usual && plain).then(|| path::sanitize(argument, &Known::nothing()).path)
}

fn script(argument: &[u8]) -> Option<String> {
    let dot = argument.iter().rposition(|&byte| byte == b'.')?;
    let usual = SCRIPTS
        .iter()
        .any(|extension| extension.as_bytes() == &argument[dot + 1..]);
    let plain = dot > 0
        && argument.len() <= 128
        && argument.iter().all(|&byte| is_path_character(byte))
        && opaque::raw_weight(argument) < OPAQUE_MIN
        && !Known::nothing().secret(argument);
    let text = std::str::from_utf8(argument).ok()?;
    (usual && plain).then(|| text.to_owned())
}

#[cfg(test)]
#[path = "command_line_tests.rs"]
mod tests;
