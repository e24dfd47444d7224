//! Looks for secrets where none may be: in text, files and the memory of a process.
//!
//! Design: every form of every secret goes into one table by its first eight bytes, so that a search is one pass.

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A secret's name, for the report: never the secret.
type Name = String;

#[derive(Default)]
pub struct Canaries {
    /// By the first eight bytes of a form: the whole form and whose it is.
    forms: HashMap<u64, Vec<(Vec<u8>, Name)>>,
}

impl Canaries {
    /// Raw, hexadecimal in both cases, percent-encoded, and base64 at each of its three alignments.
    pub fn add(&mut self, name: &str, secret: &[u8]) {
        let lower = hex(secret);
        self.form(secret.to_vec(), name, "raw");
        self.form(lower.to_uppercase().into_bytes(), name, "hex");
        self.form(percent(secret).into_bytes(), name, "percent");
        self.form(lower.into_bytes(), name, "hex");
        for shift in 0..3 {
            let mut shifted = vec![b'x'; shift];
            shifted.extend_from_slice(secret);
            // Whole groups of three input bytes that hold nothing but the secret.
            let whole = shifted.len() / 3 * 3;
            let skip = if shift == 0 { 0 } else { 4 };
            for encoded in [
                STANDARD_NO_PAD.encode(&shifted[..whole]),
                URL_SAFE_NO_PAD.encode(&shifted[..whole]),
            ] {
                self.form(encoded.into_bytes()[skip..].to_vec(), name, "base64");
            }
        }
    }

    /// The secrets of a key log (`LABEL random secret`, as SSLKEYLOGFILE has it).
    pub fn add_key_log(&mut self, path: &Path) -> Result<usize> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut count = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<_> = line.split(' ').collect();
            let [label, _, secret] = words.as_slice() else {
                bail!("a key log's line has {} words", words.len())
            };
            self.add(label, &unhex(secret)?);
            count += 1;
        }
        Ok(count)
    }

    fn form(&mut self, form: Vec<u8>, name: &str, how: &str) {
        let Some(begin) = form.first_chunk::<8>() else {
            return;
        };
        let named = format!("{name} ({how})");
        let same_begin = self.forms.entry(u64::from_le_bytes(*begin)).or_default();
        if !same_begin.iter().any(|(known, _)| *known == form) {
            same_begin.push((form, named));
        }
    }

    /// Names of what is in `bytes`.
    pub fn found_in(&self, bytes: &[u8]) -> Vec<&str> {
        let mut first_two = vec![false; 1 << 16];
        for begin in self.forms.keys() {
            first_two[(begin & 0xffff) as usize] = true;
        }
        let mut found: Vec<&str> = Vec::new();
        for (place, window) in bytes.windows(8).enumerate() {
            if !first_two[usize::from(u16::from_le_bytes([window[0], window[1]]))] {
                continue;
            }
            let Some(forms) = window
                .first_chunk::<8>()
                .and_then(|begin| self.forms.get(&u64::from_le_bytes(*begin)))
            else {
                continue;
            };
            for (form, name) in forms {
                if bytes[place..].starts_with(form) && !found.contains(&name.as_str()) {
                    found.push(name);
                }
            }
        }
        found
    }

    /// Every file below a folder.
    pub fn search_folder(&self, folder: &Path) -> Result<()> {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in
                std::fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))?
            {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else {
                    self.search_file(&entry.path())?;
                }
            }
        }
        Ok(())
    }

    pub fn search_file(&self, path: &Path) -> Result<()> {
        let mut content = Vec::new();
        std::fs::File::open(path)
            .and_then(|mut file| file.read_to_end(&mut content))
            .with_context(|| format!("read {}", path.display()))?;
        self.search(&path.display().to_string(), &content)
    }

    pub fn search(&self, place: &str, bytes: &[u8]) -> Result<()> {
        let found = self.found_in(bytes);
        if found.is_empty() {
            Ok(())
        } else {
            bail!("{place} holds {}", found.join(", "))
        }
    }

    /// The memory of a process that the test started: all that a core dump of it would hold. Gives the bytes searched.
    ///
    /// Left out is what the kernel leaves out: mappings marked `dd` (the ring buffer's, as `ringbuf_map_mmap_kern`
    /// makes them) or `io`, and unchanged file content.
    pub fn search_process(&self, pid: u32) -> Result<u64> {
        let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).context("read smaps")?;
        let memory = std::fs::File::open(format!("/proc/{pid}/mem")).context("open mem")?;
        let mut searched = 0;
        let mut wrong = Vec::new();
        for (range, begin, end) in dumped(&smaps) {
            // Overlapping pieces, so that nothing hides at a seam.
            const PIECE: u64 = 4 << 20;
            const OVERLAP: u64 = 1024;
            let mut at = begin;
            while at < end {
                let mut piece = vec![0; usize::try_from((end - at).min(PIECE + OVERLAP))?];
                if memory.read_exact_at(&mut piece, at).is_err() {
                    break;
                }
                searched += piece.len() as u64;
                wrong.extend(
                    self.found_in(&piece)
                        .into_iter()
                        .map(|name| format!("{name} in {range}")),
                );
                at += PIECE;
            }
        }
        wrong.dedup();
        if wrong.is_empty() {
            Ok(searched)
        } else {
            bail!("{}", wrong.join(", "))
        }
    }
}

