//! Where everything lies: the sources, what is built, and what is kept between runs.
//!
//! Three folders: the work tree, cargo's target folder (which may lie elsewhere: `CARGO_TARGET_DIR`, as in CI), and
//! the cache (`$XDG_CACHE_HOME/tokentrail`) for what is installed for this project alone: tools, fixtures, the
//! virtual machine's Python environment.
//!
//! Invariant: nothing is written outside of the target folder and the cache, except by the package manager.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The three folders, absolute.
#[derive(Clone, Debug)]
pub struct Workspace {
    pub root: PathBuf,
    pub target: PathBuf,
    pub cache: PathBuf,
}

impl Workspace {
    pub fn locate() -> Result<Self> {
        // `cargo run` says where this crate lies now; the path compiled in may be that of an older clone that shares
        // the target folder.
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest
            .parent()
            .context("xtask lies in no workspace")?
            .to_path_buf();
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) if !folder.is_empty() => env::current_dir()?.join(folder),
            _ => target_folder(&root)?,
        };
        Ok(Self {
            root,
            target,
            cache: cache_folder(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"))?,
        })
    }

    /// The probes' object file, where `agent/build.rs` looks for it.
    pub fn probes(&self) -> PathBuf {
        self.target.join("bpf/tokentrail-probes.o")
    }

    /// Logs of what setup and the test stages ran.
    pub fn logs(&self) -> PathBuf {
        self.target.join("xtask-logs")
    }

    /// Programs built for this project alone.
    pub fn tools(&self) -> PathBuf {
        self.cache.join("tools")
    }

    /// The fixtures that setup makes, or those that `TOKENTRAIL_FIXTURES` names.
    pub fn fixtures(&self) -> PathBuf {
        env::var_os("TOKENTRAIL_FIXTURES")
            .filter(|folder| !folder.is_empty())
            .map_or_else(|| self.cache.join("fixtures"), PathBuf::from)
    }

    /// Everything that a virtual machine must see.
    pub fn folders(&self) -> Vec<PathBuf> {
        vec![
            self.root.clone(),
            self.target.clone(),
            self.cache.clone(),
            self.fixtures(),
        ]
    }

    /// What makes [`Workspace::locate`] find the same folders in a virtual machine.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = vec![
            ("CARGO_MANIFEST_DIR", self.root.join("xtask")),
            ("CARGO_TARGET_DIR", self.target.clone()),
            ("TOKENTRAIL_FIXTURES", self.fixtures()),
        ];
        environment.extend(
            self.cache
                .parent()
                .map(|xdg| ("XDG_CACHE_HOME", xdg.to_path_buf())),
        );
        environment
            .into_iter()
            .map(|(name, path)| (name.to_owned(), path.display().to_string()))
            .collect()
    }

    /// cargo as it runs this program, else the one in the search path.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        forget_own_package(&mut command);
        command
    }
}

/// `cargo run` describes xtask itself in the environment; handed on, it would rebuild crates that watch it.
pub fn forget_own_package(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name.as_ref());
        }
    }
}

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

fn target_folder(root: &Path) -> Result<PathBuf> {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root)
        .output()
        .context("cargo does not start")?;
    if !output.status.success() {
        bail!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let metadata: Metadata =
        serde_json::from_slice(&output.stdout).context("cargo metadata printed something else")?;
    Ok(metadata.target_directory)
}

fn cache_folder(xdg: Option<OsString>, home: Option<OsString>) -> Result<PathBuf> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|p| p.is_absolute());
    // A relative XDG_CACHE_HOME counts as unset (XDG base directory specification).
    absolute(xdg)
        .or_else(|| absolute(home).map(|home| home.join(".cache")))
        .map(|cache| cache.join("tokentrail"))
        .context("neither XDG_CACHE_HOME nor HOME names an absolute folder")
}

/// Writes `text` unless the file holds it already, so that a second run changes no time stamp.
pub fn write_if_changed(path: &Path, text: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_lies_where_the_desktop_specification_says() {
        let of = |xdg: &str, home: &str| {
            let value = |text: &str| (!text.is_empty()).then(|| OsString::from(text));
            cache_folder(value(xdg), value(home)).ok()
        };
        assert_eq!(of("/x", "/root"), Some("/x/tokentrail".into()));
        assert_eq!(of("", "/root"), Some("/root/.cache/tokentrail".into()));
        assert_eq!(
            of("relative", "/root"),
            Some("/root/.cache/tokentrail".into())
        );
        assert_eq!(of("", ""), None);
    }
}
