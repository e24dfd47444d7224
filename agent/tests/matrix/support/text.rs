//! Whether the code that a process runs is what its files hold: a breakpoint that somebody wrote into it is found.

use anyhow::{Context, Result, bail, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes compared at a time.
const WINDOW: usize = 1 << 20;

/// A file that a process has mapped executable.
struct Mapped {
    start: u64,
    end: u64,
    offset: u64,
    path: String,
}

/// Compares every executable mapping of a file with that file; gives how many bytes are the same. For processes that
/// the test has started, and that stay while it looks. A file may be shorter than its mapping: what lies behind its end
/// is not there to compare.
pub fn text_is_untouched(pid: u32) -> Result<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))
        .with_context(|| format!("the mappings of {pid}"))?;
    let memory =
        File::open(format!("/proc/{pid}/mem")).with_context(|| format!("the memory of {pid}"))?;
    let mut compared = 0;
    for mapped in maps.lines().filter_map(executable) {
        compared += mapped
            .compare(pid, &memory)
            .with_context(|| format!("{} in process {pid}", mapped.path))?;
    }
    ensure!(compared > 0, "process {pid} has no code of a file mapped");
    Ok(compared)
}

/// proc_pid_maps(5): `START-END PERMISSIONS OFFSET DEVICE INODE PATH`.
fn executable(line: &str) -> Option<Mapped> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()?.contains('x');
    let offset = words.next()?;
    let inode = words.nth(1)?;
    (is_code && inode != "0").then_some(())?;
    let hexadecimal = |text| u64::from_str_radix(text, 16).ok();
    Some(Mapped {
        start: hexadecimal(start)?,
        end: hexadecimal(end)?,
        offset: hexadecimal(offset)?,
        path: words.collect::<Vec<_>>().join(" "),
    })
}

impl Mapped {
    fn compare(&self, pid: u32, memory: &File) -> Result<u64> {
        // The very file, whatever its path leads to by now.
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", self.start, self.end);
        let file = File::open(PathBuf::from(link)).context("open the mapped file")?;
        let (mut held, mut run) = (vec![0; WINDOW], vec![0; WINDOW]);
        let mut done = 0;
        while self.start + done < self.end {
            let wanted = WINDOW.min(usize::try_from(self.end - self.start - done)?);
            let there = file.read_at(&mut held[..wanted], self.offset + done)?;
            if there == 0 {
                break;
            }
            memory.read_exact_at(&mut run[..there], self.start + done)?;
            let differs = (0..there).find(|place| held[*place] != run[*place]);
            if let Some(place) = differs {
                bail!(
                    "the byte at offset {:#x} is {:#04x}, the file has {:#04x}",
                    self.offset + done + place as u64,
                    run[place],
                    held[place]
                );
            }
            done += there as u64;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_is_found_among_mappings() {
        let line = "7f00-7f10 r-xp 00001000 fe:00 42    /lib/lib with space.so (deleted)";
        let mapped = executable(line).unwrap();
        assert_eq!((mapped.start, mapped.end), (0x7f00, 0x7f10));
        assert_eq!((mapped.offset, mapped.path.len()), (0x1000, 32));
        for other in [
            "7f00-7f10 r--p 00001000 fe:00 42 /lib/a.so",
            "7f00-7f10 r-xp 00000000 00:00 0 [vdso]",
        ] {
            assert!(executable(other).is_none(), "{other}");
        }
    }

    #[test]
    fn the_test_itself_runs_what_its_files_hold() {
        assert!(text_is_untouched(std::process::id()).unwrap() > 4096);
    }
}
