// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading everything of an image that may be hostile, by both readers, with bounded work.
//!
//! The invariants it asserts of any bytes whatever: every error names a place; the plain reader and
//! the engine give the same bytes where both give any; extents cover files without gap or overlap;
//! a directory that can be listed can be searched; xattrs are found under the names they are listed.

use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Error, Image, Inode, Nid};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;

/// How much to do at most.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Inodes to look at.
    pub inodes: usize,
    /// Entries of one directory, and extents of one file.
    pub entries: usize,
    /// Bytes of each read; three are made of a file.
    pub read: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { inodes: 200, entries: 300, read: 24 << 10 }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// First bytes of each file that could be read, by path.
    pub files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Everything that went wrong, with the path.
    pub errors: Vec<(Vec<u8>, Error)>,
    /// Directories met a second time: their links are not followed.
    pub loops: Vec<Vec<u8>>,
}

/// Whether an error says where in the image it arose, and in words.
#[must_use]
pub fn names_its_place(error: &Error) -> bool {
    match error {
        Error::Corrupt { place, .. }
        | Error::Undecodable { place, .. }
        | Error::Unsupported { place, .. } => place.nid.is_some() || place.offset.is_some(),
        Error::Io { .. } | Error::NotDirectory { .. } | Error::WrongType { .. } => true,
        _ => false,
    }
}

/// Walks from the root and reads all that is met.
///
/// # Panics
/// If an invariant is broken.
#[must_use]
pub fn exercise(image: &Arc<Image>, budget: Budget) -> Found {
    let config = EngineConfig { cache_bytes: 1 << 20, ..EngineConfig::default() };
    let engine = Engine::new(Arc::clone(image), config);
    let mut found = Found::default();
    let mut seen: HashSet<Nid> = HashSet::from([image.root()]);
    let mut queue = VecDeque::from([(vec![], image.root())]);
    for _ in 0..budget.inodes {
        let Some((path, nid)) = queue.pop_front() else { break };
        let inode = match image.inode(nid) {
            Ok(inode) => inode,
            Err(error) => {
                found.note(&path, error);
                continue;
            }
        };
        found.check(&path, xattrs(image, &inode));
        found.check(&path, extents(image, &inode, budget));
        match inode.file_type {
            FileType::Directory => match list(image, &inode, budget) {
                Ok(entries) => {
                    for (name, nid) in entries {
                        let path = [&path[..], b"/", &name].concat();
                        let is_directory =
                            image.inode(nid).is_ok_and(|i| i.file_type == FileType::Directory);
                        if is_directory && !seen.insert(nid) {
                            found.loops.push(path);
                        } else {
                            queue.push_back((path, nid));
                        }
                    }
                }
                Err(error) => found.note(&path, error),
            },
            FileType::Symlink => {
                let target = image.readlink(&inode);
                found.keep(&path, target);
            }
            FileType::Regular => {
                let content = content(image, &engine, &inode, budget);
                found.keep(&path, content);
            }
            _ => {}
        }
    }
    found
}

impl Found {
    fn note(&mut self, path: &[u8], error: Error) {
        assert!(names_its_place(&error), "{error} does not say where");
        self.errors.push((path.to_vec(), error));
    }

    fn check(&mut self, path: &[u8], result: Result<(), Error>) {
        if let Err(error) = result {
            self.note(path, error);
        }
    }

    fn keep(&mut self, path: &[u8], content: Result<Vec<u8>, Error>) {
        match content {
            Ok(content) => {
                self.files.insert(path.to_vec(), content);
            }
            Err(error) => self.note(path, error),
        }
    }

    /// First error of `path`.
    #[must_use]
    pub fn error(&self, path: &[u8]) -> Option<&Error> {
        self.errors.iter().find(|(at, _)| at == path).map(|(_, error)| error)
    }
}

fn xattrs(image: &Image, inode: &Inode) -> Result<(), Error> {
    for xattr in image.xattrs(inode)?.iter().filter(|xattr| xattr.visible).take(64) {
        // The name filter of a damaged body may deny an attribute, but none changes its value.
        if let Some(value) = image.xattr(inode, &xattr.name)? {
            assert_eq!(value, xattr.value, "listing and lookup differ");
        }
    }
    image.xattr(inode, b"user.absent").map(|_| ())
}

fn extents(image: &Image, inode: &Inode, budget: Budget) -> Result<(), Error> {
    let map = image.map(inode)?;
    let mut cursor = map.cursor(image);
    let mut offset = 0;
    for _ in 0..budget.entries {
        if offset >= map.size() {
            break;
        }
        let extent = cursor.extent_at(offset)?;
        assert_eq!(extent.start, offset, "extents have gaps or overlap");
        assert!(extent.len > 0 && extent.end() <= map.size(), "{extent:?} of {}", map.size());
        offset = extent.end();
    }
    Ok(())
}

fn list(image: &Image, inode: &Inode, budget: Budget) -> Result<Vec<(Vec<u8>, Nid)>, Error> {
    let directory = image.directory(inode)?;
    let mut entries = vec![];
    let mut whole = true;
    directory.walk(0, |entry, _| {
        if entries.len() >= budget.entries {
            whole = false;
            return ControlFlow::Break(());
        }
        entries.push((entry.name.to_vec(), entry.nid));
        ControlFlow::Continue(())
    })?;
    for (name, nid) in entries.iter().filter(|(name, _)| whole && name != b".") {
        let found = directory.lookup(name)?.map(|entry| entry.nid);
        assert_eq!(found, Some(*nid), "listed but not found: {name:?}");
    }
    directory.lookup(b"no such name")?;
    entries.retain(|(name, _)| name != b"." && name != b"..");
    Ok(entries)
}

/// The first bytes of a file, after reads in its middle and at its end.
fn content(
    image: &Image,
    engine: &Engine,
    inode: &Inode,
    budget: Budget,
) -> Result<Vec<u8>, Error> {
    let map = image.map(inode)?;
    let file = engine.open(inode)?;
    let mut first = vec![];
    for offset in [map.size().saturating_sub(700), map.size() / 2, 0] {
        let len = usize::try_from(map.size() - offset).unwrap_or(usize::MAX).min(budget.read);
        let (mut plain, mut fast) = (vec![0xA5; len], vec![0x5A; len]);
        let by_image = image.read(&map, offset, &mut plain);
        let by_engine = engine.read_into(&file, offset, &mut fast);
        match (&by_image, &by_engine) {
            (Ok(count), Ok(fast_count)) => {
                assert_eq!((count, fast_count), (&len, &len), "short read at {offset}");
                assert!(plain == fast, "image and engine differ at {offset} of {}", inode.nid);
            }
            // One of them may decode more of a broken stream than the other needs, or read more of
            // the packed inode around a fragment.
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => {
                let may = matches!(error, Error::Undecodable { .. }) || map.has_fragment();
                assert!(may, "only one fails: {error}");
            }
            (Err(_), Err(error)) => assert!(names_its_place(error), "{error}"),
        }
        by_image?;
        by_engine?;
        first = plain;
    }
    Ok(first)
}
