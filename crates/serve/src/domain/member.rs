// SPDX-License-Identifier: MIT OR Apache-2.0
//! One image of a domain.

use crate::lazy::LazyImage;
use crate::{ErofsFs, Error, ImageFiles, LazySpec, Patience, Result, nid_of, node_of};
use ferrofs_engine::EngineConfig;
use ferrofs_fuse::{Attr, Errno, ReadOnlyFs};
use ferrofs_image::{Image, Nid};
use ferrofs_store::{Blob, Policy};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::nodes::FileId;

/// Bytes of an image's metadata in memory: all of it was walked once, and a server has many images. A
/// listing needs a few pages at a time, and the kernel has the rest of the file.
pub(crate) const METADATA_CACHE: u64 = 1 << 20;

/// An image that is to be in a domain.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct MemberSpec {
    /// The image's file, absolute; what is shown of one read on demand.
    pub(crate) image: PathBuf,
    pub(crate) offset: u64,
    pub(crate) devices: Vec<PathBuf>,
    pub(crate) lazy: Option<LazySpec>,
}

/// What an image's files were when they were opened: device, inode, size, and times of last change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Identity(Vec<(u64, u64, u64, [i64; 4])>);

impl Identity {
    fn of(files: &[File]) -> std::io::Result<Self> {
        let one = |file: &File| {
            let meta = file.metadata()?;
            let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
            Ok((meta.dev(), meta.ino(), meta.len(), times))
        };
        Ok(Self(files.iter().map(one).collect::<std::io::Result<_>>()?))
    }
}

/// An opened image.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) slot: u16,
    pub(crate) spec: MemberSpec,
    pub(crate) fs: Arc<ErofsFs>,
    /// Its files, if it has some on this machine.
    files: Vec<File>,
    identity: Identity,
    /// Where its bytes come from, if not from files.
    pub(crate) blobs: Vec<Blob>,
    /// References of the kernel to its root directory: as long as there is one it may be in use.
    pub(crate) root_references: AtomicU64,
    /// Files whose content is not what the image says, or is not any more.
    pub(crate) lies: AtomicU64,
    /// Times that a file was asked for and found to be shared content, and that it was not.
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    /// Bytes of it that were hashed before they were shared.
    pub(crate) hashed_bytes: AtomicU64,
    /// Bytes of it that were read as shared content, and were what they had to be.
    pub(crate) verified_bytes: AtomicU64,
    /// The limit of its caches: what its domain gave it last, and what is set.
    pub(crate) cache_given: AtomicU64,
    pub(crate) cache_bytes: Arc<AtomicU64>,
    pub(crate) added: Instant,
    /// There was no other image when it joined.
    pub(crate) is_first: bool,
    /// All its files were met.
    pub(crate) is_counted: AtomicBool,
}

impl Member {
    /// Opens an image as number `slot`. `is_first`: there is no other whose content it may have.
    pub(crate) fn open(
        slot: u16,
        spec: MemberSpec,
        config: EngineConfig,
        is_first: bool,
    ) -> Result<Self> {
        let (image, files, blobs) = if let Some(lazy) = &spec.lazy {
            let (patience, policy) = (Patience::Hard, Policy::default());
            let LazyImage { image, blobs, .. } = if is_first {
                lazy.open(patience, policy)?
            } else {
                lazy.open_beside(patience, policy)?
            };
            (image, Vec::new(), blobs)
        } else {
            let (image, files) = open_files(&spec)?;
            (image, files, Vec::new())
        };
        let fail = |error| Error::Open { path: spec.image.clone(), error };
        let identity = Identity::of(&files).map_err(fail)?;
        let cache_bytes = config.cache_bytes;
        Ok(Self {
            slot,
            fs: Arc::new(ErofsFs::new(Arc::new(image), config)),
            files,
            identity,
            blobs,
            root_references: AtomicU64::new(0),
            lies: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            hashed_bytes: AtomicU64::new(0),
            verified_bytes: AtomicU64::new(0),
            cache_given: AtomicU64::new(cache_bytes),
            cache_bytes: Arc::new(AtomicU64::new(cache_bytes)),
            added: Instant::now(),
            is_first,
            is_counted: AtomicBool::new(false),
            spec,
        })
    }

