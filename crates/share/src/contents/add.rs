// SPDX-License-Identifier: MIT OR Apache-2.0
//! Adding an image: a store of contents that no store has, then the image's metadata.
//!
//! Contents are hashed first, to know which are new; the new ones are read again, hashed once more
//! as they are written, and what was written must be what was named.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use ferrofs_build::{BuildOptions, Silent, Target, Uuid, XattrOptions, build};
use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::{Image, Inode, OpenOptions};
use ferrofs_tree::{InodeId, Metadata, NewContent, TreeBuilder, Xattr};

use super::folder::{self, Contents, Lock, REDIRECT, STORES, Stored};
use super::scan::{Found, Holes, ImageSource, Scanned};
use super::{ContentStore, Error, ImageId, Input, Result, StoreId, hash, scan};

const METACOPY: &[u8] = b"trusted.overlay.metacopy";

/// What adding an image did.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Added {
    /// Its name in the domain.
    pub image: ImageId,
    /// It had been added before; nothing was done.
    pub known: bool,
    /// Its files with content.
    pub files: u64,
    /// Contents that no store had.
    pub new_contents: u64,
    /// Bytes of these.
    pub new_bytes: u64,
    /// Contents that were taken by the image's word.
    pub trusted: u64,
}

impl ContentStore {
    /// The name that an image has, or would have.
    pub fn identify(&self, input: &Input) -> Result<ImageId> {
        ImageId::of_input(input)
    }

    /// Adds an image. If it was added before, nothing is read but its superblock.
    pub fn add(&self, input: &Input) -> Result<Added> {
        let id = ImageId::of_input(input)?;
        let mut added =
            Added { image: id, known: true, files: 0, new_contents: 0, new_bytes: 0, trusted: 0 };
        if self.image_path(id).exists() {
            return Ok(added);
        }
        let lock = self.lock()?;
        if self.image_path(id).exists() {
            return Ok(added);
        }
        added.known = false;
        let image = open(input)?;
        let mut contents = self.contents(&lock)?;
        let scanned = scan::scan(&image, &input.image)?;
        let files = scanned.files.clone();
        added.files = files.len() as u64;
        let bytes = files.iter().fold(0u64, |sum, found| sum.saturating_add(found.inode.size));
        if bytes > self.options.bytes_max {
            return Err(Error::TooLarge { what: "bytes of content", value: bytes });
        }
        let engine = Engine::new(Arc::new(image), EngineConfig::default());
        let (digests, trusted) =
            hash::digests(&engine, &files, &contents, &self.options, &input.image)?;
        added.trusted = trusted;
        let fresh = fresh(&files, &digests, &contents);
        added.new_contents = fresh.len() as u64;
        added.new_bytes = fresh.iter().map(|(_, inode)| inode.size).sum();
        if !fresh.is_empty() {
            let store = self.write_store(input, &engine, &fresh)?;
            let stored = |inode: &Inode| Stored { size: inode.size, store };
            contents.extend(fresh.iter().map(|(digest, inode)| (*digest, stored(inode))));
        }
        if ImageId::of_input(input)? != id {
            return Err(Error::Changed { path: input.image.clone() });
        }
        self.write_image(id, scanned, &digests, &contents, &lock)?;
        Ok(added)
    }

