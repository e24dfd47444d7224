//! This host and this boot.

use super::Error;
use agent_common::event::Host;
use std::path::Path;

/// Name, machine id and boot id of the host, from below `root` (usually `/`).
///
/// The machine id is given as it is: OpenTelemetry's `host.id` says so for hosts outside a cloud, and events of
/// other programs carry the same.
///
/// # Errors
/// If the boot id or the host's name cannot be read.
pub fn read(root: &Path) -> Result<Host, Error> {
    let required = |path: &str| {
        let path = root.join(path);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(source) => Err(Error::Read { path, source }),
        }
    };
    let id = ["etc/machine-id", "var/lib/dbus/machine-id"]
        .into_iter()
        .filter_map(|path| required(path).ok())
        // Before the first boot is over it reads `uninitialized` (machine-id(5)).
        .find(|id| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    Ok(Host {
        id,
        name: required("proc/sys/kernel/hostname")?,
        boot_id: required("proc/sys/kernel/random/boot_id")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host() {
        let host = read(Path::new("/")).unwrap();
        assert_eq!(host.boot_id.len(), 36);
        assert!(!host.name.is_empty());
    }

    #[test]
    fn machine_ids() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert!(
            read(root.path())
                .unwrap_err()
                .to_string()
                .contains("hostname")
        );
        write("proc/sys/kernel/hostname", "h\n");
        write("proc/sys/kernel/random/boot_id", "b\n");
        assert_eq!(read(root.path()).unwrap().id, None);
        write("etc/machine-id", "uninitialized\n");
        assert_eq!(read(root.path()).unwrap().id, None);
        let id = "0123456789abcdef0123456789abcdef";
        write("var/lib/dbus/machine-id", &format!("{id}\n"));
        assert_eq!(read(root.path()).unwrap().id.as_deref(), Some(id));
    }
}
