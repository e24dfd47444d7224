//! Small programs that end at once and carry what the finder takes for Go's crypto/tls: files to search, and points to
//! attach, without Go.

use anyhow::{Context, Result};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where the text is loaded, and where the data are.
const TEXT: u64 = 0x40_0000;
const DATA: u64 = 0x400_0000;
/// In the file: where the program begins.
const ENTRY: u64 = 0x200;
/// `xor edi, edi; mov eax, 60; syscall`: exit(0).
const CODE: &[u8] = b"\x31\xff\xb8\x3c\0\0\0\x0f\x05";
const NAME: &[u8] = b"\0crypto/tls.(*Config).writeKeyLog\0";
const BUILD: &[u8] = b"\xff Go buildinf:\x08\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x08go1.22.0";

/// One such program.
#[derive(Clone, Copy, Debug)]
pub struct Fake {
    /// Where in the file the program says that its key log is written.
    pub point: u64,
    /// Bytes of data that a search reads.
    pub data: u64,
    /// The file's length, if it is to be longer than what it holds: without blocks on the disk.
    pub length: u64,
    /// Makes its content another than that of others.
    pub number: u64,
}

impl Fake {
    pub fn small(number: u64) -> Self {
        Self {
            point: 0x300,
            data: 4096,
            length: 0,
            number,
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = (self.point + 0x1000).next_multiple_of(0x1000);
        let mut file =
            std::fs::File::create(path).with_context(|| format!("make {}", path.display()))?;
        file.write_all(&self.head(text))?;
        file.seek(SeekFrom::Start(ENTRY))?;
        file.write_all(CODE)?;
        // A point's place may hold any code: nobody runs it.
        file.seek(SeekFrom::Start(0x300))?;
        file.write_all(&[0x90; 0x100])?;
        file.seek(SeekFrom::Start(text))?;
        file.write_all(&self.tables()?)?;
        file.set_len(self.length.max(text + self.data))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// An ELF header with two segments: text, and data that are only read.
    fn head(&self, text: u64) -> Vec<u8> {
        let mut head = b"\x7fELF\x02\x01\x01".to_vec();
        head.resize(16, 0);
        for half in [2u16, 62] {
            head.extend(half.to_le_bytes());
        }
        head.extend(1u32.to_le_bytes());
        for word in [TEXT + ENTRY, 64, 0] {
            head.extend(word.to_le_bytes());
        }
        head.extend(0u32.to_le_bytes());
        for half in [64u16, 56, 2, 0, 0, 0] {
            head.extend(half.to_le_bytes());
        }
        for (flags, offset, address, size) in [(5u32, 0, TEXT, text), (4, text, DATA, self.data)] {
            head.extend(1u32.to_le_bytes());
            head.extend(flags.to_le_bytes());
            for word in [offset, address, address, size, size, 0x1000] {
                head.extend(word.to_le_bytes());
            }
        }
        head
    }

    /// `runtime.pcHeader` with one function, the labels of the key log, and what says that Go made it.
    fn tables(&self) -> Result<Vec<u8>> {
        let point = u32::try_from(self.point)?;
        let mut data = b"\xf1\xff\xff\xff\0\0\x01\x08".to_vec();
        for word in [1u64, 0, TEXT, 96, 176, 184, 192, 200] {
            data.extend(word.to_le_bytes());
        }
        data.resize(96, 0);
        data.extend(NAME);
        data.resize(200, 0);
        for word in [point, 16, 0, 0, point, 1] {
            data.extend(word.to_le_bytes());
        }
        data.resize(512, 0);
        data.extend(b"CLIENT_RANDOM\0");
        data.resize(576, 0);
        data.extend(BUILD);
        data.resize(700, 0);
        data.extend(self.number.to_le_bytes());
        Ok(data)
    }
}