    /// Writes a store, and compares it with what it should have.
    fn write_store(
        &self,
        input: &Input,
        engine: &Engine,
        fresh: &[([u8; 32], Inode)],
    ) -> Result<StoreId> {
        let sorted: BTreeSet<&[u8; 32]> = fresh.iter().map(|(digest, _)| digest).collect();
        let id = StoreId::of_contents(sorted.into_iter());
        let mut builder = TreeBuilder::new(folder_metadata());
        let top = builder.add(folder_metadata(), NewContent::Directory)?;
        let names: Vec<_> = fresh.iter().map(|(digest, _)| folder::name_of(digest)).collect();
        let mut entries = Vec::with_capacity(fresh.len());
        for (number, (_, inode)) in fresh.iter().enumerate() {
            let origin = u32::try_from(number)
                .map_err(|_| Error::TooLarge { what: "files", value: fresh.len() as u64 })?;
            let content = NewContent::File { origin, size: inode.size, sparse: false };
            let metadata = Metadata { permissions: 0o400, ..Metadata::default() };
            entries.push((&names[number][..], builder.add(metadata, content)?));
        }
        builder.set_entries(top, entries)?;
        builder.set_entries(InodeId::ROOT, vec![(b"ab", top)])?;
        let tree = builder.finish()?;
        let files = fresh.iter().map(|(_, inode)| *inode).collect();
        let source = ImageSource { engine, files, path: &input.image };
        let options = BuildOptions {
            compression: self.options.compression,
            inode_digest: Some(BuildOptions::DIGEST_NAME.to_vec()),
            // Data in the order of the image, since that is how it will be read.
            first: names.iter().map(|name| [b"ab/", &name[..]].concat()).collect(),
            ..self.build_options()
        };
        let path = self.store_path(id);
        let working = folder::working(&path);
        let target = Target { image: &working, blob: None };
        build(&tree, &source, &options, target, &mut Silent)?;
        let written = folder::read_store(&folder::open(&working)?)
            .map_err(|error| Error::Image { path: working.clone(), error })?;
        let expected: BTreeMap<[u8; 32], u64> =
            fresh.iter().map(|(digest, inode)| (*digest, inode.size)).collect();
        if written.into_iter().collect::<BTreeMap<_, _>>() != expected {
            return Err(Error::Changed { path: input.image.clone() });
        }
        folder::publish(&working, &path)?;
        Ok(id)
    }

    /// Writes the metadata of an image: from now on it is there.
    fn write_image(
        &self,
        id: ImageId,
        scanned: Scanned,
        digests: &[[u8; 32]],
        contents: &Contents,
        _: &Lock,
    ) -> Result<()> {
        let Scanned { mut builder, files, xattrs, mut root_xattrs } = scanned;
        let mut stores = BTreeSet::new();
        for ((found, mut xattrs), digest) in files.iter().zip(xattrs).zip(digests) {
            let stored = contents.get(digest).filter(|stored| stored.size == found.inode.size);
            let Some(stored) = stored else {
                return Err(Error::Damaged {
                    path: self.folder.clone(),
                    what: "it lacks a content",
                });
            };
            stores.insert(stored.store);
            let redirect = [b"/ab/", &folder::name_of(digest)[..]].concat();
            xattrs.push(Xattr { name: METACOPY.to_vec(), value: Vec::new() });
            xattrs.push(Xattr { name: REDIRECT.to_vec(), value: redirect });
            let set = builder.intern_xattrs(xattrs);
            builder.set_xattrs(found.id, set);
        }
        let list: Vec<String> = stores.iter().map(StoreId::to_string).collect();
        root_xattrs.push(Xattr { name: STORES.to_vec(), value: list.join(",").into_bytes() });
        let set = builder.intern_xattrs(root_xattrs);
        builder.set_xattrs(InodeId::ROOT, set);
        let tree = builder.finish()?;
        let xattrs = XattrOptions { prefixes: vec![REDIRECT.to_vec()], ..XattrOptions::default() };
        let options = BuildOptions {
            xattrs: Some(xattrs),
            // All files are holes, whatever their size.
            holes_from: 1,
            ..self.build_options()
        };
        let path = self.image_path(id);
        let working = folder::working(&path);
        let target = Target { image: &working, blob: None };
        build(&tree, &Holes, &options, target, &mut Silent)?;
        folder::publish(&working, &path)
    }

    fn build_options(&self) -> BuildOptions {
        BuildOptions {
            uuid: Uuid::Content,
            workers: self.options.workers,
            sync: true,
            ..BuildOptions::default()
        }
    }
}

fn folder_metadata() -> Metadata {
    Metadata { permissions: 0o500, ..Metadata::default() }
}

/// Contents that no store has, each once, in the order of the files.
fn fresh(files: &[Found], digests: &[[u8; 32]], contents: &Contents) -> Vec<([u8; 32], Inode)> {
    let mut met = BTreeSet::new();
    let pairs = digests.iter().zip(files);
    let new = pairs.filter(|(digest, _)| !contents.contains_key(*digest) && met.insert(**digest));
    new.map(|(digest, found)| (*digest, found.inode)).collect()
}

fn open(input: &Input) -> Result<Image> {
    let file = |path| File::open(path).map_err(|error| Error::io("open", path, error));
    let mut options = OpenOptions::new().offset(input.offset);
    for device in &input.devices {
        options = options.device(file(device)?);
    }
    let opened = options.open(file(&input.image)?);
    opened.map_err(|error| Error::Image { path: input.image.clone(), error })
}
