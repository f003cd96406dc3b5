// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole builds: random trees parsed back by [`read`], which knows the format crate's parsers and
//! nothing of how an image is made; and a mount by the kernel.

mod kernel;
mod model;
mod read;

use core::num::NonZeroUsize;
use std::path::Path;

use ferrofs_codec::Method;
use ferrofs_format::BlockBits;
use proptest::prelude::*;

use crate::{
    BlobTarget, BuildOptions, BuildReport, ChunkEntries, Chunks, Compression, Done, Error,
    InodeForm, PclusterHint, Phase, Progress, Regex, Silent, Target, Uuid, XattrOptions, build,
};
use model::{Dice, Model};

/// Builds into a directory of its own; gives the image's and the blob's bytes.
fn make(model: &Model, options: &BuildOptions, blob: bool) -> (Vec<u8>, Vec<u8>, BuildReport) {
    let directory = tempfile::tempdir().unwrap();
    let (image, blob_path) = (directory.path().join("image"), directory.path().join("blob"));
    let target = Target { image: &image, blob: blob.then_some(BlobTarget::new(&blob_path)) };
    let (tree, source) = model.tree();
    let report = build(&tree, &source, options, target, &mut Silent).unwrap();
    let read = |path: &Path| if path.exists() { std::fs::read(path).unwrap() } else { Vec::new() };
    (read(&image), read(&blob_path), report)
}

fn random_options(dice: &mut Dice) -> (BuildOptions, bool) {
    let bits = BlockBits::new(9 + dice.below(8) as u8).unwrap();
    let mut options = BuildOptions {
        block_bits: bits,
        inline_tails: dice.below(4) > 0,
        checksum: dice.below(4) > 0,
        ignore_mtime: dice.below(4) == 0,
        uuid: if dice.below(2) == 0 { Uuid::Content } else { Uuid::Given([7; 16]) },
        volume_name: b"volume"[..dice.below(7) as usize].to_vec(),
        workers: NonZeroUsize::new(1 + dice.below(3) as usize).unwrap(),
        ..BuildOptions::default()
    };
    if dice.below(3) == 0 {
        options.inode_form = InodeForm::Extended;
    }
    if dice.below(3) == 0 {
        options.build_time = Some(1_700_000_000);
    }
    if dice.below(2) == 0 {
        let names: [&[u8]; 4] =
            [BuildOptions::DIGEST_NAME, b"trusted.digest", b"user.b", b"user.long.a"];
        options.inode_digest = Some(names[dice.below(4) as usize].to_vec());
    }
    options.xattrs = match dice.below(8) {
        0 => None,
        n => Some(XattrOptions {
            shared_above: n % 3,
            name_filter: n % 2 == 0,
            prefixes: if n > 4 {
                vec![b"user.long.".to_vec(), b"trusted.".to_vec()]
            } else {
                vec![]
            },
        }),
    };
    let blob = match dice.below(3) {
        0 => {
            let entries = [ChunkEntries::Auto, ChunkEntries::Map, ChunkEntries::Indexes];
            options.chunks = Some(Chunks {
                size: bits.size() << dice.below(3),
                entries: entries[dice.below(3) as usize],
            });
            dice.below(2) == 0
        }
        1 => {
            let methods = [
                Method::Lz4,
                Method::Lz4Hc { level: 3 },
                Method::Zstd { level: 1, window_log: None },
                Method::Deflate { level: 1 },
                Method::Lzma { level: 0, extreme: false, dict_size: None },
            ];
            options.compression = Some(Compression {
                method: methods[dice.below(5) as usize],
                pcluster_size: bits.size() * (1 + dice.below(16) as u32),
                legacy_indexes: dice.below(2) == 0,
            });
            for pattern in ["[0-4]$", "a"] {
                options.hints.push(PclusterHint {
                    pattern: Regex::new(pattern).unwrap(),
                    pcluster_size: bits.size() * dice.below(17) as u32,
                });
            }
            false
        }
        _ => false,
    };
    (options, blob)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn what_is_built_is_what_was_there(seed: u64) {
        let mut dice = Dice::new(seed);
        let (mut options, blob) = random_options(&mut dice);
        let model = Model::random(&mut dice);
        options.first = model.paths.keys().filter(|_| dice.below(8) == 0).cloned().collect();
        options.first.reverse();
        let (image, blob_bytes, report) = make(&model, &options, blob);
        let back = read::Image::open(&image, &blob_bytes).model();
        model.assert_same(&back, &options);
        prop_assert_eq!(report.image_bytes, image.len() as u64);
        prop_assert_eq!(report.files + report.directories + report.symlinks + report.special,
            report.inodes);
        options.workers = NonZeroUsize::new(4).unwrap();
        options.memory = 1;
        let (again, again_blob, _) = make(&model, &options, blob);
        prop_assert!(image == again && blob_bytes == again_blob, "workers and memory show");
    }
}

