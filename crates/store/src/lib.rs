// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs as byte ranges: fetched on demand, verified, and kept in a cache that survives crashes.
//!
//! What it refuses to know: EROFS and FUSE. Invariant: a byte that is given out is the blob's, or
//! the call fails; nothing reaches the cache or a reader that was not verified as far as the blob
//! has a digest table.

#![deny(unsafe_code)]

mod blob;
mod cache;
pub mod cachefiles;
mod disk;
mod error;
mod flight;
mod limit;
mod log;
mod map;
mod network;
mod open;
mod origin;
mod prefetch;
pub mod source;
mod stats;
mod table;
mod trace;
mod window;

pub use blob::{Blob, FindEnd};
pub use cache::{
    BlobId, BlobInfo, BlobKind, BlobSpec, Cache, CacheConfig, CacheStats, Findings, KernelFiles,
    KernelHold, Policy, TableSpec, Thresholds,
};
pub use error::{FetchError, FetchErrorKind, StoreError};
pub use limit::{LimitConfig, Limits, Permit};
pub use network::{Network, ProxySetting};
pub use open::{FoundBlob, FoundImage, ImagePlace, Opener};
pub use origin::{
    Cancel, Clock, Deadline, Demand, FailureCounts, Origin, OriginConfig, OriginStats, Ranges,
    Served, SourceStats, SystemClock, Urgent,
};
pub use prefetch::{
    Fill, FillError, Order, PrefetchConfig, PrefetchJob, Prefetcher, Progress, Rank,
};
pub use source::{FetchContext, Identity, Priority, RangeSource, Sink, SinkStop};
pub use stats::{BlobStats, WAIT_SLOTS};
pub use table::{
    Algorithm, BuiltTable, Digest, Digests, FileShelf, Geometry, Head, Layout, PAGE_LEN, PageCache,
    Pin, PinError, Shelf, Table, TableBuilder, TableError, TableOptions, TableStats, Tail,
    make_copy,
};
pub use trace::{
    BlobRecorder, Recorder, Replay, ReplayConfig, Step, TRACE_SUFFIX, Touch, Trace, TraceError,
};
pub use window::{Plan, Window, WindowConfig};

/// What fuzz targets call. Not an interface: it may change or go at any time.
#[doc(hidden)]
pub mod fuzzing {
    /// Takes bytes for the copy behind a digest table.
    pub fn table_copy(bytes: &[u8]) {
        crate::table::copy::exercise(bytes);
    }
}
