//! A directory as an object store whose `put` returns when the object survives power loss, as S3's does.
//!
//! `object_store`'s `LocalFileSystem` writes beside and renames, and forces nothing to the disk. Here every put and
//! every finished upload is followed by fsync of the file and of the folders above it, up to the root. A file that has
//! its name and not yet its bytes is possible after power loss, but only before the put has returned: the catalog does
//! not name it then, and the store removes it at its next start.
//!
//! Invariant: a put that returned `Ok` is on the disk, with every folder on the way to it.

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

/// Forces files and folders to the disk.
pub trait Force: fmt::Debug + Send + Sync + 'static {
    /// The file's bytes.
    fn file(&self, path: &FilePath) -> io::Result<()>;
    /// The names in the folder.
    fn folder(&self, path: &FilePath) -> io::Result<()>;
}

/// fsync(2).
#[derive(Debug)]
struct Fsync;

impl Force for Fsync {
    fn file(&self, path: &FilePath) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn folder(&self, path: &FilePath) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    inner: LocalFileSystem,
    disk: Arc<Disk>,
}

#[derive(Debug)]
struct Disk {
    root: PathBuf,
    force: Box<dyn Force>,
}

impl Directory {
    /// Opens `root`, which is made if there is none, and removes what interrupted uploads have left.
    ///
    /// # Errors
    /// The folder cannot be made, read or forced to the disk.
    pub fn open(root: &FilePath) -> io::Result<Self> {
        Self::with(root, Box::new(Fsync))
    }

    /// As [`Self::open`], with another way to the disk: tests lose what was not forced.
    pub(super) fn with(root: &FilePath, force: Box<dyn Force>) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let root = root.canonicalize()?;
        if let Some(above) = root.parent() {
            force.folder(above)?;
        }
        remove_staged(&root)?;
        let inner = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        Ok(Self {
            inner,
            disk: Arc::new(Disk { root, force }),
        })
    }
}

/// `LocalFileSystem` writes to `NAME#NUMBER`, never lists such files, and leaves them when it is killed.
fn remove_staged(folder: &FilePath) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_staged(&path)?;
        } else if let Some((_, number)) = entry.file_name().to_string_lossy().rsplit_once('#')
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
        {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

impl Disk {
    fn forced(&self, location: &Path) -> io::Result<()> {
        let mut path = self.root.clone();
        path.extend(location.parts().map(|part| part.as_ref().to_owned()));
        self.force.file(&path)?;
        while path != self.root && path.pop() {
            self.force.folder(&path)?;
        }
        Ok(())
    }
}

async fn force(disk: &Arc<Disk>, location: &Path) -> Result<()> {
    let failed = |source: io::Error| Error::Generic {
        store: "directory",
        source: source.into(),
    };
    let (disk, location) = (disk.clone(), location.clone());
    tokio::task::spawn_blocking(move || disk.forced(&location))
        .await?
        .map_err(failed)
}

#[async_trait]
impl ObjectStore for Directory {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let put = self.inner.put_opts(location, payload, options).await?;
        force(&self.disk, location).await?;
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(Upload {
            inner,
            disk: self.disk.clone(),
            location: location.clone(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(
        &self,
        location: &Path,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        force(&self.disk, to).await
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "directory {}", self.disk.root.display())
    }
}

#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    disk: Arc<Disk>,
    location: Path,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let put = self.inner.complete().await?;
        force(&self.disk, &self.location).await?;
        Ok(put)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
