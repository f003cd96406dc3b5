// SPDX-License-Identifier: MIT OR Apache-2.0
//! `build`.

use super::digests::PinSeal;
use crate::args::{BuildArgs, ChunkEntriesArg, InodesArg, PlaceArgs, SourceArgs};
use crate::errors::Advice;
use crate::output::{Out, uuid_text};
use crate::progress::Bar;
use crate::{json, size};
use anyhow::Context;
use ferrofs_build::{
    BlobSeal, BlobTarget, BlockBits, BuildOptions, BuildReport, ChunkEntries, Chunks, Compression,
    InodeForm, Method, Target, Uuid, XattrOptions,
};
use ferrofs_format::device::TAG_LEN;
use ferrofs_store::Trace;
use ferrofs_tree::{Exclude, Ownership, Times, Walk, WalkOptions, WalkReport};
use serde::Serialize;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A build that is wanted, for the command itself and for `mkfs.erofs`.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) source: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) blob: Option<PathBuf>,
    pub(crate) walk: WalkOptions,
    pub(crate) options: BuildOptions,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) report: BuildReport,
    pub(crate) walk: WalkReport,
}

impl Job {
    /// Walks the source and builds the image, which calls its blob by a tag and holds a seal of it.
    pub(crate) fn run(
        mut self,
        (tag, seal): (&[u8], Option<&dyn BlobSeal>),
        bar: &mut Bar,
    ) -> anyhow::Result<Built> {
        // The image must not become part of itself, whatever is under its name now.
        self.walk.avoid.push(self.image.clone());
        self.walk.avoid.extend(self.blob.clone());
        let walked = Walk::run(&self.source, &self.walk)?;
        let blob = self.blob.as_deref().map(|path| BlobTarget { path, tag, seal });
        let target = Target { image: &self.image, blob };
        crate::interrupt::watch();
        let report = ferrofs_build::build(&walked.tree, &walked.source, &self.options, target, bar)
            .with_context(|| format!("no image was made of {}", self.source.display()))?;
        bar.finish();
        Ok(Built { report, walk: walked.report })
    }
}

pub(crate) fn run(args: BuildArgs) -> anyhow::Result<u8> {
    let (quiet, as_json) = (args.quiet, args.json);
    let image = args.output.clone();
    let digests = args.digests;
    let job = job(args)?;
    let blob = job.blob.clone();
    // Whoever gets the image by a URL finds the blob beside it, by this name.
    let tag = blob.as_deref().and_then(Path::file_name).map(OsStrExt::as_bytes);
    let tag = tag.unwrap_or_default();
    let tag = if tag.len() <= TAG_LEN {
        tag
    } else {
        eprintln!(
            "ferrofs: the blob's name is longer than {TAG_LEN} bytes, so the image does not have it: \
             who reads it on demand must say where the blob is (--device)"
        );
        b""
    };
    let seal = PinSeal::default();
    let mut bar = Bar::new(quiet || as_json, "walking");
    let built = job.run((tag, digests.then_some(&seal as _)), &mut bar)?;
    drop(bar);
    if let Some(blob) = &blob {
        seal.write_table(blob)?;
    }
    let pin = if digests { Some(super::digests::beside(&image)?.to_string()) } else { None };
    if as_json {
        json::write(&mut Out::new(), &Summary { pin, ..Summary::new(&built, &image) })?;
    } else if !quiet {
        tell(&built, &image)?;
        if let Some(pin) = pin {
            println!("digests {pin}");
        }
    }
    Ok(0)
}

