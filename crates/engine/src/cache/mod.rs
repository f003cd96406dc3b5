// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is kept: decoded extents, pages of such that were wanted again and again, and encoded
//! pclusters, in one bounded memory.
//!
//! An extent that was wanted in part is kept whole for a while. When it must go, the pages of it
//! that were wanted stay, if they are few: random reads of large pclusters keep their hot pages and
//! not all that lies around them. Each pool evicts by `quick_cache` (CLOCK-Pro with ghosts), which a
//! single scan does not sweep. Invariants: the bytes of all entries never exceed the budget; a value
//! that readers still hold outlives its entry; only what decoded without an error is kept.

mod balance;
mod buffer;

use crate::config::Strategy;
use balance::{Balance, PoolKind, Shares};
pub(crate) use buffer::{Decoded, PAGE, Pool, Raw};
use buffer::{page_bytes, page_range};
use ferrofs_image::{Algorithm, Encoding, Location, Pcluster};
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter, sync};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a pcluster is known by: equal keys decode to equal bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    location: Location,
    len: u32,
    encoding: Encoding,
}

impl Key {
    pub(crate) const fn new(pcluster: &Pcluster) -> Self {
        Self { location: pcluster.location, len: pcluster.len, encoding: pcluster.encoding }
    }

    /// What decoding `len` bytes costs, in the time of decoding a byte of LZ4.
    pub(crate) const fn decode_cost(&self, len: usize) -> u64 {
        // Measured on text and ELF in 64 KiB pclusters, rounded.
        let factor = match self.encoding {
            Encoding::Compressed(Algorithm::Zstd) => 2,
            Encoding::Compressed(Algorithm::Deflate) => 4,
            Encoding::Compressed(Algorithm::Lzma) => 25,
            _ => 1,
        };
        len as u64 * factor
    }
}

/// What reading a byte of a device costs, in the time of decoding a byte of LZ4: a device of some
/// 150 MB/s. On faster ones memory for encoded bytes is worth less, but a wrong guess there costs
/// little; on a network it is worth more.
const DEVICE_COST: u64 = 16;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
struct PageKey {
    extent: Key,
    phase: u16,
    page: u32,
}

/// Decoded bytes that were found.
#[derive(Debug)]
pub(crate) enum Hit {
    Extent(Arc<Decoded>),
    /// The pages from `first` on, of an extent with `phase`.
    Pages {
        phase: u16,
        first: u32,
        pages: Vec<Arc<[u8]>>,
    },
}

impl Hit {
    /// Gives `range` of the extent to `out`, piece by piece with its place in the range. True if this
    /// ends a reading of the whole extent from front to back.
    pub(crate) fn copy(&self, range: &Range<usize>, mut out: impl FnMut(usize, &[u8])) -> bool {
        match self {
            Self::Extent(decoded) => {
                out(0, &decoded[range.clone()]);
                decoded.touch(range)
            }
            Self::Pages { phase, first, pages } => {
                for (page, bytes) in (*first..).zip(pages) {
                    let at = page_bytes(*phase, page);
                    let start = at.start.max(range.start);
                    let end = at.end.min(range.end);
                    if start < end {
                        out(start - range.start, &bytes[start - at.start..end - at.start]);
                    }
                }
                false
            }
        }
    }
}

/// Longest part for which single pages are looked up.
const BY_PAGES_MAX: usize = 16 * PAGE;

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Arc<Decoded>> for ByBytes {
    fn weight(&self, _key: &Key, value: &Arc<Decoded>) -> u64 {
        value.weight()
    }
}

impl Weighter<Key, Arc<Raw>> for ByBytes {
    fn weight(&self, _key: &Key, value: &Arc<Raw>) -> u64 {
        value.weight()
    }
}

impl Weighter<PageKey, Arc<[u8]>> for ByBytes {
    fn weight(&self, _key: &PageKey, value: &Arc<[u8]>) -> u64 {
        value.len() as u64 + 160
    }
}

/// Gives back what had to go.
#[derive(Clone, Debug)]
struct Leaving;

impl<K, V> Lifecycle<K, V> for Leaving {
    type RequestState = Vec<(K, V)>;

    fn on_evict(&self, state: &mut Self::RequestState, key: K, value: V) {
        state.push((key, value));
    }
}

