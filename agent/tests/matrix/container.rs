//! A podman container: its own root file system, its own copy of the TLS library, a restart.
//!
//! Where there is only cgroup v2 and podman can run at all, which is in the matrix's virtual machines.

use crate::support::agent::{Agent, Options};
use crate::support::expect::{Expectations, Expected, Side, Who, stop};
use crate::support::lab::Lab;
use crate::support::process::{Place, Program, Spec, run};
use crate::support::report::Cells;
use crate::support::scenario::requests;
use crate::support::servers::{Server, Wire};
use crate::support::{fixtures, host_scope, known, nginx, seconds, turn, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};

/// podman with everything that it keeps in the lab's folder.
struct Podman<'a> {
    lab: &'a Lab,
    name: String,
}

impl Podman<'_> {
    fn spec(&self) -> Spec {
        Spec::new("/usr/bin/podman")
            .arg("--root")
            .arg(self.lab.path("podman"))
            .arg("--runroot")
            .arg(self.lab.path("podman-run"))
            .arg("--tmpdir")
            .arg(self.lab.path("podman-tmp"))
            .args([
                "--storage-driver",
                "vfs",
                "--cgroup-manager",
                "cgroupfs",
                "--events-backend",
                "none",
            ])
            .folder(self.lab.folder())
    }

    /// A shell in the container, told what to do by lines.
    fn first(&self, root: &Path) -> Result<Program> {
        let spec = self.spec().args([
            "run",
            "-i",
            "--name",
            &self.name,
            "--network",
            "host",
            "--log-driver",
            "none",
        ]);
        let spec = spec.args(["--security-opt", "seccomp=unconfined", "--pid", "private"]);
        Program::start(
            &spec.arg("--rootfs").arg(root).arg("/bin/sh"),
            &Place::default(),
        )
    }

    fn again(&self) -> Result<Program> {
        Program::start(
            &self
                .spec()
                .args(["start", "--attach", "--interactive", &self.name]),
            &Place::default(),
        )
    }

    fn inspect(&self, what: &str) -> Result<String> {
        let (_, lines) = run(
            &self.spec().args(["inspect", "--format", what, &self.name]),
            &Place::default(),
        )?;
        lines
            .into_iter()
            .next()
            .context("podman inspect said nothing")
    }

    /// Host pid of the container's shell, once it runs.
    fn shell(&self) -> Result<u32> {
        let look = || {
            self.inspect("{{.State.Pid}}")
                .ok()?
                .trim()
                .parse()
                .ok()
                .filter(|pid| *pid > 0)
        };
        wait_for(seconds(60), look).context("the container does not run")
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _ = run(
            &self
                .spec()
                .args(["rm", "--force", "--time", "0", &self.name]),
            &Place::default(),
        );
    }
}

fn why_not() -> Option<&'static str> {
    if fixtures::system("/usr/bin/podman").is_err() {
        return Some("podman is not installed");
    }
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    (!unified).then_some("podman needs a machine with cgroup v2 alone")
}

#[test]
fn container() {
    let Some(_turn) = turn("container") else {
        return;
    };
    let mut cells = Cells::new("container");
    if let Some(reason) = why_not() {
        cells.skip("all", reason);
        return cells.finish();
    }
    let lab = Lab::new("container").unwrap();
    let mut expected = Expectations::default();
    let web = nginx::start(&lab, &lab.outside(), None).unwrap();
    let root = root_file_system(&lab).unwrap();
    let podman = Podman {
        lab: &lab,
        name: format!("tokentrail-test-{}", std::process::id()),
    };
    let first = podman.first(&root).unwrap();
    let id = podman
        .shell()
        .and_then(|_| podman.inspect("{{.Id}}"))
        .unwrap();
    let scope = if host_scope() {
        "host".to_owned()
    } else {
        format!("container:{}", id.trim())
    };
    let mut agent = Agent::start_with(&lab, &Options::with_scope(scope)).unwrap();
    match inside(&lab, &web, &agent, &podman, first, "first") {
        Ok(made) => expected.add(made),
        Err(error) => cells.check("first", Err(error)),
    }
    match podman
        .again()
        .and_then(|shell| inside(&lab, &web, &agent, &podman, shell, "restarted"))
    {
        Ok(made) => expected.add(made),
        Err(error) => cells.check("restarted", Err(error)),
    }
    expected.check(&mut agent, &mut cells).unwrap();
    let of_client =
        |event: &&crate::support::event::Event| event.is_usage() && event.direction() == "client";
    let strange = agent
        .events
        .iter()
        .filter(of_client)
        .find(|event| event.container() != Some(id.trim()));
    cells.check(
        "container-id",
        match strange {
            Some(event) => Err(anyhow::anyhow!(
                "{} has the container {:?}",
                event.brief(),
                event.container()
            )),
            None => Ok(()),
        },
    );
    expected.no_strangers(&agent, &mut cells).unwrap();
    stop(agent, &mut cells);
    cells.finish();
}

