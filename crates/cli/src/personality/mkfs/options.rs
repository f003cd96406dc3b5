// SPDX-License-Identifier: MIT OR Apache-2.0
//! The options of `mkfs.erofs` and what they mean for a build.

use crate::commands::build::{self, Job};
use crate::personality::getopt::{Item, Spec, Value, dashed, number, text};
use crate::personality::{Tool, unsupported, usage};
use crate::{hints, size};
use ferrofs_build::{
    BlockBits, BuildOptions, ChunkEntries, Chunks, Compression, InodeForm, XattrOptions,
};
use ferrofs_tree::{Ownership, WalkOptions};
use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// All options of erofs-utils 1.9.3.
pub(super) const SPECS: &[Spec] = &[
    ("b", Value::Required),
    ("d", Value::Required),
    ("x", Value::Required),
    ("z", Value::Required),
    ("C", Value::Required),
    ("E", Value::Required),
    ("L", Value::Required),
    ("m", Value::Required),
    ("T", Value::Required),
    ("U", Value::Required),
    ("V", Value::None),
    ("h", Value::None),
    ("version", Value::None),
    ("help", Value::None),
    ("all-root", Value::None),
    ("all-time", Value::None),
    ("async-queue-limit", Value::Required),
    ("aufs", Value::None),
    ("blobdev", Value::Required),
    ("block-list-file", Value::Required),
    ("chunksize", Value::Required),
    ("clean", Value::Optional),
    ("compress-hints", Value::Required),
    ("dsunit", Value::Required),
    ("exclude-path", Value::Required),
    ("exclude-regex", Value::Required),
    ("file-contexts", Value::Required),
    ("force-gid", Value::Required),
    ("force-uid", Value::Required),
    ("fs-config-file", Value::Required),
    ("fsalignblks", Value::Required),
    ("gid-offset", Value::Required),
    ("gzinfo", Value::Optional),
    ("gzip", Value::Optional),
    ("hard-dereference", Value::None),
    ("ignore-mtime", Value::None),
    ("incremental", Value::Optional),
    ("max-extent-bytes", Value::Required),
    ("mkfs-time", Value::None),
    ("mount-point", Value::Required),
    ("MZ", Value::Optional),
    ("oci", Value::Optional),
    ("offset", Value::Required),
    ("ovlfs-strip", Value::Optional),
    ("preserve-mtime", Value::None),
    ("product-out", Value::Required),
    ("quiet", Value::None),
    ("random-algorithms", Value::None),
    ("random-pclusterblks", Value::None),
    ("root-xattr-isize", Value::Required),
    ("s3", Value::Required),
    ("sort", Value::Required),
    ("tar", Value::Optional),
    ("uid-offset", Value::Required),
    ("ungzip", Value::Optional),
    ("unlzma", Value::Optional),
    ("unxz", Value::Optional),
    ("vmdk-desc", Value::Required),
    ("workers", Value::Required),
    ("xattr-inode-digest", Value::Optional),
    ("xattr-prefix", Value::Required),
    ("zD", Value::Optional),
    ("zfeature-bits", Value::Required),
];

/// What a command line asks for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) job: Job,
    /// 0 prints nothing.
    pub(super) verbosity: i64,
}

/// What is gathered word by word.
struct Parsed {
    block_size: u32,
    verbosity: i64,
    method: Option<String>,
    pcluster_size: Option<u32>,
    legacy: bool,
    chunk_size: Option<u32>,
    chunk_entries: ChunkEntries,
    blob: Option<PathBuf>,
    hints: Option<PathBuf>,
    timestamp: Option<i64>,
    files_too: bool,
    ownership: Ownership,
    exclude_paths: Vec<PathBuf>,
    exclude_patterns: Vec<String>,
    hard_dereference: bool,
    xattrs: Option<XattrOptions>,
    options: BuildOptions,
    operands: Vec<PathBuf>,
}

