//! What the configurations of both programs are made of: TOML, every key documented and defaulted, unknown keys refused.
//!
//! Design: each section is declared once with the [`section!`](crate::section) macro, which makes the struct, its
//! defaults and the list of its keys with their documentation; [`show`] and [`example`] print from that list, so they
//! cannot go stale. Values are types that refuse what is out of range while they are read, so that every complaint has
//! a line and a column. What another file would override is left out: there is one file, and the command line.
//!
//! Invariant: what [`show`] prints parses back to the same configuration; what [`example`] prints, to the defaults, as
//! it is and with every line that sets a key uncommented.
//! Invariant: a file that others may write is not read.

mod file;
mod section;
mod value;

pub use file::{Error, load, load_or_default, parse, refuse_writable_by_others};
pub use section::{Key, Section};
#[doc(hidden)]
pub use toml;
pub use value::{PowerOfTwo, Ranged};

/// Every key with its documentation and its effective value, as TOML. Sections come by their names, in their order.
#[must_use]
pub fn show(sections: &[(&str, &dyn Section)]) -> String {
    let mut out = String::new();
    for (name, section) in sections {
        if !out.is_empty() {
            out.push('\n');
        }
        comment(&mut out, section.doc());
        out.push_str(&format!("[{name}]\n"));
        for key in section.keys() {
            comment(&mut out, key.doc);
            match key.value {
                Some(value) => out.push_str(&format!("{} = {value}\n", key.name)),
                None => out.push_str(&format!("# {} is not set.\n", key.name)),
            }
        }
    }
    out
}

/// Every key with its documentation and its default, none of them set, after `head`.
///
/// A file that says what the defaults are, as [`show`] prints it, would hold on to them when a later version changes
/// one; in this one only what its owner uncomments is said.
#[must_use]
pub fn example(head: &str, defaults: &[(&str, &dyn Section)]) -> String {
    let mut out = head.to_owned();
    for (name, section) in defaults {
        out.push('\n');
        comment(&mut out, section.doc());
        out.push_str(&format!("[{name}]\n"));
        for key in section.keys() {
            out.push('\n');
            comment(&mut out, key.doc);
            // No space after the sign: what can be uncommented is told from what is said.
            match key.value {
                Some(value) => out.push_str(&format!("#{} = {value}\n", key.name)),
                None => out.push_str(&format!("# By default {} is not set.\n", key.name)),
            }
        }
    }
    out
}

/// Documentation lines come with the space that follows `///`.
fn comment(out: &mut String, lines: &[&str]) {
    for line in lines {
        out.push('#');
        out.push_str(line);
        out.push('\n');
    }
}
