// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening an image: superblock, configurations, devices, long prefixes, packed and metabox inodes.

use crate::decode::CodecRules;
use crate::device::{Device, Devices};
use crate::meta::{MetaCache, Space};
use crate::source::Shifted;
use crate::xattr::Prefixes;
use crate::{Decoder, DeviceAddress, Error, FileMap, Inode, Place, ReadAt, Result};
use ferrofs_format::compression::CompressionConfigs;
use ferrofs_format::device::{DeviceSlot, SLOT_LEN};
use ferrofs_format::inode::FileType;
use ferrofs_format::num::{u64_from_usize, usize_from_u64};
use ferrofs_format::superblock::{BASE_LEN, SuperBlock};
use ferrofs_format::{Nid, checksum, limits};
use std::fmt;
use std::io::IoSliceMut;
use std::sync::{Mutex, OnceLock};

/// How to open an image. The default is right for a local file that is one whole image.
#[derive(Default)]
#[must_use]
pub struct OpenOptions {
    offset: u64,
    extra_devices: Vec<Box<dyn ReadAt>>,
    ignore_checksum: bool,
    ignore_root: bool,
    metadata_cache_bytes: Option<u64>,
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenOptions")
            .field("offset", &self.offset)
            .field("extra_devices", &self.extra_devices.len())
            .field("ignore_checksum", &self.ignore_checksum)
            .field("ignore_root", &self.ignore_root)
            .field("metadata_cache_bytes", &self.metadata_cache_bytes)
            .finish()
    }
}

impl OpenOptions {
    /// Default options.
    pub fn new() -> Self {
        Self::default()
    }

    /// The image begins `bytes` into the primary source.
    pub const fn offset(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }

    /// Adds the next extra device. Give all of the image's, in the order of its table, or none for
    /// a flat image that contains them.
    pub fn device(mut self, source: impl ReadAt + 'static) -> Self {
        self.extra_devices.push(Box::new(source));
        self
    }

    /// Opens images whose superblock checksum is wrong. For rescue only.
    pub const fn ignore_checksum(mut self, ignore: bool) -> Self {
        self.ignore_checksum = ignore;
        self
    }

    /// Opens images whose root directory is corrupt, which is then an error of each use of it.
    pub const fn ignore_root(mut self, ignore: bool) -> Self {
        self.ignore_root = ignore;
        self
    }

    /// Bytes of metadata kept in memory (default 4 MiB for pages, 16 MiB for decoded metadata of
    /// images that compress it).
    pub const fn metadata_cache(mut self, bytes: u64) -> Self {
        self.metadata_cache_bytes = Some(bytes);
        self
    }

    /// Opens the image in `primary`.
    pub fn open(self, primary: impl ReadAt + 'static) -> Result<Image> {
        let mut source: Box<dyn ReadAt> = Box::new(primary);
        if self.offset > 0 {
            source = Box::new(Shifted { inner: source, offset: self.offset });
        }
        let primary = Device::new(0, source)?;
        let superblock = read_superblock(&primary, self.ignore_checksum)?;
        let configs = read_configs(&primary, &superblock)?;
        let mut devices = Devices::new(primary, superblock.block_bits);
        let slots = read_slots(&devices, &superblock)?;
        devices.attach(slots, self.extra_devices)?;
        let image = Image {
            rules: CodecRules::new(&superblock, &configs),
            configs,
            meta: MetaCache::new(self.metadata_cache_bytes),
            decoders: Mutex::new(Vec::new()),
            prefixes: Prefixes::default(),
            packed: OnceLock::new(),
            metabox: OnceLock::new(),
            devices,
            superblock,
        };
        image.finish(self.ignore_root)
    }
}

/// An opened image. Shared by reference between threads.
pub struct Image {
    pub(crate) superblock: SuperBlock,
    pub(crate) configs: CompressionConfigs,
    pub(crate) rules: CodecRules,
    pub(crate) devices: Devices,
    pub(crate) meta: MetaCache,
    pub(crate) prefixes: Prefixes,
    /// Idle decoders, for the plain read path.
    pub(crate) decoders: Mutex<Vec<Decoder>>,
    packed: OnceLock<FileMap>,
    metabox: OnceLock<FileMap>,
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("superblock", &self.superblock)
            .field("devices", &self.devices)
            .finish_non_exhaustive()
    }
}