fn job(args: BuildArgs) -> anyhow::Result<Job> {
    let epoch = source_date_epoch()?;
    let block_bits = BlockBits::from_size(args.block_size)
        .with_context(|| format!("no block size: {}", args.block_size))?;
    let compression = match args.compress.as_str() {
        "none" => None,
        text => Some(Compression {
            method: method(text)?,
            pcluster_size: args.pcluster_size.unwrap_or(args.block_size),
            legacy_indexes: args.legacy_indexes,
        }),
    };
    let mut warn = |text| eprintln!("ferrofs: {text}");
    let hints = match &args.hints {
        Some(path) => crate::hints::read(path, args.block_size, &mut warn)?,
        None => Vec::new(),
    };
    let first = match &args.order {
        Some(path) => order(path, args.order_image.as_deref(), &args.order_device)?,
        None => Vec::new(),
    };
    let chunks = args.chunk_size.map(|size| Chunks {
        size,
        entries: match args.chunk_entries {
            ChunkEntriesArg::Auto => ChunkEntries::Auto,
            ChunkEntriesArg::Map => ChunkEntries::Map,
            ChunkEntriesArg::Indexes => ChunkEntries::Indexes,
        },
    });
    let xattrs = (!args.no_xattrs).then(|| XattrOptions {
        shared_above: args.xattr_share_above,
        name_filter: !args.no_xattr_filter,
        prefixes: args.xattr_prefix.iter().map(|prefix| prefix.clone().into_bytes()).collect(),
    });
    let defaults = BuildOptions::default();
    let options = BuildOptions {
        block_bits,
        compression,
        hints,
        first,
        chunks,
        holes_from: defaults.holes_from,
        inline_tails: !args.no_inline_tails,
        inode_form: match args.inodes {
            InodesArg::Auto => InodeForm::Auto,
            InodesArg::Compact => InodeForm::Compact,
            InodesArg::Extended => InodeForm::Extended,
        },
        ignore_mtime: args.ignore_mtime,
        xattrs,
        inode_digest: args.inode_digest.map(String::into_bytes),
        volume_name: args.label.into_bytes(),
        uuid: args.uuid.as_deref().map_or(Ok(Uuid::Auto), uuid)?,
        checksum: !args.no_checksum,
        build_time: args.timestamp.or(epoch),
        workers: args.workers.unwrap_or(defaults.workers),
        memory: args.memory,
        sync: args.sync,
    };
    let mut ownership = if args.all_root { Ownership::all_root() } else { Ownership::default() };
    ownership.force_uid = args.force_uid.or(ownership.force_uid);
    ownership.force_gid = args.force_gid.or(ownership.force_gid);
    (ownership.uid_offset, ownership.gid_offset) = (args.uid_offset, args.gid_offset);
    let walk = WalkOptions {
        exclude: exclude(&args.exclude, &args.exclude_regex)?,
        one_file_system: args.one_file_system,
        xattrs: !args.no_xattrs,
        ownership,
        times: times(args.timestamp, epoch),
        hard_dereference: args.hard_dereference,
        avoid: Vec::new(),
    };
    Ok(Job { source: args.source, image: args.output, blob: args.blob, walk, options })
}

/// Paths of files in the order in which they are to lie: one a line, or those that a trace has read of
/// an image.
fn order(path: &Path, image: Option<&Path>, devices: &[PathBuf]) -> anyhow::Result<Vec<Vec<u8>>> {
    let text = std::fs::read(path).with_context(|| format!("the order in {}", path.display()))?;
    match (Trace::is_trace(&text), image) {
        (true, Some(image)) => {
            let place = PlaceArgs { device: devices.to_vec(), ..PlaceArgs::default() };
            let source = SourceArgs::default();
            return super::trace::order(&super::trace::read(path)?, image, &place, &source);
        }
        (true, None) => {
            return Err(Advice::error(
                format!("{} is a trace, which knows no paths", path.display()),
                "name the image on which it was recorded, too: --order-image IMAGE",
            ));
        }
        (false, Some(_)) => {
            return Err(Advice::error(
                format!("{} is no trace", path.display()),
                "--order-image is for traces; a list of paths needs none",
            ));
        }
        (false, None) => {}
    }
    let lines = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(<[u8]>::to_vec).collect())
}

/// A codec by its name.
pub(crate) fn method(text: &str) -> anyhow::Result<Method> {
    Method::parse(text).map_err(|error| {
        Advice::error(
            format!("compression method `{text}`: {error}"),
            "methods are lz4, lz4hc[,LEVEL], zstd[,LEVEL], deflate[,LEVEL], lzma[,LEVEL]",
        )
    })
}

/// Modification times: one for all, or those behind the epoch become it.
pub(crate) const fn times(all: Option<i64>, epoch: Option<i64>) -> Times {
    match (all, epoch) {
        (Some(all), _) => Times::All(all),
        (None, Some(epoch)) => Times::Clamp(epoch),
        (None, None) => Times::Keep,
    }
}

/// What to leave out.
pub(crate) fn exclude(paths: &[PathBuf], patterns: &[String]) -> anyhow::Result<Exclude> {
    let mut exclude = Exclude::default();
    for path in paths {
        exclude.path(path.as_os_str().as_bytes());
    }
    for pattern in patterns {
        exclude.regex(pattern).with_context(|| format!("pattern `{pattern}`"))?;
    }
    Ok(exclude)
}

/// SOURCE_DATE_EPOCH of the environment.
pub(crate) fn source_date_epoch() -> anyhow::Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok());
    let bad =
        || anyhow::anyhow!("SOURCE_DATE_EPOCH is not a number of seconds: {}", text.display());
    seconds.ok_or_else(bad).map(Some)
}

/// A UUID by its words or digits.
pub(crate) fn uuid(text: &str) -> anyhow::Result<Uuid> {
    Ok(match text {
        "random" => Uuid::Random,
        "content" => Uuid::Content,
        "clear" => Uuid::Clear,
        _ => Uuid::Given(uuid_digits(text).ok_or_else(|| {
            Advice::error(
                format!("`{text}` is not a UUID"),
                "give 32 hexadecimal digits with dashes, or random, content or clear",
            )
        })?),
    })
}

fn uuid_digits(text: &str) -> Option<[u8; 16]> {
    let mut uuid = [0; 16];
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    if lengths != [8, 4, 4, 4, 12] && lengths != [32] {
        return None;
    }
    let digits = groups.concat();
    let nibble = |byte: u8| char::from(byte).to_digit(16);
    for (byte, pair) in uuid.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4 | nibble(pair[1])?) as u8;
    }
    Some(uuid)
}

