//! The admin's password, as argon2id (RFC 9106) stores it.

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};

/// Fewer characters than this are too easily guessed.
pub const SHORTEST: usize = 12;
const LONGEST: usize = 1024;

/// Why a password is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{0} characters are too few for the admin's password, at least {SHORTEST}")]
    Short(usize),
    #[error("a password of {0} bytes is longer than {LONGEST}")]
    Long(usize),
    #[error("it cannot be hashed: {0}")]
    Hash(String),
}

/// In the PHC string format, with its salt and costs.
pub fn hash(password: &str) -> Result<String, Unfit> {
    let characters = password.chars().count();
    if characters < SHORTEST {
        return Err(Unfit::Short(characters));
    }
    if password.len() > LONGEST {
        return Err(Unfit::Long(password.len()));
    }
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(|error| Unfit::Hash(error.to_string()))
}

/// Takes some tens of milliseconds, on purpose.
pub fn matches(password: &str, hash: &str) -> bool {
    password.len() <= LONGEST
        && PasswordHash::new(hash).is_ok_and(|hash| {
            Argon2::default()
                .verify_password(password.as_bytes(), &hash)
                .is_ok()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_matches_its_hash() {
        let hash = hash("correct horse battery").unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(matches("correct horse battery", &hash));
        assert!(!matches("correct horse batter", &hash));
        assert!(!matches("", &hash));
        assert!(!matches("correct horse battery", "no hash"));
    }

    #[test]
    fn a_short_or_endless_password_is_refused() {
        assert_eq!(hash("elevenchars"), Err(Unfit::Short(11)));
        assert_eq!(hash(&"x".repeat(2000)), Err(Unfit::Long(2000)));
    }
}
