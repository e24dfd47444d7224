//! One test's place: a folder, a cgroup in scope and one out of it, a certificate, the scripts.

use super::cgroup::Cgroup;
use super::fixtures::{SCRIPTS, system};
use super::process::{Place, Spec, run};
use anyhow::{Context, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub struct Lab {
    test: &'static str,
    inside: Option<Cgroup>,
    outside: Option<Cgroup>,
    folder: TempDir,
}

impl Lab {
    /// With cgroups: needs root.
    pub fn new(test: &'static str) -> Result<Self> {
        let mut lab = Self::without_cgroups(test)?;
        // Named like a slice, so that a group in it can be named like a unit.
        lab.inside = Some(Cgroup::make_with_suffix(".slice")?);
        lab.outside = Some(Cgroup::make()?);
        Ok(lab)
    }

    /// For programs alone: everything runs where the test runs.
    pub fn without_cgroups(test: &'static str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("tokentrail-").tempdir()?;
        // nginx's workers and other users' clients read from it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let lab = Self {
            test,
            inside: None,
            outside: None,
            folder,
        };
        for (name, source) in SCRIPTS {
            std::fs::write(lab.path(name), source)?;
        }
        lab.make_certificate()?;
        Ok(lab)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn inside(&self) -> Place {
        Place {
            procs: self.inside.as_ref().map(Cgroup::procs),
            user: None,
        }
    }

    /// In scope, as another user.
    pub fn inside_as(&self, user: u32) -> Place {
        Place {
            user: Some(user),
            ..self.inside()
        }
    }

    pub fn outside(&self) -> Place {
        Place {
            procs: self.outside.as_ref().map(Cgroup::procs),
            user: None,
        }
    }

    pub fn scope(&self) -> Result<&Cgroup> {
        self.inside.as_ref().context("this lab has no cgroup")
    }

    pub fn out_of_scope(&self) -> Result<&Cgroup> {
        self.outside.as_ref().context("this lab has no cgroup")
    }

    /// The path that names a cell on the wire.
    pub fn cell_path(&self, cell: &str) -> String {
        format!("/cell/{}-{cell}", self.test)
    }

    /// Trusted by itself: clients are given it as the root. rustls takes no authority for a server.
    pub fn certificate(&self) -> PathBuf {
        self.path("certificate.pem")
    }

    pub fn private_key(&self) -> PathBuf {
        self.path("private.pem")
    }

    fn make_certificate(&self) -> Result<()> {
        let spec = Spec::new(system("/usr/bin/openssl")?)
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ])
            .args(["-days", "3650", "-subj", "/CN=localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args([
                "-addext",
                "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
                "-out",
            ])
            .arg(self.certificate())
            .arg("-keyout")
            .arg(self.private_key());
        run(&spec, &Place::default())
            .context("make the certificate")
            .map(drop)
    }
}

impl Drop for Lab {
    /// What servers wrote of their errors explains a failure, and goes with the folder.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Ok(files) = std::fs::read_dir(self.folder.path()) else {
            return;
        };
        for path in files.flatten().map(|file| file.path()) {
            if path
                .extension()
                .is_some_and(|extension| extension == "error")
            {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(20).collect();
                eprintln!("the end of {}:", path.display());
                last.iter().rev().for_each(|line| eprintln!("    {line}"));
            }
        }
    }
}