impl Request {
    pub(super) fn new(items: &[Item]) -> anyhow::Result<Self> {
        let mut parsed = Parsed {
            block_size: BlockBits::DEFAULT.size(),
            verbosity: 2,
            method: None,
            pcluster_size: None,
            legacy: false,
            chunk_size: None,
            chunk_entries: ChunkEntries::Auto,
            blob: None,
            hints: None,
            timestamp: None,
            files_too: true,
            ownership: Ownership::default(),
            exclude_paths: Vec::new(),
            exclude_patterns: Vec::new(),
            hard_dereference: false,
            xattrs: Some(XattrOptions::default()),
            options: BuildOptions::default(),
            operands: Vec::new(),
        };
        let mut prefixes = Vec::new();
        for item in items {
            match item {
                Item::Operand(word) => parsed.operands.push(word.into()),
                Item::Option("xattr-prefix", value) => {
                    prefixes.push(value.as_deref().unwrap_or_default().as_bytes().to_vec());
                }
                Item::Option(name, value) => parsed.option(name, value.as_deref())?,
            }
        }
        if let Some(xattrs) = &mut parsed.xattrs {
            xattrs.prefixes = prefixes;
        }
        parsed.finish()
    }
}

impl Parsed {
    fn option(&mut self, name: &'static str, value: Option<&OsStr>) -> anyhow::Result<()> {
        let bad = |message: String| usage(Tool::Mkfs, message);
        let as_text = || text(name, value).map_err(bad);
        let as_number = || number(name, value).map_err(bad);
        let as_size = || {
            size::parse_u32(as_text()?).map_err(|error| bad(format!("{}: {error}", dashed(name))))
        };
        let as_id = || {
            u32::try_from(as_number()?).map_err(|_| bad(format!("{}: out of range", dashed(name))))
        };
        let path = || PathBuf::from(value.unwrap_or_default());
        // These three say that something is off.
        let off = value.is_some_and(|value| value == "0");
        match name {
            "b" => self.block_size = as_size()?,
            "d" => self.verbosity = as_number()?,
            "quiet" => self.verbosity = 0,
            "x" => match as_number()? {
                tolerance @ 0.. => {
                    let xattrs = self.xattrs.get_or_insert_default();
                    xattrs.shared_above = tolerance as u64;
                }
                _ => self.xattrs = None,
            },
            "z" => self.method = Some(as_text()?.to_owned()),
            "C" => self.pcluster_size = Some(as_size()?),
            "E" => {
                for part in as_text()?.split(',').filter(|part| !part.is_empty()) {
                    self.extended(part)?;
                }
            }
            "L" => self.options.volume_name = value.unwrap_or_default().as_bytes().to_vec(),
            "T" => self.timestamp = Some(as_number()?),
            "all-time" => self.files_too = true,
            "mkfs-time" => self.files_too = false,
            "U" => self.options.uuid = build::uuid(as_text()?)?,
            "all-root" => {
                (self.ownership.force_uid, self.ownership.force_gid) = (Some(0), Some(0));
            }
            "force-uid" => self.ownership.force_uid = Some(as_id()?),
            "force-gid" => self.ownership.force_gid = Some(as_id()?),
            "uid-offset" => self.ownership.uid_offset = as_number()?,
            "gid-offset" => self.ownership.gid_offset = as_number()?,
            "workers" => {
                // 0 asks for no threads besides the main one.
                let workers = usize::try_from(as_number()?.max(1)).unwrap_or(1);
                self.options.workers = NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN);
            }
            "blobdev" => self.blob = Some(path()),
            "chunksize" => self.chunk_size = Some(as_size()?),
            "compress-hints" => self.hints = Some(path()),
            "exclude-path" => self.exclude_paths.push(path()),
            "exclude-regex" => self.exclude_patterns.push(as_text()?.to_owned()),
            "hard-dereference" => self.hard_dereference = true,
            "xattr-inode-digest" => {
                let name = value.map_or(BuildOptions::DIGEST_NAME, OsStr::as_bytes);
                self.options.inode_digest = Some(name.to_vec());
            }
            "ignore-mtime" => self.options.ignore_mtime = true,
            "preserve-mtime" => self.options.ignore_mtime = false,
            "zfeature-bits" => match as_number()? {
                0 => {}
                1 => self.legacy = true,
                _ => return Err(unsupported("--zfeature-bits above 1")),
            },
            // Queues have a limit by memory; the mount point is for labels, which are refused.
            "async-queue-limit" | "mount-point" => {}
            "clean" if value.is_none_or(|value| value == "data") => {}
            "zD" | "MZ" | "ovlfs-strip" | "offset" if off => {}
            other => return Err(unsupported(&dashed(other))),
        }
        Ok(())
    }

    /// One of the extended options of `-E`.
    fn extended(&mut self, part: &str) -> anyhow::Result<()> {
        let (on, name) = match part.strip_prefix('^') {
            Some(name) => (false, name),
            None => (true, part),
        };
        let base = name.split('=').next().unwrap_or(name);
        match base {
            "legacy-compress" => self.legacy = on,
            "force-inode-compact" if on => self.options.inode_form = InodeForm::Compact,
            "force-inode-extended" if on => self.options.inode_form = InodeForm::Extended,
            "force-inode-compact" | "force-inode-extended" => {
                self.options.inode_form = InodeForm::Auto;
            }
            "force-inode-blockmap" if on => self.chunk_entries = ChunkEntries::Map,
            "force-chunk-indexes" if on => self.chunk_entries = ChunkEntries::Indexes,
            "force-inode-blockmap" | "force-chunk-indexes" => {
                self.chunk_entries = ChunkEntries::Auto;
            }
            "inline_data" => self.options.inline_tails = on,
            "noinline_data" => self.options.inline_tails = !on,
            "nosbcrc" => self.options.checksum = !on,
            "xattr-name-filter" => {
                if let Some(xattrs) = &mut self.xattrs {
                    xattrs.name_filter = on;
                }
            }
            // Without a packed or metabox inode there is no other place for them.
            "plain-xattr-prefixes" => {}
            "48bit" | "dot-omitted" | "ztailpacking" | "fragments" | "all-fragments"
            | "fragdedupe" | "dedupe" => {
                if on {
                    return Err(unsupported(&format!("-E {base}")));
                }
            }
            _ => return Err(usage(Tool::Mkfs, format!("unknown extended option `{part}`"))),
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Request> {
        let Ok([image, source]) = <[PathBuf; 2]>::try_from(self.operands.clone()) else {
            return Err(match self.operands.len() {
                0 => usage(Tool::Mkfs, "missing argument: IMAGE"),
                1 => usage(Tool::Mkfs, "missing argument: SOURCE"),
                _ => unsupported("merging several sources"),
            });
        };
        if source.is_file() {
            return Err(unsupported("a source that is not a directory"));
        }
        let block_bits = BlockBits::from_size(self.block_size)
            .map_err(|_| usage(Tool::Mkfs, format!("no block size: {}", self.block_size)))?;
        let compression = match self.method.as_deref() {
            None => None,
            Some(text) if text.contains(':') => {
                return Err(unsupported("-z with several compressors"));
            }
            Some(text) => Some(Compression {
                method: build::method(text)?,
                pcluster_size: self.pcluster_size.unwrap_or(self.block_size),
                legacy_indexes: self.legacy,
            }),
        };
        let mut warn = |text| eprintln!("mkfs.erofs: {text}");
        let hints = match &self.hints {
            Some(path) => hints::read(path, self.block_size, &mut warn)?,
            None => Vec::new(),
        };
        let epoch = build::source_date_epoch()?;
        let all = self.timestamp.filter(|_| self.files_too);
        let xattrs = self.xattrs.is_some();
        let options = BuildOptions {
            block_bits,
            compression,
            hints,
            chunks: self.chunk_size.map(|size| Chunks { size, entries: self.chunk_entries }),
            xattrs: self.xattrs,
            build_time: self.timestamp.or(epoch),
            ..self.options
        };
        let walk = WalkOptions {
            exclude: build::exclude(&self.exclude_paths, &self.exclude_patterns)?,
            one_file_system: false,
            xattrs,
            ownership: self.ownership,
            times: build::times(all, epoch),
            hard_dereference: self.hard_dereference,
            avoid: Vec::new(),
        };
        let job = Job { source, image, blob: self.blob, walk, options };
        Ok(Request { job, verbosity: self.verbosity })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::personality::getopt;
    use ferrofs_build::Uuid;
    use std::ffi::OsString;

    fn request(text: &str) -> anyhow::Result<Request> {
        let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        Request::new(&getopt::parse(SPECS, &words).unwrap())
    }

    #[test]
    fn options_reach_the_build() {
        let request = request(
            "-zlz4hc,9 -C65536 out.erofs -E legacy-compress,^inline_data,nosbcrc -x1 -T0 -b4096 \
             --all-root --workers=3 -U clear -Lname --xattr-prefix=user.a. / --quiet -d5",
        )
        .unwrap();
        let options = &request.job.options;
        let compression = options.compression.unwrap();
        assert_eq!(compression.pcluster_size, 65536);
        assert!(compression.legacy_indexes && !options.inline_tails && !options.checksum);
        assert_eq!(options.xattrs.as_ref().unwrap().shared_above, 1);
        assert_eq!(options.xattrs.as_ref().unwrap().prefixes, [b"user.a."]);
        assert_eq!((options.build_time, options.workers.get()), (Some(0), 3));
        assert_eq!(options.volume_name, b"name");
        assert!(matches!(options.uuid, Uuid::Clear));
        assert_eq!(request.job.walk.ownership.force_uid, Some(0));
        assert!(matches!(request.job.walk.times, ferrofs_tree::Times::All(0)));
        assert_eq!(request.verbosity, 5);
        assert_eq!(request.job.image, PathBuf::from("out.erofs"));
    }

    #[test]
    fn digests_have_a_usual_name() {
        let name = |word: &str| {
            let request = request(&format!("{word} out {}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            String::from_utf8(request.job.options.inode_digest.unwrap()).unwrap()
        };
        assert_eq!(name("--xattr-inode-digest"), "erofs.fingerprint.v1");
        assert_eq!(name("--xattr-inode-digest=user.d"), "user.d");
    }

    #[test]
    fn no_option_is_dropped() {
        // Every option either works, or is refused by name.
        let harmless = ["V", "h", "version", "help"];
        for (name, value) in SPECS.iter().filter(|(name, _)| !harmless.contains(name)) {
            let value = match value {
                Value::None | Value::Optional => String::new(),
                Value::Required if name.len() == 1 => String::from("1"),
                Value::Required => String::from("=1"),
            };
            let text = format!("{}{value} img /", dashed(name));
            if let Err(error) = request(&text) {
                let error = format!("{error:#}");
                assert!(
                    error.contains(&dashed(name)) || error.contains('1'),
                    "{text}: the message names it: {error}"
                );
            }
        }
        for refused in ["--tar", "--oci", "--aufs", "-m4096", "-Efragments", "-zlz4:zstd"] {
            let error = request(&format!("{refused} img /")).unwrap_err();
            assert!(error.to_string().contains("not supported yet"), "{refused}: {error}");
        }
        for bad in ["-Ebogus", "-zunknownalg", "-b1000", "-Txyz", "--force-uid=-1"] {
            assert!(request(&format!("{bad} img /")).is_err(), "{bad}");
        }
        for bad in ["", "img", "img a b"] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_off_is_no_error() {
        for text in ["-E^fragments,^dedupe", "--zD=0", "--MZ=0", "--clean", "--clean=data", "-x-1"]
        {
            request(&format!("{text} img /")).unwrap();
        }
    }
}