type Kept<K, V> = sync::Cache<K, V, ByBytes, DefaultHashBuilder, Leaving>;

fn kept<K: Eq + Hash, V: Clone>(capacity: u64, typical: u64, shards: usize) -> Kept<K, V>
where
    ByBytes: Weighter<K, V>,
{
    let items = usize::try_from(capacity / typical).unwrap_or(usize::MAX).clamp(64, 1 << 20);
    let mut options = OptionsBuilder::new();
    // Few shards: each holds only its part of the budget, and entries are large.
    options.estimated_items_capacity(items).weight_capacity(capacity).shards(shards);
    let options = options.build().unwrap_or_else(|_| unreachable!("both capacities are set"));
    sync::Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), Leaving)
}

/// Bytes now in each pool, and the budget.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) extents: u64,
    pub(crate) pages: u64,
    pub(crate) encoded: u64,
    pub(crate) limit: u64,
    pub(crate) encoded_share: u64,
}

pub(crate) struct Caches {
    extents: Kept<Key, Arc<Decoded>>,
    pages: Kept<PageKey, Arc<[u8]>>,
    encoded: Kept<Key, Arc<Raw>>,
    balance: Mutex<Balance>,
    pool: Arc<Pool>,
    raw_pool: Arc<Pool>,
}

impl Caches {
    pub(crate) fn new(limit: u64, strategy: Strategy) -> Self {
        let balance = Balance::new(limit, strategy.encoded_share(limit));
        let Shares([encoded, extents, pages]) = balance.shares();
        Self {
            extents: kept(extents, 1 << 17, 1),
            pages: kept(pages, PAGE as u64, 4),
            encoded: kept(encoded, 1 << 14, 1),
            balance: Mutex::new(balance),
            pool: Arc::default(),
            raw_pool: Arc::default(),
        }
    }

