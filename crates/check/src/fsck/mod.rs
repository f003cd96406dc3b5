// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checking a whole image: its tree, every inode, and that everything compressed decodes.
//!
//! First the tree is walked by several threads, and what each file is made of is collected; then
//! each compressed cluster is decoded once, in the order of the device, however many files use it.
//! Everything found is data, not only the first; paths are looked up at the end, for the inodes that
//! need one.
//!
//! Invariants: nothing in an image makes the check panic, run forever or take memory beyond its
//! limit: holes cost nothing, and a budget of work that follows the image's real size ends what only
//! a crafted image can ask for.

mod content;
mod decode;
mod digest;
mod directory;
mod inode;
mod paths;
mod superblock;
mod xattrs;

use crate::nidset::NidSet;
use crate::{Code, Context, Finding, Severity, pool};
use content::Records;
use directory::{Listing, Node};
use ferrofs_engine::Engine;
use ferrofs_image::{Image, Inode, Nid};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What to check.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// Read and decode all content; else only structures are checked.
    pub data: bool,
    /// Compare content with the digests stored in the image.
    pub digests: bool,
    /// Findings kept in the report; all are counted.
    pub findings_max: usize,
    /// Bytes of memory for the list of clusters; above it the check works in rounds.
    pub memory_bytes: usize,
    /// Units of work: about one for each entry and extent and each 4 KiB decoded. `None` derives it
    /// from the image's real size, with a wide margin.
    pub budget: Option<u64>,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            data: true,
            digests: false,
            findings_max: 10_000,
            memory_bytes: 160 << 20,
            budget: None,
        }
    }
}

/// The result of a check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CheckReport {
    /// The first findings, in the order of their codes, then of inodes and offsets.
    pub findings: Vec<Finding>,
    /// Errors in all.
    pub errors: u64,
    /// Warnings in all.
    pub warnings: u64,
    /// Informative findings in all.
    pub infos: u64,
    /// Whether everything was gone through.
    pub complete: bool,
    /// Inodes found in directories.
    pub inodes: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Extents of all files.
    pub extents: u64,
    /// Different compressed clusters that were decoded.
    pub pclusters: u64,
    /// Bytes that came out of them.
    pub decoded_bytes: u64,
    /// Bytes read of devices to check content.
    pub read_bytes: u64,
}

impl CheckReport {
    /// Whether everything was gone through and nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.complete && self.errors == 0
    }
}

/// Checks an opened image.
#[must_use]
pub fn check(image: &Arc<Image>, options: &CheckOptions, context: Context<'_>) -> CheckReport {
    Check::new(image, options, context).run(vec![])
}

/// Opens an image and checks it. `open` is called again, with `true`, to open an image in spite of
/// its superblock's checksum; that it cannot be opened is a finding, too.
pub fn check_opening(
    open: impl Fn(bool) -> ferrofs_image::Result<Image>,
    options: &CheckOptions,
    context: Context<'_>,
) -> CheckReport {
    let error = match open(false) {
        Ok(image) => return check(&Arc::new(image), options, context),
        Err(error) => error,
    };
    let at = |error: &ferrofs_image::Error| match error {
        ferrofs_image::Error::Corrupt { place, .. }
        | ferrofs_image::Error::Unsupported { place, .. } => {
            (place.nid.map(|nid| nid.0), place.offset)
        }
        _ => (None, None),
    };
    match open(true) {
        // It opens without: so it was the checksum.
        Ok(image) => {
            let first = Finding::new(Code::Checksum, None, Some(1024), error.to_string());
            Check::new(&Arc::new(image), options, context).run(vec![first])
        }
        Err(error) => {
            let (nid, offset) = at(&error);
            CheckReport {
                findings: vec![Finding::new(Code::NotOpened, nid, offset, error.to_string())],
                errors: 1,
                ..CheckReport::default()
            }
        }
    }
}

/// Inodes seen so far.
#[derive(Debug, Default)]
struct Seen {
    inodes: NidSet,
    directories: NidSet,
    /// Of inodes with several names, or a count that says so: that count, and names found.
    links: HashMap<Nid, (u32, u32)>,
}

