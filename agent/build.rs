//! Hands the probes' object file to the agent, which embeds `OUT_DIR/probes.o`.
//!
//! `cargo xtask build` puts it at `bpf/tokentrail-probes.o` in the target folder; `TOKENTRAIL_PROBES` names another
//! one. Without either the embedded file is empty and the agent says so when it starts, so that everything but the
//! kernel side builds and is tested with stable Rust alone.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TOKENTRAIL_PROBES");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let bytes = match env::var_os("TOKENTRAIL_PROBES").filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = Path::new(&path);
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(path)
                .map_err(|error| format!("TOKENTRAIL_PROBES={}: {error}", path.display()))?
        }
        None => {
            let folder = target_folder(&out)
                .ok_or("OUT_DIR lies in no target folder")?
                .join("bpf");
            // A path that does not exist would make this script run every time, and the agent be built every time.
            fs::create_dir_all(&folder)?;
            println!("cargo::rerun-if-changed={}", folder.display());
            match fs::read(folder.join("tokentrail-probes.o")) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
                read => read?,
            }
        }
    };
    fs::write(out.join("probes.o"), bytes)?;
    Ok(())
}

/// The folder that cargo marked as its own: `OUT_DIR` is `<target>[/<triple>]/<profile>/build/<package>/out`.
fn target_folder(out: &Path) -> Option<&Path> {
    out.ancestors()
        .find(|folder| folder.join("CACHEDIR.TAG").exists())
}
