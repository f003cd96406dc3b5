// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters.

use crate::cache::Cache;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What an engine has done. All numbers count from its creation, except the last two.
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        #[non_exhaustive]
        pub struct EngineStats {
            $($(#[$doc])* pub $name: u64,)*
            /// Decoded bytes in the cache now.
            pub cached_bytes: u64,
            /// Limit of the cache in bytes.
            pub cache_limit: u64,
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            $(pub(crate) fn $name(&self, amount: usize) {
                self.$name.fetch_add(amount as u64, Ordering::Relaxed);
            })*

            pub(crate) fn snapshot(&self, cache: &Cache) -> EngineStats {
                EngineStats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                    cached_bytes: cache.bytes(),
                    cache_limit: cache.limit(),
                }
            }
        }
    };
}

counters! {
    /// Calls of `read_into` that had anything to read.
    reads,
    /// Bytes delivered to callers.
    bytes,
    /// Reads of devices.
    device_reads,
    /// Bytes read from devices.
    device_bytes,
    /// Bytes read straight into callers' buffers.
    direct_bytes,
    /// Pclusters decoded.
    decodes,
    /// Bytes decoded.
    decoded_bytes,
    /// Of the decodes, those straight into a caller's buffer.
    direct_decodes,
    /// Pclusters found decoded.
    hits,
    /// Pclusters that another reader was decoding.
    waits,
    /// Bytes copied out of the cache.
    copied_bytes,
    /// Pclusters that could not be read or decoded.
    failures,
}
