// SPDX-License-Identifier: MIT OR Apache-2.0
//! The files that an image consists of, and opening them.

use crate::{Error, Result};
use ferrofs_image::{Image, OpenOptions};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where an image lies.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..ImageFiles::default()`")]
pub struct ImageFiles {
    /// The image: a file or block device.
    pub image: PathBuf,
    /// Bytes in front of it.
    pub offset: u64,
    /// Its extra devices, in the order of its table; none for a flat image.
    pub devices: Vec<PathBuf>,
    /// Opens it even if the superblock's checksum is wrong.
    pub ignore_checksum: bool,
    /// Opens it even if the root directory is corrupt: each use of that is an error then.
    pub ignore_root: bool,
    /// Bytes of metadata kept in memory; by default as [`OpenOptions`] has it.
    pub metadata_cache: Option<u64>,
}

impl ImageFiles {
    /// An image that is one whole file.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self { image: image.into(), ..Self::default() }
    }

    /// Opens the image.
    pub fn open(&self) -> Result<Image> {
        let mut options = OpenOptions::new();
        options = options
            .offset(self.offset)
            .ignore_checksum(self.ignore_checksum)
            .ignore_root(self.ignore_root);
        if let Some(bytes) = self.metadata_cache {
            options = options.metadata_cache(bytes);
        }
        for device in &self.devices {
            options = options.device(open(device)?);
        }
        options
            .open(open(&self.image)?)
            .map_err(|error| Error::Image { path: self.image.clone(), error })
    }

    /// Opens the image, and fails if data that it refers to is on devices not given.
    pub fn open_whole(&self) -> Result<Image> {
        let image = self.open()?;
        let slots = image.device_slots();
        if !self.devices.is_empty() || slots.is_empty() || is_flat(&image) {
            return Ok(image);
        }
        let count = u16::try_from(slots.len()).unwrap_or(u16::MAX);
        Err(Error::DevicesMissing { path: self.image.clone(), count })
    }
}

/// Whether an image that was opened without extra devices has their content in itself, where the
/// unified address space says.
pub(crate) fn is_flat(image: &Image) -> bool {
    let slots = image.device_slots();
    let bits = image.superblock().block_bits;
    let end = slots.iter().filter(|slot| slot.unified_start > 0).map(|slot| {
        let end = slot.unified_start.checked_add(slot.blocks);
        end.and_then(|end| bits.byte_of(end)).unwrap_or(u64::MAX)
    });
    let have = image.device_size(0).unwrap_or(0);
    slots.iter().all(|slot| slot.unified_start > 0) && end.max().is_some_and(|end| end <= have)
}

fn open(path: &Path) -> Result<File> {
    let fail = |error| Error::Open { path: path.to_owned(), error };
    let file = File::open(path).map_err(fail)?;
    if file.metadata().map_err(fail)?.is_dir() {
        return Err(fail(std::io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}
