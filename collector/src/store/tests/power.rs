//! Power loss: what was not forced to the disk is gone, and nothing of it was needed.

use super::load::Load;
use super::*;
use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::{fs, io};

/// Remembers what was forced.
#[derive(Debug, Default)]
struct Forced {
    /// Files whose bytes are on the disk.
    files: BTreeSet<PathBuf>,
    /// Names that are on the disk.
    names: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug, Default)]
struct Record(Arc<Mutex<Forced>>);

impl Force for Record {
    fn file(&self, path: &FilePath) -> io::Result<()> {
        self.0.lock().unwrap().files.insert(path.to_owned());
        Ok(())
    }

    fn folder(&self, path: &FilePath) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            self.0.lock().unwrap().names.insert(entry?.path());
        }
        Ok(())
    }
}

/// Does to `folder` what losing power may do at worst: names that were not forced go, and bytes that were not.
fn lose(folder: &FilePath, forced: &Forced) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let named = forced.names.contains(&path);
        match (path.is_dir(), named) {
            (true, true) => lose(&path, forced),
            (true, false) => fs::remove_dir_all(&path).unwrap(),
            (false, false) => fs::remove_file(&path).unwrap(),
            (false, true) if !forced.files.contains(&path) => fs::write(&path, "").unwrap(),
            (false, true) => {}
        }
    }
}

#[tokio::test]
async fn what_the_catalog_names_survives_power_loss() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap().join("deep/data");
    let record = Record::default();
    let catalog: Arc<dyn Catalog> =
        Arc::new(SqliteCatalog::open(&folder.path().join("catalog.db")).unwrap());
    let inbox = Arc::new(Memory::default());
    let directory = || -> Arc<dyn ObjectStore> {
        Arc::new(Directory::with(&root, Box::new(record.clone())).unwrap())
    };
    let mut load = Load::new(2, 3, 10, MIDNIGHT, MINUTE as u64);
    let mut all = Vec::new();
    for round in 0..12 {
        let store = open(&directory(), &catalog, &inbox).await.unwrap();
        let events = load.events(30);
        all.extend(events.clone());
        inbox.append(events);
        store.seal().await.unwrap();
        if round % 3 == 2 {
            store.merge(load.now + HOUR).await.unwrap();
        }
        // An object of no catalog, half there: an upload that power was lost in.
        fs::write(root.join("segments/2026-11-22/half.parquet"), "PAR1").unwrap();
        fs::write(root.join("segments/2026-11-22/staged.parquet#3"), "PAR1").unwrap();
        drop(store);
        lose(&root, &record.0.lock().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let store = open(&directory(), &catalog, &inbox).await.unwrap();
        same(events_of(&store.snapshot().await.unwrap()).await, &all);
    }
    // The simulation does lose.
    fs::write(root.join("segments/unforced"), "x").unwrap();
    lose(&root, &record.0.lock().unwrap());
    assert!(!root.join("segments/unforced").exists());
    // What nobody names was removed at the start.
    let mut left = Vec::new();
    for day in fs::read_dir(root.join("segments")).unwrap() {
        for file in fs::read_dir(day.unwrap().path()).unwrap() {
            left.push(file.unwrap().file_name().into_string().unwrap());
        }
    }
    assert!(
        left.iter()
            .all(|name| name.ends_with(".parquet") && name != "half.parquet")
    );
    assert_eq!(left.len(), catalog.load().await.unwrap().live.len());
}

#[tokio::test]
async fn large_uploads_are_forced_too() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap().join("data");
    let record = Record::default();
    let directory = Directory::with(&root, Box::new(record.clone())).unwrap();
    let mut upload = directory
        .put_multipart_opts(&Path::from("a/b/large"), Default::default())
        .await
        .unwrap();
    upload.put_part(vec![1; 1_000].into()).await.unwrap();
    upload.put_part(vec![2; 1_000].into()).await.unwrap();
    assert!(record.0.lock().unwrap().files.is_empty());
    upload.complete().await.unwrap();
    lose(&root, &record.0.lock().unwrap());
    assert_eq!(fs::read(root.join("a/b/large")).unwrap().len(), 2_000);
}
