//! Processes, users, containers.

use super::endpoint::millis;
use super::{object, plain};
use agent_common::event::{Executable, Principal, Process, ProcessCreation, Thread};
use serde_json::{Map, Value, json};

/// SHA-256 and "Regular File" by OCSF's numbers.
const SHA_256: u32 = 3;
const REGULAR_FILE: u32 = 1;

pub fn user(process: &Process) -> Value {
    let mut user = object([("uid", json!(process.real_user.id.to_string()))]);
    if let Some(name) = &process.real_user.name {
        user.insert("name".to_owned(), json!(name));
    }
    Value::Object(user)
}

pub fn process(principal: &Principal, thread: Option<&Thread>) -> Value {
    let process = &principal.process;
    let mut entity = entity(process.pid, &process.creation, &process.executable);
    entity.insert("user".to_owned(), user(process));
    if let Some(path) = &process.executable.path {
        let mut file = object([
            ("name", json!(base_name(path))),
            ("path", json!(path)),
            ("type_id", json!(REGULAR_FILE)),
            ("type", json!("Regular File")),
        ]);
        if process.executable.deleted {
            file.insert("is_deleted".to_owned(), json!(true));
        }
        if let Some(hash) = &process.executable.hash {
            file.insert(
                "hashes".to_owned(),
                json!([{
                    "algorithm_id": SHA_256,
                    "algorithm": "SHA-256",
                    "value": hash.sha256.to_string(),
                }]),
            );
        }
        entity.insert("file".to_owned(), Value::Object(file));
    }
    if let Some(arguments) = &process.command_args {
        entity.insert("cmd_line".to_owned(), json!(command_line(arguments)));
    }
    if let Some(thread) = thread.and_then(|thread| i32::try_from(thread.id).ok()) {
        entity.insert("tid".to_owned(), json!(thread));
    }
    if let Some(parent) = process.parent_pid {
        entity.insert("parent_process".to_owned(), json!({ "pid": parent }));
    }
    if !process.ancestors.is_empty() {
        let ancestry: Vec<Value> = process
            .ancestors
            .iter()
            .map(|ancestor| {
                let entity = self::entity(ancestor.pid, &ancestor.creation, &ancestor.executable);
                Value::Object(entity)
            })
            .collect();
        entity.insert("ancestry".to_owned(), Value::Array(ancestry));
    }
    if let Some(container) = &principal.container {
        let mut object = object([("uid", json!(container.id))]);
        if let Some(runtime) = &container.runtime {
            object.insert("runtime".to_owned(), json!(runtime.name));
        }
        if let Some(kubernetes) = &principal.k8s {
            object.insert("orchestrator".to_owned(), json!("kubernetes"));
            if is_uuid(&kubernetes.pod.uid) {
                object.insert("pod_uuid".to_owned(), json!(kubernetes.pod.uid));
            }
        }
        entity.insert("container".to_owned(), Value::Object(object));
    }
    Value::Object(entity)
}

/// What OCSF's process has no place for.
pub fn unmapped(process: &Process) -> Value {
    let mut unmapped = object([
        ("linux", plain(&process.linux)),
        ("real_group_id", json!(process.real_group_id)),
        (
            "command_args_truncated",
            json!(process.command_args_truncated),
        ),
    ]);
    if let Some(absent) = &process.executable.hash_absent {
        unmapped.insert("hash_absent".to_owned(), plain(absent));
    }
    Value::Object(unmapped)
}

fn entity(pid: u32, creation: &ProcessCreation, executable: &Executable) -> Map<String, Value> {
    let mut entity = object([
        ("pid", json!(pid)),
        ("created_time", json!(millis(creation.time))),
    ]);
    if let Some(path) = &executable.path {
        entity.insert("name".to_owned(), json!(base_name(path)));
        entity.insert("path".to_owned(), json!(path));
    }
    entity
}

fn base_name(path: &str) -> &str {
    path.rsplit('/')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or(path)
}

/// As a POSIX shell would take it, so that arguments with spaces can be told from several.
fn command_line(arguments: &[String]) -> String {
    let plain =
        |character: char| character.is_ascii_alphanumeric() || "-_./=:,+@%{}?&".contains(character);
    let quoted: Vec<String> = arguments
        .iter()
        .map(|argument| {
            if !argument.is_empty() && argument.chars().all(plain) {
                argument.clone()
            } else {
                format!("'{}'", argument.replace('\'', r"'\''"))
            }
        })
        .collect();
    quoted.join(" ")
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