/// Two requests over each wire, by the container's own curl and library.
fn inside(
    lab: &Lab,
    web: &Server,
    agent: &Agent,
    podman: &Podman,
    mut shell: Program,
    name: &str,
) -> Result<Vec<Expected>> {
    let pid = podman.shell()?;
    // It maps its libraries and reaches nobody: the first handshake is another test's.
    shell.send("curl -q -s --noproxy '*' https://127.0.0.1:1/; echo met\n")?;
    ensure!(shell.line_within(seconds(60))? == "met", "curl was not run");
    known::settled(agent);
    let mut expected = Vec::new();
    for wire in Wire::ALL {
        for asked in requests(lab, &format!("{name}-{}", wire.name()), 2) {
            let url = web.target(wire).url(&asked.path);
            shell.send(&format!(
                "curl -q -sS -o /dev/null -w '%{{http_code}}\\n' --noproxy '*' --cacert /certificate.pem \
                 -H 'Authorization: Bearer {}' {url}\n",
                asked.credential
            ))?;
            let status = shell.line_within(seconds(60))?;
            ensure!(
                status.trim() == "200",
                "curl in the container said {status}"
            );
            let fact = web.fact(&asked.path)?;
            let who = Who::ChildOf(pid);
            expected.push(Expected::client(
                &asked.cell,
                &asked.credential,
                &fact,
                who,
                "/usr/bin/curl".into(),
            ));
            if host_scope() {
                expected.push(Expected::server(&asked.cell, &asked.credential, &fact, web));
            }
        }
    }
    ensure!(
        expected.iter().any(|one| one.side == Side::Client),
        "nothing asked"
    );
    shell.finish()?;
    Ok(expected)
}

/// A shell, curl and what they are linked with, copied: other files than the host's.
fn root_file_system(lab: &Lab) -> Result<PathBuf> {
    let root = lab.path("root");
    for folder in [
        "usr/bin", "usr/lib", "lib64", "etc", "proc", "sys", "dev", "tmp", "run", "var",
    ] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::os::unix::fs::symlink("usr/bin", root.join("bin"))?;
    std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    std::fs::copy(lab.certificate(), root.join("certificate.pem"))?;
    for program in ["/usr/bin/curl", "/usr/bin/dash"] {
        let name = if program.ends_with("dash") {
            "sh"
        } else {
            "curl"
        };
        std::fs::copy(program, root.join("usr/bin").join(name))?;
        let (_, lines) = run(&Spec::new("/usr/bin/ldd").arg(program), &Place::default())?;
        for line in lines {
            // `NAME => PATH (0x...)`, or `PATH (0x...)` for the loader.
            let Some(path) = line.split_whitespace().find(|word| word.starts_with('/')) else {
                continue;
            };
            let into = match path.starts_with("/lib64/") {
                true => root.join(path.trim_start_matches('/')),
                false => root
                    .join("usr/lib")
                    .join(Path::new(path).file_name().context("a file's name")?),
            };
            std::fs::copy(path, &into).with_context(|| format!("copy {path}"))?;
        }
    }
    if !root.join("usr/lib/libssl.so.3").exists() {
        bail!("curl is not linked with libssl.so.3");
    }
    Ok(root)
}
