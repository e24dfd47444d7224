//! Keys and the admin's password, in SQLite, with the valid keys in memory.

use super::key::{ApiKey, KeyId};
use super::{Caller, Denied, Role, password};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most keys at the same time.
const KEYS_LIMIT: usize = 10_000;
const NAME_LIMIT: usize = 128;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, role TEXT NOT NULL, hash BLOB NOT NULL,
    first_use INTEGER NOT NULL, created INTEGER NOT NULL, expires INTEGER, revoked INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the table of keys: {0}")]
    Sqlite(#[from] rusqlite::Error),
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    #[error("a key's name has 1 to {NAME_LIMIT} characters, and no control characters")]
    Name,
    #[error("there are {KEYS_LIMIT} keys already; revoke some")]
    Full,
    #[error("there is no key {0}")]
    NoKey(KeyId),
    #[error(transparent)]
    Password(#[from] password::Unfit),
}

/// A key as it is listed. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct KeyRow {
    pub id: String,
    pub name: String,
    pub role: Role,
    pub created: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<i64>,
}

struct Valid {
    hash: Vec<u8>,
    role: Role,
    first_use: bool,
    expires: Option<i64>,
    name: String,
}

struct State {
    database: Connection,
    valid: HashMap<KeyId, Valid>,
    password: Option<String>,
}

/// See the module.
pub struct Access {
    state: Mutex<State>,
}

impl Access {
    /// Opens or makes the table. The key is there at the first start only: it makes the first admin.
    ///
    /// # Errors
    /// If SQLite cannot, or the system has no random bytes.
    pub fn open(file: &Path, now: i64) -> Result<(Self, Option<ApiKey>), Error> {
        let database = Connection::open(file)?;
        database.pragma_update(None, "journal_mode", "WAL")?;
        database.pragma_update(None, "synchronous", "FULL")?;
        database.execute_batch(SCHEMA)?;
        let password = database
            .query_row(
                "SELECT value FROM facts WHERE name = 'admin_password'",
                [],
                |row| row.get(0),
            )
            .optional()?;
        let mut state = State {
            database,
            valid: HashMap::new(),
            password,
        };
        state.load()?;
        let begun: bool =
            state
                .database
                .query_row("SELECT EXISTS (SELECT 1 FROM keys)", [], |row| row.get(0))?;
        let first = if begun || state.password.is_some() {
            None
        } else {
            Some(state.insert("first start", Role::Admin, true, None, now)?)
        };
        let access = Self {
            state: Mutex::new(state),
        };
        Ok((access, first))
    }

    /// A new key; its text is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Full`], and what SQLite says.
    pub fn create(
        &self,
        name: &str,
        role: Role,
        expires: Option<i64>,
        now: i64,
    ) -> Result<ApiKey, Error> {
        self.lock().insert(name, role, false, expires, now)
    }

    /// # Errors
    /// [`Error::NoKey`], and what SQLite says.
    pub fn revoke(&self, id: &KeyId, now: i64) -> Result<(), Error> {
        let mut state = self.lock();
        let changed = state.database.execute(
            "UPDATE keys SET revoked = ?2 WHERE id = ?1 AND revoked IS NULL",
            params![id.as_str(), now],
        )?;
        if changed == 0 {
            return Err(Error::NoKey(id.clone()));
        }
        state.valid.remove(id);
        Ok(())
    }

    /// All keys, revoked ones too, the newest first.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn list(&self) -> Result<Vec<KeyRow>, Error> {
        let state = self.lock();
        let mut statement = state.database.prepare(
            "SELECT id, name, role, created, expires, revoked FROM keys ORDER BY created DESC, id",
        )?;
        let rows = statement.query_map([], |row| {
            let role: String = row.get(2)?;
            Ok(KeyRow {
                id: row.get(0)?,
                name: row.get(1)?,
                role: Role::by_name(&role).unwrap_or(Role::Reader),
                created: row.get(3)?,
                expires: row.get(4)?,
                revoked: row.get(5)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// # Errors
    /// [`Error::Password`], and what SQLite says.
    pub fn set_password(&self, password: &str) -> Result<(), Error> {
        let hash = password::hash(password)?;
        let mut state = self.lock();
        state.database.execute(
            "INSERT INTO facts VALUES ('admin_password', ?1) ON CONFLICT DO UPDATE SET value = ?1",
            [&hash],
        )?;
        state.password = Some(hash);
        Ok(())
    }

    /// Names this installation: 32 hexadecimal digits, made once.
    ///
    /// # Errors
    /// What SQLite says, or the system has no random bytes.
    pub fn installation(&self) -> Result<String, Error> {
        let state = self.lock();
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        state.database.execute(
            "INSERT INTO facts VALUES ('installation', ?1) ON CONFLICT DO NOTHING",
            [&id],
        )?;
        Ok(state.database.query_row(
            "SELECT value FROM facts WHERE name = 'installation'",
            [],
            |row| row.get(0),
        )?)
    }

    /// The key of the first start has done what it was for.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn spend_first(&self, now: i64) -> Result<(), Error> {
        let mut state = self.lock();
        state.database.execute(
            "UPDATE keys SET revoked = ?1 WHERE first_use AND revoked IS NULL",
            [now],
        )?;
        state.valid.retain(|_, key| !key.first_use);
        Ok(())
    }

    /// Whose key this is.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn by_key(&self, text: &str, now: i64) -> Result<Caller, Denied> {
        let key = ApiKey::parse(text).ok_or(Denied::Unknown)?;
        let state = self.lock();
        let valid = state
            .valid
            .get(key.id())
            .filter(|valid| key.matches(&valid.hash))
            .filter(|valid| valid.expires.is_none_or(|end| now < end))
            .ok_or(Denied::Unknown)?;
        Ok(Caller {
            name: format!("key:{} ({})", key.id(), valid.name).into(),
            role: valid.role,
            first_use: valid.first_use,
        })
    }

    /// The local admin, by password. Takes long: call it where it may block.
    ///
    /// # Errors
    /// [`Denied::Unknown`].
    pub fn by_password(&self, user: &str, password: &str) -> Result<Caller, Denied> {
        let hash = self.lock().password.clone();
        match hash {
            Some(hash) if user == "admin" && password::matches(password, &hash) => Ok(Caller {
                name: "admin".into(),
                role: Role::Admin,
                first_use: false,
            }),
            _ => Err(Denied::Unknown),
        }
    }

    /// A panic while it was held has changed nothing halfway: every change is one statement.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn load(&mut self) -> Result<(), Error> {
        let mut statement = self.database.prepare(
            "SELECT id, name, role, hash, first_use, expires FROM keys WHERE revoked IS NULL",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, role): (String, String) = (row.get(0)?, row.get(2)?);
            // A later version's role is no reason to let its keys do what an older one's may.
            let (Some(id), Some(role)) = (KeyId::parse(&id), Role::by_name(&role)) else {
                continue;
            };
            let valid = Valid {
                name: row.get(1)?,
                role,
                hash: row.get(3)?,
                first_use: row.get(4)?,
                expires: row.get(5)?,
            };
            self.valid.insert(id, valid);
        }
        Ok(())
    }