#[test]
fn what_is_to_come_first_does() {
    let mut model = Model::default();
    let content = |index: u8| [&[index; 4096][..], &[index + 100; 4096]].concat();
    for index in 0..9 {
        model.file(&format!("f{index}"), content(index));
    }
    let first = ["f7", "no/such", "/f2"].map(|path| path.as_bytes().to_vec()).to_vec();
    let options = BuildOptions { first, uuid: Uuid::Clear, ..BuildOptions::default() };
    let (image, _, report) = make(&model, &options, false);
    assert_eq!(report.first_missing, 1);
    let place = |index| image.windows(8192).step_by(4096).position(|part| part == content(index));
    let places: Vec<usize> = [7, 2, 0, 1, 3, 8].map(|index| place(index).unwrap()).to_vec();
    assert!(places.is_sorted(), "{places:?}");
    model.assert_same(&read::Image::open(&image, &[]).model(), &options);
}

/// Whoever reads on demand takes them at once (ARCHITECTURE.md, 4).
#[test]
fn directories_are_one_run() {
    let mut model = Model::default();
    for directory in 0..40 {
        model.directory(&format!("d{directory}"));
        for file in 0..30 * directory {
            let content = vec![file as u8; if file % 3 == 0 { 3000 } else { 0 }];
            model.file(&format!("d{directory}/the file of the number {file}"), content);
        }
    }
    let options = BuildOptions { uuid: Uuid::Clear, ..BuildOptions::default() };
    let (image, _, _) = make(&model, &options, false);
    let read = read::Image::open(&image, &[]);
    model.assert_same(&read.model(), &options);
    let blocks = read.directory_blocks();
    // But the root, which lies in front.
    let run: Vec<u64> = blocks.into_iter().filter(|block| *block > 0).collect();
    let (first, last) = (run[0], run[run.len() - 1]);
    assert!(run.len() > 200 && last - first < run.len() as u64 + 2, "{run:?}");
}

#[test]
fn large_files_are_cut_and_come_back() {
    let mut dice = Dice::new(5);
    let mut model = Model::default();
    model.file("text", dice.bytes(20 << 20, 3));
    model.file("noise", dice.bytes(17 << 20, 256));
    model.file("zeros", vec![0; 40 << 20]);
    let compression =
        |method, pcluster_size| Some(Compression { method, pcluster_size, legacy_indexes: false });
    let chunks = |size| Some(Chunks { size, entries: ChunkEntries::Auto });
    let plain = BuildOptions { uuid: Uuid::Clear, ..BuildOptions::default() };
    let cases = [
        plain.clone(),
        BuildOptions { compression: compression(Method::Lz4, 4096), ..plain.clone() },
        BuildOptions { compression: compression(Method::Lz4, 1 << 20), ..plain.clone() },
        BuildOptions { chunks: chunks(4096), ..plain.clone() },
        BuildOptions { chunks: chunks(32 << 20), ..plain },
    ];
    for options in cases {
        let inode_digest = Some(BuildOptions::DIGEST_NAME.to_vec());
        let options = BuildOptions { inode_digest, ..options };
        let (image, _, _) = make(&model, &options, false);
        model.assert_same(&read::Image::open(&image, &[]).model(), &options);
        let one = BuildOptions { workers: NonZeroUsize::MIN, ..options };
        assert!(make(&model, &one, false).0 == image, "workers show");
    }
}

#[test]
fn equal_chunks_are_stored_once() {
    let mut dice = Dice::new(1);
    let content = dice.bytes(64 << 10, 256);
    let mut model = Model::default();
    model.file("a", content.clone());
    model.file("b", [&content[4096..], &content[..4096], &[0; 8192]].concat());
    let chunks = Some(Chunks { size: 4096, entries: ChunkEntries::Auto });
    let options = BuildOptions { chunks, ..BuildOptions::default() };
    let (_, blob, report) = make(&model, &options, true);
    assert_eq!(blob.len(), 64 << 10);
    assert_eq!((report.deduplicated_bytes, report.hole_bytes), (64 << 10, 8192));
}