    /// Whether this is the image that `spec` names, unchanged.
    pub(crate) fn is(&self, spec: &MemberSpec) -> bool {
        let Self { spec: own, .. } = self;
        if let (Some(one), Some(other)) = (&own.lazy, &spec.lazy) {
            // With a pin the bytes are the same wherever they are; without, nobody can say.
            return one.pin.is_some()
                && (&one.pin, &one.device_pins) == (&other.pin, &other.device_pins)
                && (&one.devices, &one.location) == (&other.devices, &other.location);
        }
        let same = own.offset == spec.offset && own.lazy.is_none() && spec.lazy.is_none();
        let now = || {
            let paths = std::iter::once(&spec.image).chain(&spec.devices);
            let files = paths.map(File::open).collect::<std::io::Result<Vec<_>>>()?;
            Identity::of(&files)
        };
        same && self.is_unchanged() && now().is_ok_and(|now| now == self.identity)
    }

    /// Whether nobody has written its files since it was opened.
    pub(crate) fn is_unchanged(&self) -> bool {
        Identity::of(&self.files).is_ok_and(|now| now == self.identity)
    }

    pub(crate) fn image(&self) -> &Arc<Image> {
        self.fs.engine().image()
    }

    pub(crate) const fn id(&self, nid: Nid) -> FileId {
        FileId { slot: self.slot, nid }
    }

    /// The node by which its own file system knows an inode.
    pub(crate) fn inner(&self, nid: Nid) -> u64 {
        node_of(nid, self.image().root())
    }

    pub(crate) fn nid(&self, inner: u64) -> Nid {
        nid_of(inner, self.image().root())
    }

    /// Attributes as the domain shows them: two files of different images must not look the same to
    /// those who compare numbers.
    pub(crate) fn attr(&self, nid: Nid, node: u64) -> std::result::Result<Attr, Errno> {
        Ok(Attr { ino: node, ..self.fs.getattr(self.inner(nid))? })
    }

    /// Gives it another part of the domain's memory, unless somebody has set its own.
    pub(crate) fn give_cache(&self, bytes: u64) {
        let given = self.cache_given.swap(bytes, Ordering::Relaxed);
        let set = &self.cache_bytes;
        if set.compare_exchange(given, bytes, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.fs.engine().set_cache_bytes(bytes);
        }
    }

    /// Whether all bytes of a file are on this machine.
    pub(crate) fn has(&self, nid: Nid) -> bool {
        if self.blobs.is_empty() {
            return true;
        }
        let image = self.image();
        let mut all = true;
        let looked = image.inode(nid).and_then(|inode| image.map(&inode)).and_then(|map| {
            image.stored_runs(&map, |device, range| {
                let blob = self.blobs.get(usize::from(device));
                all &= blob.is_some_and(|blob| blob.is_present(range));
            })
        });
        all && looked.is_ok()
    }

    /// Something in it is not what it says.
    pub(crate) fn report_lie(&self, nid: Nid, what: &str) {
        self.lies.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(image = %self.spec.image.display(), nid = nid.0, "not shared: {what}");
    }
}

/// Opens an image's files once, and the image on just these: a path may name another file a moment
/// later.
fn open_files(spec: &MemberSpec) -> Result<(Image, Vec<File>)> {
    let mut files = Vec::new();
    let mut paths = Vec::new();
    for path in std::iter::once(&spec.image).chain(&spec.devices) {
        let file = File::open(path).map_err(|error| Error::Open { path: path.clone(), error })?;
        paths.push(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
        files.push(file);
    }
    let (image, devices) = paths.split_first().expect("an image is at least one file");
    let found = ImageFiles {
        image: image.clone(),
        offset: spec.offset,
        devices: devices.to_vec(),
        metadata_cache: Some(METADATA_CACHE),
        ..ImageFiles::default()
    };
    match found.open_whole() {
        Ok(image) => Ok((image, files)),
        Err(Error::Image { error, .. }) => Err(Error::Image { path: spec.image.clone(), error }),
        Err(Error::DevicesMissing { count, .. }) => {
            Err(Error::DevicesMissing { path: spec.image.clone(), count })
        }
        Err(error) => Err(error),
    }
}