    fn insert(
        &mut self,
        name: &str,
        role: Role,
        first_use: bool,
        expires: Option<i64>,
        now: i64,
    ) -> Result<ApiKey, Error> {
        let length = name.chars().count();
        if length == 0 || length > NAME_LIMIT || name.chars().any(char::is_control) {
            return Err(Error::Name);
        }
        if self.valid.len() >= KEYS_LIMIT {
            return Err(Error::Full);
        }
        let key = ApiKey::generate()?;
        let hash = key.hash().to_vec();
        self.database.execute(
            "INSERT INTO keys (id, name, role, hash, first_use, created, expires)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                key.id().as_str(),
                name,
                role.name(),
                hash,
                first_use,
                now,
                expires
            ],
        )?;
        let valid = Valid {
            hash,
            role,
            first_use,
            expires,
            name: name.to_owned(),
        };
        self.valid.insert(key.id().clone(), valid);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> (Access, Option<ApiKey>) {
        Access::open(&folder.join("access.db"), 1_000).unwrap()
    }

    #[test]
    fn the_first_key_makes_an_admin_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let (access, first) = open(folder.path());
        let first = first.unwrap();
        let caller = access.by_key(first.reveal(), 1_001).unwrap();
        assert_eq!(caller.may(Role::Reader), Err(Denied::FirstUse));
        let admin = access.create("me", Role::Admin, None, 1_002).unwrap();
        access.spend_first(1_002).unwrap();
        assert_eq!(access.by_key(first.reveal(), 1_003), Err(Denied::Unknown));
        drop(access);
        let (access, again) = open(folder.path());
        assert!(again.is_none());
        assert_eq!(access.by_key(first.reveal(), 1_003), Err(Denied::Unknown));
        let caller = access.by_key(admin.reveal(), 1_003).unwrap();
        assert_eq!(caller.may(Role::Admin), Ok(()));
        assert_eq!(
            caller.may(Role::Ingest),
            Err(Denied::Role {
                needed: Role::Ingest
            })
        );
    }

    #[test]
    fn a_key_ends_when_revoked_or_expired_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (access, _) = open(folder.path());
        let short = access
            .create("short", Role::Ingest, Some(2_000), 1_000)
            .unwrap();
        let long = access.create("long", Role::Reader, None, 1_000).unwrap();
        assert!(access.by_key(short.reveal(), 1_999).is_ok());
        assert_eq!(access.by_key(short.reveal(), 2_000), Err(Denied::Unknown));
        access.revoke(long.id(), 1_500).unwrap();
        assert_eq!(access.by_key(long.reveal(), 1_500), Err(Denied::Unknown));
        assert!(matches!(
            access.revoke(long.id(), 1_501),
            Err(Error::NoKey(_))
        ));
        drop(access);
        let (access, _) = open(folder.path());
        assert!(access.by_key(short.reveal(), 1_999).is_ok());
        assert_eq!(access.by_key(long.reveal(), 1_600), Err(Denied::Unknown));
        let listed = access.list().unwrap();
        assert_eq!(listed.len(), 3);
        assert!(
            listed
                .iter()
                .any(|row| row.name == "long" && row.revoked == Some(1_500))
        );
    }

    #[test]
    fn nothing_that_is_stored_lets_anybody_in() {
        let folder = tempfile::tempdir().unwrap();
        let (access, first) = open(folder.path());
        let key = access.create("k", Role::Admin, None, 1).unwrap();
        access.set_password("correct horse battery").unwrap();
        drop(access);
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            for secret in [
                first.as_ref().unwrap().reveal(),
                key.reveal(),
                "correct horse battery",
            ] {
                assert!(
                    !bytes
                        .windows(secret.len())
                        .any(|window| window == secret.as_bytes())
                );
            }
        }
        let (access, _) = open(folder.path());
        assert!(access.by_password("admin", "correct horse battery").is_ok());
        assert!(access.by_password("admin", "correct horse").is_err());
        assert!(access.by_password("root", "correct horse battery").is_err());
    }

    #[test]
    fn names_are_for_people() {
        let folder = tempfile::tempdir().unwrap();
        let (access, _) = open(folder.path());
        for name in ["", "two\nlines", &"x".repeat(129)] {
            assert!(matches!(
                access.create(name, Role::Reader, None, 1),
                Err(Error::Name)
            ));
        }
    }
}