    fn balance(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bytes of `wanted`, a range of the extent, if they are all there.
    pub(crate) fn find(&self, key: &Key, phase: u16, wanted: &Range<usize>) -> Option<Hit> {
        if let Some(decoded) = self.extents.get(key)
            && decoded.len() >= wanted.end
        {
            return Some(Hit::Extent(decoded));
        }
        if wanted.len() > BY_PAGES_MAX {
            return None;
        }
        let range = page_range(phase, wanted);
        let first = range.start;
        let get = |page| self.pages.get(&PageKey { extent: *key, phase, page });
        let pages: Option<Vec<_>> = range.map(get).collect();
        let pages = pages?;
        // The last page of an extent is short, and files have more or less of one pcluster: all of what
        // is wanted must really be there.
        let enough = (first..).zip(&pages).all(|(page, bytes)| {
            let at = page_bytes(phase, page);
            at.start + bytes.len() >= at.end.min(wanted.end)
        });
        enough.then_some(Hit::Pages { phase, first, pages })
    }

    /// The encoded bytes of `key`.
    pub(crate) fn find_encoded(&self, key: &Key) -> Option<Arc<Raw>> {
        self.encoded.get(key)
    }

    /// Learns from a decode that had to be done, and from encoded bytes that had to be read for it.
    pub(crate) fn note_miss(&self, key: &Key, phase: u16, wanted: &Range<usize>, was_read: bool) {
        let mut balance = self.balance();
        if balance.total() == 0 {
            return;
        }
        let cost = key.decode_cost(wanted.end);
        if was_read {
            balance.missed(PoolKind::Encoded, name(key), u64::from(key.len) * DEVICE_COST);
        }
        balance.missed(PoolKind::Extents, name(key), cost);
        if wanted.len() <= BY_PAGES_MAX {
            let pages = page_range(phase, wanted);
            let each = cost / u64::from((pages.end - pages.start).max(1));
            for page in pages {
                balance.missed(PoolKind::Pages, name(&PageKey { extent: *key, phase, page }), each);
            }
        }
        let shares = balance.tick();
        drop(balance);
        if let Some(shares) = shares {
            self.apply(shares);
        }
    }

    fn apply(&self, Shares([encoded, extents, pages]): Shares) {
        self.encoded.set_capacity(encoded);
        self.extents.set_capacity(extents);
        self.pages.set_capacity(pages);
    }

    /// Whether an extent of `len` bytes would stay a while.
    pub(crate) fn keeps_extent(&self, len: usize) -> bool {
        len as u64 <= self.extents.capacity() / 4
    }

    /// Keeps a decoded extent; what must go for it leaves its hot pages.
    pub(crate) fn keep_extent(&self, key: Key, decoded: Arc<Decoded>) {
        let mut leaving = Vec::new();
        self.extents.insert_with_lifecycle(key, decoded, &mut leaving);
        for (key, decoded) in leaving {
            self.balance().evicted(PoolKind::Extents, name(&key), decoded.weight());
            self.keep_pages(key, &decoded);
        }
    }

    /// Keeps the pages of `decoded` that were wanted.
    pub(crate) fn keep_pages(&self, key: Key, decoded: &Decoded) {
        for page in decoded.sparse_pages() {
            // What is decoded may end inside a page: then it is not one.
            if decoded.page(page).len() == page_bytes(decoded.phase(), page).len() {
                self.keep_page(PageKey { extent: key, phase: decoded.phase(), page }, decoded);
            }
        }
    }

    fn keep_page(&self, key: PageKey, decoded: &Decoded) {
        let mut leaving = Vec::new();
        self.pages.insert_with_lifecycle(key, decoded.page(key.page).into(), &mut leaving);
        if !leaving.is_empty() {
            let mut balance = self.balance();
            for (key, bytes) in leaving {
                balance.evicted(PoolKind::Pages, name(&key), bytes.len() as u64);
            }
        }
    }

    /// Keeps encoded bytes that have decoded well.
    pub(crate) fn keep_encoded(&self, key: Key, raw: Arc<Raw>) {
        let mut leaving = Vec::new();
        self.encoded.insert_with_lifecycle(key, raw, &mut leaving);
        for (key, raw) in leaving {
            self.balance().evicted(PoolKind::Encoded, name(&key), raw.len() as u64);
        }
    }

    /// A buffer for `len` encoded bytes.
    pub(crate) fn raw(&self, len: usize) -> Raw {
        Pool::raw(&self.raw_pool, len)
    }

    /// The extent was read from front to back, piece by piece: what is wanted whole is not kept
    /// either. The next such extent gets its memory.
    pub(crate) fn forget_extent(&self, key: &Key, with_encoded: bool) {
        self.extents.remove(key);
        if with_encoded {
            self.encoded.remove(key);
        }
    }

    /// Somebody else keeps the whole pages of the extent.
    pub(crate) fn deliver(&self, key: &Key, decoded: &Decoded, with_encoded: bool) {
        for page in decoded.end_pages() {
            self.keep_page(PageKey { extent: *key, phase: decoded.phase(), page }, decoded);
        }
        self.forget_extent(key, with_encoded);
    }

    pub(crate) fn forget_encoded(&self, key: &Key) {
        self.encoded.remove(key);
    }

    /// A buffer to decode `len` bytes into.
    pub(crate) fn buffer(&self, len: usize, phase: u16) -> Decoded {
        Pool::buffer(&self.pool, len, phase)
    }

    pub(crate) fn usage(&self) -> Usage {
        let (limit, Shares([encoded_share, ..])) = {
            let balance = self.balance();
            (balance.total(), balance.shares())
        };
        Usage {
            extents: self.extents.weight(),
            pages: self.pages.weight(),
            encoded: self.encoded.weight(),
            limit,
            encoded_share,
        }
    }

    pub(crate) fn set_limit(&self, limit: u64, strategy: Strategy) {
        let shares = self.balance().set_total(limit, strategy.encoded_share(limit));
        self.apply(shares);
    }

    /// Divides the budget as `strategy` wants from now on. With `flush` also encoded bytes that the
    /// strategy would keep go; else only those for which there is no room any more.
    pub(crate) fn set_strategy(&self, strategy: Strategy, flush: bool) {
        if flush {
            self.encoded.clear();
        }
        let mut balance = self.balance();
        let total = balance.total();
        *balance = Balance::new(total, strategy.encoded_share(total));
        let shares = balance.shares();
        drop(balance);
        self.apply(shares);
    }

    pub(crate) fn drop_encoded(&self) {
        self.encoded.clear();
    }

    pub(crate) fn drop_decoded(&self) {
        self.extents.clear();
        self.pages.clear();
        self.pool.clear();
        self.raw_pool.clear();
    }
}

fn name(key: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