/// Header line, begin and end of every mapping that belongs in a core (proc_pid_smaps(5), core(5)).
fn dumped(smaps: &str) -> Vec<(&str, u64, u64)> {
    let mut mappings: Vec<(&str, u64, u64)> = Vec::new();
    let mut current: Option<(&str, u64, u64)> = None;
    let mut anonymous = 0;
    for line in smaps.lines() {
        if let Some(range) = header(line) {
            (current, anonymous) = (Some((line, range.0, range.1)), 0);
        } else if let Some(rest) = line.strip_prefix("Anonymous:") {
            anonymous = rest.trim().trim_end_matches(" kB").parse().unwrap_or(0);
        } else if let Some(flags) = line.strip_prefix("VmFlags:")
            && let Some((text, begin, end)) = current.take()
        {
            let left_out = flags
                .split_whitespace()
                .any(|flag| flag == "dd" || flag == "io");
            let readable = text
                .split(' ')
                .nth(1)
                .is_some_and(|rights| rights.starts_with('r'));
            let shared = text
                .split(' ')
                .nth(1)
                .is_some_and(|rights| rights.ends_with('s'));
            if readable && !left_out && (anonymous > 0 || shared) {
                mappings.push((text, begin, end));
            }
        }
    }
    mappings
}

fn header(line: &str) -> Option<(u64, u64)> {
    let (begin, end) = line.split_once(' ')?.0.split_once('-')?;
    Some((
        u64::from_str_radix(begin, 16).ok()?,
        u64::from_str_radix(end, 16).ok()?,
    ))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn percent(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "%{byte:02X}");
        text
    })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    (0..text.len())
        .step_by(2)
        .map(|at| {
            u8::from_str_radix(text.get(at..at + 2).unwrap_or_default(), 16)
                .context("not hexadecimal")
        })
        .collect()
}

#[test]
fn finds_every_form_at_every_place() {
    let secret = b"Zr8-fQ_k2Lw+secret/value=17!";
    let mut canaries = Canaries::default();
    canaries.add("it", secret);
    assert!(
        canaries
            .found_in(b"nothing of it is here, not even Zr8-fQ_k2Lw+secre")
            .is_empty()
    );
    for before in 0..9 {
        let mut plain = vec![b' '; before];
        plain.extend_from_slice(secret);
        plain.extend_from_slice(b"tail");
        for text in [
            plain.clone(),
            hex(&plain).into_bytes(),
            hex(&plain).to_uppercase().into_bytes(),
            percent(&plain).into_bytes(),
            STANDARD_NO_PAD.encode(&plain).into_bytes(),
            URL_SAFE_NO_PAD.encode(&plain).into_bytes(),
        ] {
            assert_eq!(
                canaries.found_in(&text).len(),
                1,
                "after {before} bytes: {}",
                String::from_utf8_lossy(&text)
            );
        }
    }
}
