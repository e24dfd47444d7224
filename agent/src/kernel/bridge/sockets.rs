//! Which TCP connections a process has open, from `/proc`: what was there before the probes were.
//!
//! Invariant: bounded by what is read of one file and of one folder.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    io::Read as _,
    sync::Arc,
};

/// Most bytes of one table: half a million connections.
const TABLE_BYTES: u64 = 64 << 20;
/// Most descriptors of one process that are looked at.
const DESCRIPTORS: usize = 65_536;
/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` (include/net/tcp_states.h).
const OPEN: [&str; 2] = ["01", "08"];

/// Inode numbers of open TCP connections by network namespace, each table read once.
#[derive(Default)]
pub struct Tables(HashMap<String, Arc<BTreeSet<u64>>>);

impl Tables {
    /// Inode numbers of the TCP connections that this process has open; none if it is gone.
    pub fn of_process(&mut self, pid: u32) -> BTreeSet<u64> {
        let sockets = descriptors(pid).sockets;
        if sockets.is_empty() {
            return sockets;
        }
        let established = self.established(pid);
        sockets.intersection(&established).copied().collect()
    }

    fn established(&mut self, pid: u32) -> Arc<BTreeSet<u64>> {
        let read = || {
            let inodes = ["tcp", "tcp6"].iter().flat_map(|table| {
                let path = format!("/proc/{pid}/net/{table}");
                let mut text = String::new();
                // A namespace without IPv6 has one table.
                let _ = File::open(path)
                    .and_then(|file| file.take(TABLE_BYTES).read_to_string(&mut text));
                parse(&text)
            });
            Arc::new(inodes.collect())
        };
        match fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(namespace) => {
                let name = namespace.to_string_lossy().into_owned();
                Arc::clone(self.0.entry(name).or_insert_with(read))
            }
            Err(_) => read(),
        }
    }
}

/// The sockets that a process has open, of any kind.
#[derive(Debug, Default)]
pub struct Open {
    /// By inode number.
    pub sockets: BTreeSet<u64>,
    /// These are all.
    whole: bool,
}

impl Open {
    pub fn may_have(&self, socket: u64) -> bool {
        !self.whole || self.sockets.contains(&socket)
    }
}

/// Looks them up; of a process that has too many descriptors, or cannot be looked at now, not all are known.
pub fn descriptors(pid: u32) -> Open {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Open::default();
    };
    let mut open = Open {
        whole: true,
        ..Open::default()
    };
    for (number, entry) in entries.enumerate() {
        let (Ok(entry), true) = (entry, number < DESCRIPTORS) else {
            open.whole = false;
            break;
        };
        // Closed meanwhile.
        let Ok(link) = fs::read_link(entry.path()) else {
            continue;
        };
        let name = link.to_str().and_then(|name| name.strip_prefix("socket:["));
        let inode: Option<u64> = name.and_then(|name| name.strip_suffix(']')?.parse().ok());
        open.sockets.extend(inode);
    }
    open
}

/// Inode numbers of the open connections of `/proc/net/tcp` (proc_pid_net(5)): state and inode are fields 4 and 10.
fn parse(text: &str) -> Vec<u64> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(3);
            let state = fields.next()?;
            let inode = fields.nth(5)?.parse().ok()?;
            (OPEN.contains(&state) && inode != 0).then_some(inode)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    #[test]
    fn an_open_connection_is_found_and_a_listening_socket_is_not() {
        let inode = |descriptor: i32| -> u64 {
            let link = fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap();
            let text = link.to_str().unwrap();
            text["socket:[".len()..text.len() - 1].parse().unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let open = Tables::default().of_process(std::process::id());
        assert!(open.contains(&inode(client.as_raw_fd())));
        assert!(!open.contains(&inode(listener.as_raw_fd())));
        let all = descriptors(std::process::id());
        assert!(all.whole && all.sockets.contains(&inode(listener.as_raw_fd())));
        assert!(!all.may_have(0));
    }

    #[test]
    fn what_cannot_be_looked_at_may_have_any_socket() {
        assert!(descriptors(0).may_have(4711));
    }

    #[test]
    fn lines_of_another_form_say_nothing() {
        let line = "  0: 0100007F:A2C4 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  0  0 4711 1 0000";
        assert_eq!(parse(line), [4711]);
        for end in 0..line.len() - 8 {
            assert!(parse(&line[..end]).iter().all(|inode| *inode != 0));
        }
        assert_eq!(
            parse("sl local_address rem_address st\n\n 1 2 3 01\n"),
            [0; 0]
        );
        assert_eq!(parse(&line.replace(" 01 ", " 0A ")), [0; 0]);
    }
}