/// For people, on the standard output.
fn tell(built: &Built, image: &Path) -> std::io::Result<()> {
    let Built { report, walk } = built;
    let mut out = Out::new();
    write!(out, "{}: {}", image.display(), size::show(report.image_bytes))?;
    if report.blob_bytes > 0 {
        write!(out, " and a blob of {}", size::show(report.blob_bytes))?;
    }
    write!(out, " for {} of files", size::show(report.input_bytes))?;
    if report.input_bytes > 0 {
        let ratio = (report.image_bytes + report.blob_bytes) as f64 / report.input_bytes as f64;
        write!(out, " ({:.1} %)", ratio * 100.0)?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "{} files, {} directories, {} symbolic links, {} special; UUID {}",
        report.files,
        report.directories,
        report.symlinks,
        report.special,
        uuid_text(&report.uuid)
    )?;
    let seconds = report.plan_time + report.data_time + report.metadata_time + report.finish_time;
    writeln!(
        out,
        "data {}, metadata {}, holes {}, equal chunks {}; {:.2} s",
        size::show(report.data_bytes),
        size::show(report.metadata_bytes),
        size::show(report.hole_bytes),
        size::show(report.deduplicated_bytes),
        seconds.as_secs_f64()
    )?;
    if report.first_missing > 0 {
        writeln!(out, "{} paths of the order do not exist", report.first_missing)?;
    }
    if walk.excluded > 0 {
        writeln!(out, "{} entries were excluded", walk.excluded)?;
    }
    out.flush()?;
    tell_omitted(walk);
    Ok(())
}

/// What a user may not have expected to be left out.
pub(crate) fn tell_omitted(walk: &WalkReport) {
    for path in &walk.avoided {
        eprintln!("left out: {} (it is the image or blob being built)", path.display());
    }
    for path in &walk.other_file_systems {
        eprintln!("left empty: {} (another file system)", path.display());
    }
}

/// As JSON.
#[derive(Serialize)]
struct Summary {
    image: String,
    image_bytes: u64,
    blob_bytes: u64,
    input_bytes: u64,
    data_bytes: u64,
    metadata_bytes: u64,
    inline_bytes: u64,
    hole_bytes: u64,
    deduplicated_bytes: u64,
    inodes: u64,
    files: u64,
    directories: u64,
    symlinks: u64,
    special: u64,
    hard_links: u64,
    compact_inodes: u64,
    compressed_files: u64,
    compressed_input: u64,
    compressed_output: u64,
    chunk_files: u64,
    shared_xattrs: u64,
    first_missing: u64,
    excluded: u64,
    avoided: Vec<String>,
    other_file_systems: Vec<String>,
    uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pin: Option<String>,
    seconds: Seconds,
}

#[derive(Serialize)]
struct Seconds {
    plan: f64,
    data: f64,
    metadata: f64,
    finish: f64,
}

impl Summary {
    fn new(built: &Built, image: &Path) -> Self {
        let Built { report, walk } = built;
        let text = |path: &PathBuf| crate::output::shown(path.as_os_str().as_bytes());
        Self {
            image: text(&image.to_owned()),
            image_bytes: report.image_bytes,
            blob_bytes: report.blob_bytes,
            input_bytes: report.input_bytes,
            data_bytes: report.data_bytes,
            metadata_bytes: report.metadata_bytes,
            inline_bytes: report.inline_bytes,
            hole_bytes: report.hole_bytes,
            deduplicated_bytes: report.deduplicated_bytes,
            inodes: report.inodes,
            files: report.files,
            directories: report.directories,
            symlinks: report.symlinks,
            special: report.special,
            hard_links: report.hard_links,
            compact_inodes: report.compact_inodes,
            compressed_files: report.compressed_files,
            compressed_input: report.compressed_input,
            compressed_output: report.compressed_output,
            chunk_files: report.chunk_files,
            shared_xattrs: report.shared_xattrs,
            first_missing: report.first_missing,
            excluded: walk.excluded,
            avoided: walk.avoided.iter().map(text).collect(),
            other_file_systems: walk.other_file_systems.iter().map(text).collect(),
            uuid: uuid_text(&report.uuid),
            pin: None,
            seconds: Seconds {
                plan: report.plan_time.as_secs_f64(),
                data: report.data_time.as_secs_f64(),
                metadata: report.metadata_time.as_secs_f64(),
                finish: report.finish_time.as_secs_f64(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids() {
        let text = "12345678-9abc-def0-1122-334455667788";
        let Uuid::Given(bytes) = uuid(text).unwrap() else { panic!("a UUID") };
        assert_eq!(uuid_text(&bytes), text);
        assert!(matches!(uuid("clear").unwrap(), Uuid::Clear));
        for bad in [
            "",
            "1",
            "1234567-89abc-def0-1122-334455667788",
            "g2345678-9abc-def0-1122-334455667788",
        ] {
            assert!(uuid(bad).is_err(), "{bad}");
        }
    }
}
