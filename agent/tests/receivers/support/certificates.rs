//! Certificates for one test, made by openssl. Shared with the collector's tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate authority with a server (`localhost`, 127.0.0.1) and an agent, and an agent of another authority.
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    pub fn make(folder: &Path) -> Self {
        let made = Self {
            folder: folder.to_owned(),
        };
        for authority in ["ca", "other-ca"] {
            made.openssl(&format!(
                "req -x509 {KEY} -days 2 -subj /CN={authority} -addext basicConstraints=critical,CA:TRUE \
                 -keyout {authority}.key -out {authority}.pem"
            ));
        }
        for (name, authority) in [("server", "ca"), ("agent", "ca"), ("stranger", "other-ca")] {
            let names = format!(
                "subjectAltName=DNS:{name}.test,DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n\
                 extendedKeyUsage=serverAuth,clientAuth\n"
            );
            fs::write(folder.join("extensions"), names).unwrap();
            made.openssl(&format!(
                "req {KEY} -subj /CN={name}.test -keyout {name}.key -out {name}.csr"
            ));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 2 \
                 -extfile extensions -out {name}.pem"
            ));
        }
        made
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.folder)
            .output()
            .unwrap();
        assert!(output.status.success(), "openssl {arguments}: {output:?}");
    }

    /// Of `ca`, `server`, `agent`, `stranger`.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// openssl makes it with mode 0600.
    pub fn key(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.key"))
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
