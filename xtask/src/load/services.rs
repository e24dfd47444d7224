//! What the fleet talks to, and with which programs.

use agent_common::event::ProviderEvidence::{self, Checksum, Claim, Shape};

/// A service that takes credentials.
#[derive(Debug)]
pub struct Service {
    pub address: &'static str,
    pub port: u16,
    pub provider: Option<&'static str>,
    pub class: Option<&'static str>,
    pub evidence: Option<ProviderEvidence>,
    pub scheme: &'static str,
    pub carrier: &'static str,
    /// Method and path, from the one that is asked most; `{id}` is filled in.
    pub operations: [(&'static str, &'static str); 5],
    /// Its own hosts are watched, too: each exchange gives an event at either end.
    pub watched: bool,
    /// Cleartext, behind something that ends TLS.
    pub cleartext: bool,
}

const AUTHORIZATION: &str = "header:authorization";

/// From the one that is used most.
pub const SERVICES: [Service; 7] = [
    Service {
        address: "orders.internal.example",
        port: 80,
        provider: Some("jwt"),
        class: None,
        evidence: Some(Claim),
        scheme: "Bearer",
        carrier: AUTHORIZATION,
        operations: [
            ("GET", "/orders/{id}"),
            ("POST", "/orders"),
            ("GET", "/orders/{id}/items"),
            ("GET", "/stock/{id}"),
            ("DELETE", "/orders/{id}"),
        ],
        watched: true,
        cleartext: true,
    },
    Service {
        address: "api.github.com",
        port: 443,
        provider: Some("github"),
        class: Some("personal_access_token"),
        evidence: Some(Checksum),
        scheme: "token",
        carrier: AUTHORIZATION,
        operations: [
            ("GET", "/repos/acme/{id}/pulls"),
            ("GET", "/user/repos"),
            ("GET", "/repos/acme/{id}/issues/{id}"),
            ("POST", "/repos/acme/{id}/statuses/{id}"),
            ("GET", "/rate_limit"),
        ],
        watched: false,
        cleartext: false,
    },
    Service {
        address: "vault.internal.example",
        port: 8200,
        provider: Some("vault"),
        class: Some("service_token"),
        evidence: Some(Shape),
        scheme: "api-key",
        carrier: "header:x-vault-token",
        operations: [
            ("GET", "/v1/secret/data/app/{id}"),
            ("POST", "/v1/auth/token/renew-self"),
            ("GET", "/v1/secret/data/db"),
            ("GET", "/v1/sys/health"),
            ("PUT", "/v1/transit/sign/{id}"),
        ],
        watched: true,
        cleartext: false,
    },
    Service {
        address: "slack.com",
        port: 443,
        provider: Some("slack"),
        class: Some("bot_token"),
        evidence: Some(Shape),
        scheme: "Bearer",
        carrier: AUTHORIZATION,
        operations: [
            ("POST", "/api/chat.postMessage"),
            ("GET", "/api/users.info"),
            ("GET", "/api/conversations.history"),
            ("POST", "/api/auth.test"),
            ("POST", "/api/files.upload"),
        ],
        watched: false,
        cleartext: false,
    },
    Service {
        address: "api.stripe.com",
        port: 443,
        provider: Some("stripe"),
        class: Some("secret_key"),
        evidence: Some(Shape),
        scheme: "Basic",
        carrier: AUTHORIZATION,
        operations: [
            ("GET", "/v1/charges/{id}"),
            ("POST", "/v1/charges"),
            ("GET", "/v1/customers/{id}"),
            ("GET", "/v1/invoices"),
            ("GET", "/v1/balance"),
        ],
        watched: false,
        cleartext: false,
    },
    Service {
        address: "registry.internal.example",
        port: 5000,
        provider: None,
        class: None,
        evidence: None,
        scheme: "Basic",
        carrier: AUTHORIZATION,
        operations: [
            ("GET", "/v2/app/manifests/{id}"),
            ("HEAD", "/v2/app/blobs/{id}"),
            ("GET", "/v2/"),
            ("PUT", "/v2/app/manifests/{id}"),
            ("PATCH", "/v2/app/blobs/uploads/{id}"),
        ],
        watched: true,
        cleartext: false,
    },
    Service {
        address: "api.openai.com",
        port: 443,
        provider: Some("openai"),
        class: Some("project_key"),
        evidence: Some(Shape),
        scheme: "Bearer",
        carrier: AUTHORIZATION,
        operations: [
            ("POST", "/v1/responses"),
            ("POST", "/v1/embeddings"),
            ("GET", "/v1/models"),
            ("GET", "/v1/files/{id}"),
            ("POST", "/v1/batches"),
        ],
        watched: false,
        cleartext: false,
    },
];

/// A program, its arguments, what it calls itself, and the TLS library that it uses.
pub struct Program {
    pub path: &'static str,
    pub arguments: &'static [&'static str],
    pub agent: &'static str,
    pub library: &'static str,
    /// It runs in a container.
    pub contained: bool,
}

const LIBSSL: &str = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

pub const PROGRAMS: [Program; 8] = [
    Program {
        path: "/usr/bin/python3.11",
        arguments: &["-m", "worker", "--queue"],
        agent: "python-requests/2.32.3",
        library: LIBSSL,
        contained: true,
    },
    Program {
        path: "/usr/bin/node",
        arguments: &["/srv/app/server.js", "--name"],
        agent: "node",
        library: "/usr/bin/node",
        contained: true,
    },
    Program {
        path: "/usr/bin/curl",
        arguments: &["--silent", "--config"],
        agent: "curl/7.88.1",
        library: LIBSSL,
        contained: false,
    },
    Program {
        path: "/usr/local/bin/deploy",
        arguments: &["--environment"],
        agent: "deploy/4.2.0",
        library: LIBSSL,
        contained: false,
    },
    Program {
        path: "/usr/bin/git",
        arguments: &["fetch", "origin"],
        agent: "git/2.39.5",
        library: "/usr/lib/x86_64-linux-gnu/libgnutls.so.30",
        contained: false,
    },
    Program {
        path: "/usr/bin/ruby3.1",
        arguments: &["bin/sidekiq", "-q"],
        agent: "Faraday v2.9.0",
        library: LIBSSL,
        contained: true,
    },
    Program {
        path: "/opt/billing/bin/billing",
        arguments: &["serve", "--shard"],
        agent: "billing/1.18",
        library: LIBSSL,
        contained: true,
    },
    Program {
        path: "/usr/bin/wget",
        arguments: &["--quiet", "--input-file"],
        agent: "Wget/1.21.3",
        library: "/usr/lib/x86_64-linux-gnu/libgnutls.so.30",
        contained: false,
    },
];

/// What answers at the services' own hosts.
pub const SERVER: Program = Program {
    path: "/usr/sbin/nginx",
    arguments: &["-g", "daemon off;", "-p"],
    agent: "",
    library: LIBSSL,
    contained: false,
};