/// One check.
struct Check<'a> {
    image: &'a Arc<Image>,
    options: &'a CheckOptions,
    context: Context<'a>,
    /// For digests.
    engine: Engine,
    seen: Mutex<Seen>,
    records: Mutex<Records>,
    shared: Mutex<xattrs::SharedCache>,
    findings: Mutex<Vec<Finding>>,
    counts: [AtomicU64; 3],
    budget: AtomicU64,
    /// Units of decoded metadata that were charged.
    metadata_charged: AtomicU64,
    exhausted: AtomicBool,
    /// A missing feature bit was reported.
    feature_missing: AtomicBool,
    extents: AtomicU64,
    pclusters: AtomicU64,
    decoded_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Check<'a> {
    fn new(image: &'a Arc<Image>, options: &'a CheckOptions, context: Context<'a>) -> Self {
        Self {
            image,
            options,
            context,
            engine: crate::context::engine(Arc::clone(image), 32 << 20),
            seen: Mutex::default(),
            records: Mutex::default(),
            shared: Mutex::default(),
            findings: Mutex::default(),
            counts: [const { AtomicU64::new(0) }; 3],
            budget: AtomicU64::new(options.budget.unwrap_or_else(|| default_budget(image))),
            metadata_charged: AtomicU64::new(image.metadata_decoded() >> 12),
            exhausted: AtomicBool::new(false),
            feature_missing: AtomicBool::new(false),
            extents: AtomicU64::new(0),
            pclusters: AtomicU64::new(0),
            decoded_bytes: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        }
    }

    fn run(self, first: Vec<Finding>) -> CheckReport {
        for finding in first {
            self.report(finding);
        }
        self.superblock();
        let superblock = self.image.superblock();
        for nid in [superblock.packed, superblock.metabox].into_iter().flatten() {
            match self.image.inode(nid) {
                Ok(inode) => self.special_inode(&inode),
                Err(error) => self.image_error(Code::Inode, Some(nid), &error),
            }
        }
        self.walk();
        if !self.is_over() {
            self.finish_records();
            self.link_counts();
        }
        self.finish()
    }

    fn walk(&self) {
        let root = self.image.root();
        let inode = match self.image.inode(root) {
            Ok(inode) => inode,
            Err(error) => return self.image_error(Code::Inode, Some(root), &error),
        };
        {
            let mut seen = lock(&self.seen);
            seen.inodes.insert(root);
            seen.directories.insert(root);
        }
        self.inode(&inode);
        let listing = Listing::new(Node::root(root), inode);
        pool::run(
            self.context.threads(),
            vec![listing],
            || (),
            |tasks, (), listing| {
                if self.is_over() {
                    tasks.stop();
                } else {
                    self.list(tasks, listing);
                }
            },
        );
    }

    fn link_counts(&self) {
        let seen = lock(&self.seen);
        for (nid, (count, names)) in &seen.links {
            if count != names {
                let text = format!("link count {count}, names found: {names}");
                self.find(Code::LinkCount, Some(*nid), None, text);
            }
        }
        let found = seen.inodes.len();
        let special = |nid: Option<Nid>| u64::from(nid.is_some());
        let superblock = self.image.superblock();
        let all = found + special(superblock.packed) + special(superblock.metabox);
        if superblock.inodes != 0 && superblock.inodes != all {
            let text = format!("superblock says {}, found {all}", superblock.inodes);
            self.find(Code::InodeCount, None, None, text);
        }
    }

    fn finish(self) -> CheckReport {
        let complete = !self.is_over();
        let mut findings = std::mem::take(&mut *lock(&self.findings));
        findings.sort_by_key(|finding| (finding.code, finding.nid, finding.offset));
        if !self.context.cancelled() {
            self.resolve_paths(&mut findings);
        }
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seen = lock(&self.seen);
        CheckReport {
            errors: get(&self.counts[Severity::Error as usize]),
            warnings: get(&self.counts[Severity::Warning as usize]),
            infos: get(&self.counts[Severity::Info as usize]),
            complete,
            inodes: seen.inodes.len(),
            directories: seen.directories.len(),
            extents: get(&self.extents),
            pclusters: get(&self.pclusters),
            decoded_bytes: get(&self.decoded_bytes),
            read_bytes: get(&self.read_bytes),
            findings,
        }
    }

    /// Cancelled, or out of budget.
    fn is_over(&self) -> bool {
        self.exhausted.load(Ordering::Relaxed) || self.context.cancelled()
    }

    /// Takes units of work; `false` when there are none left.
    fn charge(&self, units: u64) -> bool {
        let left = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            Some(left.saturating_sub(units))
        });
        if left.is_ok_and(|left| left > units) {
            return true;
        }
        if !self.exhausted.swap(true, Ordering::Relaxed) {
            let text = "more work than an image of this size should need".to_owned();
            self.find(Code::Budget, None, None, text);
        }
        false
    }

    /// Charges what was decoded to read metadata: inodes in turn from far parts of a compressed
    /// metabox cost a decode each, whatever is cached.
    fn charge_metadata(&self) -> bool {
        let decoded = self.image.metadata_decoded() >> 12;
        let charged = self.metadata_charged.fetch_max(decoded, Ordering::Relaxed);
        decoded <= charged || self.charge(decoded - charged)
    }

    fn find(&self, code: Code, nid: Option<Nid>, offset: Option<u64>, detail: String) {
        self.report(Finding::new(code, nid.map(|nid| nid.0), offset, detail));
    }

    fn report(&self, finding: Finding) {
        self.counts[finding.severity as usize].fetch_add(1, Ordering::Relaxed);
        let mut findings = lock(&self.findings);
        if findings.len() < self.options.findings_max {
            findings.push(finding);
        }
    }

    /// An error of the reader: `code`, unless the error itself says something else.
    fn image_error(&self, code: Code, nid: Option<Nid>, error: &ferrofs_image::Error) {
        use ferrofs_image::Error as E;
        let (code, place) = match error {
            E::Io { offset, .. } => {
                return self.find(Code::DeviceRead, nid, Some(*offset), error.to_string());
            }
            E::Unsupported { place, .. } if code != Code::XattrBody => (Code::Unsupported, *place),
            E::Undecodable { place, .. } => (Code::Undecodable, *place),
            E::Corrupt { place, .. } | E::Unsupported { place, .. } => (code, *place),
            _ => (code, ferrofs_image::Place::default()),
        };
        let offset = place.offset.filter(|_| place.space.is_none() || nid.is_none());
        self.find(code, nid.or(place.nid), offset, error.to_string());
    }

    /// The packed and metabox inodes, which have no name.
    fn special_inode(&self, inode: &Inode) {
        self.inode(inode);
        if inode.nid.in_metabox() {
            let text = "the inode itself lies in the metabox".to_owned();
            self.find(Code::Recursion, Some(inode.nid), None, text);
        }
        match self.image.map(inode) {
            Ok(map) if map.has_fragment() && Some(inode.nid) == self.image.superblock().packed => {
                let text = "the packed inode contains fragments".to_owned();
                self.find(Code::Recursion, Some(inode.nid), None, text);
            }
            // An error was reported with the inode's content.
            _ => {}
        }
    }
}

/// Work that no image of this size needs, unless it was made to take long: units of about one entry,
/// one extent, or 4 KiB decoded.
pub(crate) fn default_budget(image: &Image) -> u64 {
    let devices: u64 = (0..=u16::try_from(image.device_slots().len()).unwrap_or(u16::MAX))
        .filter_map(|device| image.device_size(device))
        .fold(0, u64::saturating_add);
    let metabox = image.superblock().metabox.and_then(|nid| image.inode(nid).ok());
    let metabox = metabox.map_or(0, |inode| inode.size.min(devices.saturating_mul(64)));
    devices.saturating_add(metabox).saturating_mul(4).saturating_add(8 << 20)
}
