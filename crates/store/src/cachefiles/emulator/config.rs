// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a cache behaves.

use super::super::Form;
use std::fmt;
use std::sync::Arc;

/// Settings of a cache.
#[derive(Clone)]
#[expect(clippy::exhaustive_structs, reason = "made with `..EmulatorConfig::default()`")]
pub struct EmulatorConfig {
    /// The form that it speaks.
    pub form: Form,
    /// An object whose daemon has let go of its descriptor is opened again at the next miss. Without
    /// it such misses fail, as before Linux 6.8 and in the original form.
    pub failover: bool,
    /// Descriptors write past the page cache, which wants everything aligned to 4 KiB.
    pub direct: bool,
    /// The longest READ, in bytes: a multiple of 4096.
    pub read_max: u64,
    /// When to cull.
    pub thresholds: Thresholds,
    /// Tells the room, instead of the file system.
    pub space: Option<Arc<dyn Fn() -> Space + Send + Sync>>,
}

impl Default for EmulatorConfig {
    fn default() -> Self {
        Self {
            form: Form::Merged,
            failover: true,
            direct: false,
            read_max: 1 << 20,
            thresholds: Thresholds::default(),
            space: None,
        }
    }
}

impl fmt::Debug for EmulatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmulatorConfig").field("form", &self.form).finish_non_exhaustive()
    }
}

/// Shares of free room, in percent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "the protocol's six limits")]
pub struct Thresholds {
    /// Culling ends above.
    pub blocks_run: u8,
    /// Culling begins below.
    pub blocks_cull: u8,
    /// No new objects below.
    pub blocks_stop: u8,
    /// As for blocks.
    pub files_run: u8,
    /// As for blocks.
    pub files_cull: u8,
    /// As for blocks.
    pub files_stop: u8,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            blocks_run: 7,
            blocks_cull: 5,
            blocks_stop: 1,
            files_run: 7,
            files_cull: 5,
            files_stop: 1,
        }
    }
}

impl Thresholds {
    /// `0 <= stop < cull < run < 100`, for both.
    pub const fn are_sound(&self) -> bool {
        self.blocks_stop < self.blocks_cull
            && self.blocks_cull < self.blocks_run
            && self.blocks_run < 100
            && self.files_stop < self.files_cull
            && self.files_cull < self.files_run
            && self.files_run < 100
    }
}

/// Free room of a file system, in percent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "what statvfs tells")]
pub struct Space {
    /// Of its blocks.
    pub blocks: u8,
    /// Of its files.
    pub files: u8,
}
