// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs as byte ranges: fetched on demand, verified, and kept in a cache that survives crashes.
//!
//! What it refuses to know: EROFS and FUSE. Invariant: a byte that is given out is the blob's, or
//! the call fails; nothing reaches the cache or a reader that was not verified as far as the blob
//! has a digest table.

mod error;
mod limit;
mod origin;
mod prefetch;
mod source;
mod table;

pub use error::{FetchError, FetchErrorKind};
pub use limit::{LimitConfig, Limits, Permit};
pub use origin::{
    Cancel, Clock, Deadline, Demand, FailureCounts, Origin, OriginConfig, OriginStats, Ranges,
    Served, SourceStats, SystemClock,
};
pub use prefetch::{Fill, FillError};
pub use source::{FetchContext, Identity, Priority, RangeSource, Sink, SinkStop};
pub use table::{
    Algorithm, BuiltTable, Digest, Digests, FileShelf, Geometry, Head, Layout, PAGE_LEN, PageCache,
    Pin, PinError, Shelf, Table, TableBuilder, TableError, TableOptions, TableStats,
};