impl Image {
    /// Opens the image in `primary` with default options.
    pub fn open(primary: impl ReadAt + 'static) -> Result<Self> {
        OpenOptions::new().open(primary)
    }

    /// Maps of the special inodes come first, since everything else may be addressed through them.
    fn finish(mut self, ignore_root: bool) -> Result<Self> {
        if let Some(nid) = self.superblock.packed {
            let map = self.special_map(nid, "packed inode is not a regular file")?;
            if map.has_fragment() {
                return Err(Error::corrupt(
                    Place::inode(nid),
                    "packed inode contains a fragment of itself",
                    0,
                ));
            }
            self.packed = OnceLock::from(map);
        }
        if let Some(nid) = self.superblock.metabox {
            let map = self.special_map(nid, "metabox inode is not a regular file")?;
            self.metabox = OnceLock::from(map);
        }
        self.prefixes = Prefixes::read(&self)?;
        if ignore_root {
            return Ok(self);
        }
        let root = self.inode(self.superblock.root)?;
        if root.file_type != FileType::Directory {
            return Err(Error::corrupt(
                Place::inode(root.nid),
                "root inode is not a directory",
                u64::from(root.mode),
            ));
        }
        Ok(self)
    }

    fn special_map(&self, nid: Nid, wrong_type: &'static str) -> Result<FileMap> {
        let inode = self.inode(nid)?;
        if inode.file_type != FileType::Regular {
            return Err(Error::corrupt(Place::inode(nid), wrong_type, u64::from(inode.mode)));
        }
        self.map(&inode)
    }

    /// The superblock.
    #[must_use]
    pub const fn superblock(&self) -> &SuperBlock {
        &self.superblock
    }

    /// Compression configuration records.
    #[must_use]
    pub const fn compression(&self) -> &CompressionConfigs {
        &self.configs
    }

    /// Rules for decoding this image's pclusters.
    #[must_use]
    pub const fn rules(&self) -> &CodecRules {
        &self.rules
    }

    /// Slots of the device table.
    #[must_use]
    pub fn device_slots(&self) -> &[DeviceSlot] {
        self.devices.slots()
    }

    /// Long xattr name prefixes, in table order.
    #[must_use]
    pub fn long_prefixes(&self) -> &[ferrofs_format::xattr::LongPrefix] {
        self.prefixes.table()
    }

    /// Bytes of a device that was given (0 = primary).
    #[must_use]
    pub fn device_size(&self, device: u16) -> Option<u64> {
        self.devices.size(device)
    }

    /// Reads encoded bytes of a device: for whoever decodes pclusters elsewhere.
    pub fn read_device(&self, at: DeviceAddress, buf: &mut [u8]) -> Result<()> {
        self.devices.read(at, buf)
    }

    /// Fills `bufs` one after the other with what follows from `at` on, by one read where the device
    /// can do that.
    pub fn read_device_vectored(
        &self,
        at: DeviceAddress,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Result<()> {
        self.devices.read_vectored(at, bufs)
    }

    /// The `len` bytes from `at` on, if the device has them in memory.
    #[must_use]
    pub fn device_bytes(&self, at: DeviceAddress, len: usize) -> Option<&[u8]> {
        self.devices.bytes(at, len)
    }

    /// The root directory's nid.
    #[must_use]
    pub const fn root(&self) -> Nid {
        self.superblock.root
    }

    /// Map of the packed inode: where fragments lie.
    #[must_use]
    pub fn packed_map(&self) -> Option<&FileMap> {
        self.packed.get()
    }

    pub(crate) fn metabox_map(&self) -> Option<&FileMap> {
        self.metabox.get()
    }

    /// Bytes of a metadata space.
    pub(crate) fn space_len(&self, space: Space) -> u64 {
        match space {
            Space::Primary => self.devices.size(0).unwrap_or(0),
            Space::Packed => self.packed_map().map_or(0, FileMap::size),
            Space::Metabox => self.metabox_map().map_or(0, FileMap::size),
        }
    }

    /// Checks that `len` bytes at `offset` lie in `space`, before anything is allocated for them.
    pub(crate) fn check_space(&self, space: Space, offset: u64, len: u64) -> Result<()> {
        let end = offset.checked_add(len);
        if end.is_none_or(|end| end > self.space_len(space)) {
            return Err(Error::corrupt(
                Place::meta(space, offset),
                "metadata lies behind the end of its space",
                len,
            ));
        }
        Ok(())
    }

    /// Inode by path from the root, symbolic links not followed. Empty components and `.` are
    /// skipped, `..` goes up.
    pub fn resolve(&self, path: &[u8]) -> Result<Inode> {
        let mut trail = vec![self.inode(self.root())?];
        for name in path.split(|&byte| byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => {
                    if trail.len() > 1 {
                        trail.pop();
                    }
                }
                _ => {
                    let Some(parent) = trail.last() else { return Err(Error::NotFound) };
                    let entry = self.directory(parent)?.lookup(name)?.ok_or(Error::NotFound)?;
                    trail.push(self.inode(entry.nid)?);
                }
            }
        }
        trail.pop().ok_or(Error::NotFound)
    }
}