#[test]
fn the_epoch_makes_most_inodes_small() {
    let mut model = Model::default();
    for name in ["a", "b", "c"] {
        model.file(name, vec![1]);
    }
    let (_, _, report) = make(&model, &BuildOptions::default(), false);
    assert_eq!((report.inodes, report.compact_inodes), (4, 4));
    let late = BuildOptions { build_time: Some(i64::from(u32::MAX)), ..BuildOptions::default() };
    assert_eq!(make(&model, &late, false).2.compact_inodes, 0);
}

#[test]
fn a_failing_build_leaves_everything_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    std::fs::write(&image, b"precious").unwrap();
    let mut model = Model::default();
    model.file("good", vec![1; 10]);
    model.file("bad", vec![2; 10]);
    let (tree, mut source) = model.tree();
    source.fail = true;
    let target = Target { image: &image, blob: None };
    let result = build(&tree, &source, &BuildOptions::default(), target, &mut Silent);
    assert!(matches!(result, Err(Error::Source(_))), "{result:?}");
    assert_eq!(std::fs::read(&image).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn impossible_options_are_refused_before_anything_is_touched() {
    let compression = |pcluster_size| {
        Some(Compression { method: Method::Lz4, pcluster_size, legacy_indexes: false })
    };
    let hint = PclusterHint { pattern: Regex::new(".").unwrap(), pcluster_size: 5000 };
    let chunks = |size| Some(Chunks { size, entries: ChunkEntries::Auto });
    let plain = BuildOptions::default();
    let small = BlockBits::new(9).unwrap();
    let long = XattrOptions { prefixes: vec![vec![b'p'; 256]], ..XattrOptions::default() };
    let bad = [
        BuildOptions { compression: compression(5000), ..plain.clone() },
        BuildOptions { compression: compression(2 << 20), ..plain.clone() },
        BuildOptions { compression: compression(1 << 20), block_bits: small, ..plain.clone() },
        BuildOptions { compression: compression(4096), chunks: chunks(4096), ..plain.clone() },
        BuildOptions { compression: compression(4096), hints: vec![hint], ..plain.clone() },
        BuildOptions { chunks: chunks(12288), ..plain.clone() },
        BuildOptions { chunks: chunks(2048), ..plain.clone() },
        BuildOptions { volume_name: vec![b'v'; 16], ..plain.clone() },
        BuildOptions { xattrs: Some(long), ..plain },
    ];
    let (tree, source) = Model::default().tree();
    for options in bad {
        let target = Target { image: Path::new("/nonexistent/image"), blob: None };
        let result = build(&tree, &source, &options, target, &mut Silent);
        assert!(matches!(result, Err(Error::Options(_))), "{result:?}");
    }
}

#[test]
fn progress_ends_where_it_said() {
    #[derive(Default)]
    struct Log(Vec<Phase>, crate::Done);
    impl Progress for Log {
        fn phase(&mut self, phase: Phase) {
            self.0.push(phase);
        }
        fn advance(&mut self, done: crate::Done) {
            self.1 = done;
        }
    }
    let model = Model::random(&mut Dice::new(3));
    let (tree, source) = model.tree();
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    let target = Target { image: &image, blob: None };
    let mut log = Log::default();
    build(&tree, &source, &BuildOptions::default(), target, &mut log).unwrap();
    assert_eq!(log.0, [Phase::Plan, Phase::Data, Phase::Metadata, Phase::Finish]);
    assert_eq!((log.1.bytes, log.1.files), (log.1.bytes_total, log.1.files_total));
    assert!(log.1.files > 0);
}

/// Says that it is enough after the first data.
#[derive(Default)]
struct Enough(bool);

impl Progress for Enough {
    fn advance(&mut self, _: Done) {
        self.0 = true;
    }

    fn is_cancelled(&self) -> bool {
        self.0
    }
}

#[test]
fn a_cancelled_build_leaves_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("image");
    std::fs::write(&image, b"precious").unwrap();
    let mut model = Model::default();
    for index in 0..40 {
        model.file(&format!("f{index}"), vec![index; 1 << 20]);
    }
    let (tree, source) = model.tree();
    let target = Target { image: &image, blob: None };
    let options = BuildOptions::default();
    let result = build(&tree, &source, &options, target, &mut Enough::default());
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    assert_eq!(std::fs::read(&image).unwrap(), b"precious");
    assert_eq!(directory.path().read_dir().unwrap().count(), 1);
}
