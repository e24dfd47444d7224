//! The demo's clients: real programs, each with a credential of its own in a carrier of its own.

use super::cgroup::Cgroup;
use super::secret;
use crate::process;
use crate::server::Site;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One program's one request, and what the agent must say of it.
pub struct Act {
    /// As people know the program.
    pub name: &'static str,
    pub wire: Wire,
    pub method: &'static str,
    pub path: &'static str,
    pub status: u16,
    /// How the event names the place where the credential rode.
    pub carrier: &'static str,
    /// For `tokentrail-agent fingerprint`, and for nothing else.
    pub secret: String,
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Cleartext,
    Tls12,
    Tls13,
}

impl Wire {
    pub fn name(self) -> &'static str {
        match self {
            Self::Cleartext => "cleartext",
            Self::Tls12 => "TLS 1.2",
            Self::Tls13 => "TLS 1.3",
        }
    }

    fn base(self, site: &Site) -> String {
        match self {
            Self::Cleartext => format!("http://localhost:{}", site.http),
            Self::Tls12 | Self::Tls13 => format!("https://localhost:{}", site.https),
        }
    }
}

impl Act {
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// In the demo's cgroup from before its first instruction.
    pub fn command(&self, cgroup: &Cgroup) -> Command {
        let mut command = cgroup.command(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LANG", "C.UTF-8")
            .env("HOME", "/nonexistent")
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

const REQUESTS: &str = "\
import os, requests
requests.get(os.environ['URL'], auth=('x-access-token', os.environ['CREDENTIAL']), verify=os.environ['CA'])
";

const HTTPX: &str = "\
import os, ssl, httpx
context = ssl.create_default_context(cafile=os.environ['CA'])
httpx.get(os.environ['URL'], headers={'Authorization': 'Bearer ' + os.environ['CREDENTIAL']}, verify=context)
";

const FETCH: &str = "\
const answer = await fetch(process.env.URL, { headers: { 'PRIVATE-TOKEN': process.env.CREDENTIAL } });
await answer.text();
";

/// Everyone, in the order of their appearance.
pub fn cast(site: &Site, python: &Path) -> Result<Vec<Act>> {
    let ca = site.certificate.display().to_string();
    let program = |name: &str| process::which(name).with_context(|| format!("no {name}"));
    let (curl, wget, node) = (program("curl")?, program("wget")?, program("node")?);
    let mut acts = Vec::new();

    let mut with_curl =
        |wire: Wire, method, path: &'static str, carrier, secret: String, rest: Vec<String>| {
            let mut arguments =
                words("-q --silent --show-error --max-time 20 --output /dev/null --cacert");
            arguments.push(ca.clone());
            match wire {
                Wire::Cleartext => {}
                Wire::Tls12 => arguments.extend(words("--tls-max 1.2")),
                Wire::Tls13 => arguments.push("--tlsv1.3".to_owned()),
            }
            arguments.extend(rest);
            arguments.push(format!("{}{path}", wire.base(site)));
            acts.push(Act {
                name: "curl",
                wire,
                method,
                path,
                status: if path.starts_with("/refused/") {
                    401
                } else {
                    200
                },
                carrier,
                secret,
                program: curl.clone(),
                arguments,
                environment: Vec::new(),
            });
        };
    let header = |text: String| vec!["--header".to_owned(), text];
    let token = secret::github("ghp_")?;
    let bearer = header(format!("Authorization: Bearer {token}"));
    with_curl(
        Wire::Cleartext,
        "GET",
        "/user/repos",
        "header:authorization",
        token,
        bearer,
    );
    let key = secret::opaque::<40>()?;
    let api_key = header(format!("X-Api-Key: {key}"));
    with_curl(
        Wire::Tls13,
        "GET",
        "/v1/models",
        "header:x-api-key",
        key,
        api_key,
    );
    let client_secret = secret::opaque::<40>()?;
    let form = vec![
        "--data".to_owned(),
        "grant_type=client_credentials&client_id=demo".to_owned(),
        "--data".to_owned(),
        format!("client_secret={client_secret}"),
    ];
    with_curl(
        Wire::Tls12,
        "POST",
        "/oauth/token",
        "form:client_secret",
        client_secret,
        form,
    );
    let stale = secret::github("gho_")?;
    let refused = header(format!("Authorization: token {stale}"));
    with_curl(
        Wire::Tls13,
        "GET",
        "/refused/user",
        "header:authorization",
        stale,
        refused,
    );

    let scripted = |name, program: &Path, arguments: &[&str], path, carrier, secret: String| Act {
        name,
        wire: Wire::Tls13,
        method: "GET",
        path,
        status: 200,
        carrier,
        program: program.to_path_buf(),
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        environment: vec![
            ("URL", format!("{}{path}", Wire::Tls13.base(site))),
            ("CREDENTIAL", secret.clone()),
            ("CA", ca.clone()),
            ("NODE_EXTRA_CA_CERTS", ca.clone()),
        ],
        secret,
    };
    acts.push(scripted(
        "requests",
        python,
        &["-I", "-c", REQUESTS],
        "/repos/demo/archive",
        "header:authorization",
        secret::github("ghs_")?,
    ));
    acts.push(scripted(
        "httpx",
        python,
        &["-I", "-c", HTTPX],
        "/orders/17",
        "header:authorization",
        secret::jwt()?,
    ));
    acts.push(scripted(
        "node fetch",
        &node,
        &["--input-type=module", "--eval", FETCH],
        "/api/v4/projects",
        "header:private-token",
        format!("glpat-{}", secret::opaque::<20>()?),
    ));

    let fetched = |wire: Wire,
                   path: &'static str,
                   carrier,
                   secret: String,
                   rest: Vec<String>,
                   query: String| {
        let mut arguments =
            words("--no-config --quiet --tries=1 --timeout=20 --output-document=/dev/null");
        arguments.push(format!("--ca-certificate={ca}"));
        arguments.extend(rest);
        arguments.push(format!("{}{path}{query}", wire.base(site)));
        Act {
            name: "wget",
            wire,
            method: "GET",
            path,
            status: 200,
            carrier,
            secret,
            program: wget.clone(),
            arguments,
            environment: Vec::new(),
        }
    };
    let in_query = secret::opaque::<40>()?;
    let query = format!("?access_token={in_query}&page=2");
    acts.push(fetched(
        Wire::Cleartext,
        "/download",
        "query:access_token",
        in_query,
        Vec::new(),
        query,
    ));
    let vault = format!("hvs.{}", secret::opaque::<24>()?);
    let in_header = vec![format!("--header=X-Vault-Token: {vault}")];
    acts.push(fetched(
        Wire::Tls13,
        "/v1/secret/data/demo",
        "header:x-vault-token",
        vault,
        in_header,
        String::new(),
    ));
    Ok(acts)
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_acts_look_alike() {
        let site = Site {
            http: 8080,
            https: 8443,
            http2: 3,
            certificate: "/demo/localhost.crt".into(),
        };
        let Ok(acts) = cast(&site, Path::new("/usr/bin/python3")) else {
            // The programs come with `cargo xtask setup`, which unit tests do not ask for.
            return;
        };
        for (index, act) in acts.iter().enumerate() {
            assert!(act.path.starts_with('/'));
            for other in &acts[..index] {
                assert_ne!(act.path, other.path);
                assert_ne!(act.secret, other.secret);
            }
        }
        for wire in [Wire::Cleartext, Wire::Tls12, Wire::Tls13] {
            assert!(acts.iter().any(|act| act.wire == wire), "{}", wire.name());
        }
    }
}