/// Bytes behind the superblock's start that are read at first: more than the largest superblock, and all
/// that the checksum of a usual block covers.
const SUPERBLOCK_READ: u64 = 8192 - limits::SUPERBLOCK_OFFSET;

fn read_superblock(primary: &Device, ignore_checksum: bool) -> Result<SuperBlock> {
    let place = |offset| Place::meta(Space::Primary, offset);
    let at = limits::SUPERBLOCK_OFFSET;
    let have = |len: u64| primary.size().saturating_sub(at).min(len);
    let first_len = have(SUPERBLOCK_READ);
    if first_len < u64_from_usize(BASE_LEN) {
        let what = "not an EROFS image: it ends before its superblock does; its size";
        return Err(Error::corrupt(place(at), what, primary.size()));
    }
    let mut bytes = vec![0; usize_from_u64(first_len)];
    primary.read(0, at, &mut bytes)?;
    let superblock = SuperBlock::parse(&bytes).map_err(|error| Error::format(error, place(at)))?;
    if !ignore_checksum {
        let covered = checksum::covered_len(superblock.block_bits);
        // Of the usual blocks all is there: what is not needed may have to be fetched.
        let first = bytes.len();
        bytes.resize(usize_from_u64(have(u64_from_usize(covered))).max(first), 0);
        if let Some(rest) = bytes.get_mut(first..).filter(|rest| !rest.is_empty()) {
            primary.read(0, at.saturating_add(u64_from_usize(first)), rest)?;
        }
        // On a device that is shorter than its first block the sum cannot be right: an error.
        superblock
            .verify_checksum(bytes.get(..covered.min(bytes.len())).unwrap_or(&[]))
            .map_err(|error| Error::format(error, place(at)))?;
    }
    Ok(superblock)
}

fn read_configs(primary: &Device, superblock: &SuperBlock) -> Result<CompressionConfigs> {
    let at = limits::SUPERBLOCK_OFFSET.saturating_add(u64_from_usize(superblock.byte_len()));
    let most = u64_from_usize(CompressionConfigs::AREA_MAX);
    let have = primary.size().saturating_sub(at).min(most);
    let mut area = vec![0; usize_from_u64(have)];
    primary.read(0, at, &mut area)?;
    CompressionConfigs::parse(superblock, &area)
        .map_err(|error| Error::format(error, Place::meta(Space::Primary, at)))
}

fn read_slots(devices: &Devices, superblock: &SuperBlock) -> Result<Vec<DeviceSlot>> {
    let wide = superblock.incompat.has(ferrofs_format::features::IncompatFeatures::BIT48);
    let mut slots = Vec::new();
    for index in 0..superblock.extra_devices {
        let slot = u64::from(superblock.device_slot).saturating_add(u64::from(index));
        let offset = slot.saturating_mul(u64_from_usize(SLOT_LEN));
        let mut bytes = [0; SLOT_LEN];
        let place = Place::meta(Space::Primary, offset);
        let end = offset.saturating_add(u64_from_usize(SLOT_LEN));
        if devices.size(0).is_none_or(|size| end > size) {
            return Err(Error::corrupt(place, "device table lies behind the image's end", offset));
        }
        devices.read(DeviceAddress { device: 0, offset }, &mut bytes)?;
        slots.push(DeviceSlot::parse(&bytes, wide).map_err(|error| Error::format(error, place))?);
    }
    Ok(slots)
}
