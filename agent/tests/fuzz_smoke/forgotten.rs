//! No fuzz entry point is forgotten: the source tree is searched for them.

use std::{collections::BTreeSet, fs, path::Path};
use tokentrail_agent::fuzz::TARGETS;

/// Where sources are, and how their crate is named in the table.
const CRATES: [(&str, &str); 2] = [("src", "crate"), ("../agent-common/src", "agent_common")];

/// `crate::flow::reassembly::fuzz::flow` and so on, of everything that is public in a module `fuzz`.
fn entries() -> Vec<String> {
    let mut entries = Vec::new();
    for (folder, name) in CRATES {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        // The table itself is at the top.
        visit(&root, name, &mut entries, true);
    }
    entries
}

fn visit(folder: &Path, module: &str, entries: &mut Vec<String>, top: bool) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            visit(&path, &format!("{module}::{stem}"), entries, false);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let module = match stem.as_str() {
                "mod" | "lib" => module.to_owned(),
                _ => format!("{module}::{stem}"),
            };
            if stem != "fuzz" {
                entries.extend(in_text(&module, &text));
            } else if !top {
                let text = format!("mod fuzz {{\n{text}\n}}");
                let parent = module.trim_end_matches("::fuzz");
                entries.extend(in_text(parent, &text));
            }
        }
    }
}

/// Public functions of `mod fuzz { ... }` in `text`, which rustfmt has formatted.
fn in_text(module: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match line {
            "pub mod fuzz {" | "pub(crate) mod fuzz {" | "mod fuzz {" => inside = true,
            "}" if inside && text.contains("pub mod fuzz {") => inside = false,
            _ if inside => {
                let name = line
                    .trim_start()
                    .strip_prefix("pub fn ")
                    .and_then(|rest| rest.split(['(', '<']).next());
                found.extend(name.map(|name| format!("{module}::fuzz::{name}")));
            }
            _ => {}
        }
    }
    found
}

/// The table may name a re-export, so its path may leave out modules.
fn names(row: &str, entry: &str) -> bool {
    let mut of_entry = entry.split("::");
    let mut of_row = row.split("::").map(str::trim);
    of_row.all(|part| of_entry.any(|other| other == part))
}

#[test]
fn each_entry_point_has_a_row_and_each_row_an_entry_point() {
    let entries = entries();
    assert!(entries.len() >= 15, "the search finds little: {entries:?}");
    for entry in &entries {
        assert!(
            TARGETS.iter().any(|row| names(row.path, entry)),
            "{entry} has no row in agent/src/fuzz.rs"
        );
    }
    for row in TARGETS {
        assert!(
            entries.iter().any(|entry| names(row.path, entry)),
            "the source of {} was not found",
            row.path
        );
    }
    let distinct: BTreeSet<_> = TARGETS.iter().map(|row| row.path).collect();
    assert_eq!(distinct.len(), TARGETS.len());
    assert_eq!(entries.len(), TARGETS.len());
}

#[test]
fn each_row_has_a_cargo_fuzz_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let mut files: BTreeSet<String> = fs::read_dir(folder.join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for row in TARGETS {
        let name = row.name;
        assert!(
            files.remove(&format!("{name}.rs")),
            "fuzz/fuzz_targets/{name}.rs"
        );
        let text = fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(text.contains(&format!("run(\"{name}\", data)")), "{text}");
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
    }
    // The collector's are looked for by its own tests.
    files.retain(|name| {
        let text = fs::read_to_string(folder.join("fuzz_targets").join(name)).unwrap();
        !text.contains(" tokentrail::fuzz::run(")
    });
    assert!(files.is_empty(), "targets without a row: {files:?}");
}

#[test]
fn the_search_finds_functions_in_blocks_only() {
    let text = "pub fn no() {}\npub mod fuzz {\n    pub fn one(data: &[u8]) {}\n    fn no() {}\n}\npub fn no() {}\n";
    assert_eq!(in_text("crate::a", text), ["crate::a::fuzz::one"]);
    assert!(names("crate :: a :: fuzz :: one", "crate::a::b::fuzz::one"));
    assert!(!names("crate::a::fuzz::two", "crate::a::b::fuzz::one"));
}
