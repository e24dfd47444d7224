//! Where segments lie: a folder, or a bucket of S3 or of what speaks like it.

use crate::config::Config;
use crate::store::Directory;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::prefix::PrefixStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Folder {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "objects = {address:?} in [store] is neither a folder nor \"s3://BUCKET\" or \"s3://BUCKET/PREFIX\""
    )]
    Address { address: String },
    #[error("{address}: {source}")]
    Bucket {
        address: String,
        source: object_store::Error,
    },
}

/// By `[store] objects`.
///
/// # Errors
/// If the address is none, or the folder cannot be used.
pub fn open(config: &Config) -> Result<Arc<dyn ObjectStore>, Error> {
    let Some(address) = &config.store.objects else {
        return folder(&config.server.data.join("store"));
    };
    let Some(place) = address.strip_prefix("s3://") else {
        let path = Path::new(address);
        if path.is_absolute() {
            return folder(path);
        }
        return Err(Error::Address {
            address: address.clone(),
        });
    };
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(Error::Address {
            address: address.clone(),
        });
    }
    let s3 = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .build()
        .map_err(|source| Error::Bucket {
            address: address.clone(),
            source,
        })?;
    let prefix = prefix.trim_matches('/');
    if prefix.is_empty() {
        return Ok(Arc::new(s3));
    }
    Ok(Arc::new(PrefixStore::new(s3, prefix)))
}

fn folder(path: &Path) -> Result<Arc<dyn ObjectStore>, Error> {
    let opened = Directory::open(path).map_err(|source| Error::Folder {
        path: path.to_owned(),
        source,
    })?;
    Ok(Arc::new(opened))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_folder_or_a_bucket() {
        let data = tempfile::tempdir().unwrap();
        let with = |objects: Option<String>| {
            let mut config = Config::default();
            config.server.data = data.path().to_owned();
            config.store.objects = objects;
            open(&config)
        };
        assert!(with(None).is_ok());
        assert!(data.path().join("store").is_dir());
        let other = data.path().join("other");
        assert!(with(Some(other.display().to_string())).is_ok());
        assert!(other.is_dir());
        assert!(with(Some("s3://bucket".into())).is_ok());
        assert_eq!(
            with(Some("s3://bucket/a/b/".into())).unwrap().to_string(),
            "PrefixObjectStore(a/b)"
        );
        for wrong in ["segments", "s3://", "s3:///a", "http://x"] {
            assert!(
                matches!(with(Some(wrong.into())), Err(Error::Address { .. })),
                "{wrong}"
            );
        }
    }
}
