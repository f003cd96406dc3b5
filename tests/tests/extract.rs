// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extraction: golden images come back as their manifests say, and hostile ones stay inside.

use ferrofs_check::{
    CheckOptions, Context, ExtractOptions, ExtractReport, ProblemKind, Progress, check, extract,
};
use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::format::chunk::{Chunk, ChunkFormat};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Nid, OpenOptions};
use ferrofs_tests::craft::{Craft, text};
use ferrofs_tests::everything::everything;
use ferrofs_tests::golden::Golden;
use ferrofs_tests::manifest::Manifest;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

fn open(golden: &Golden, name: &str) -> Arc<Image> {
    let options = golden
        .devices(name)
        .into_iter()
        .fold(OpenOptions::new(), |options, device| options.device(File::open(device).unwrap()));
    Arc::new(options.open(File::open(golden.image(name)).unwrap()).unwrap())
}

fn run(
    image: &Arc<Image>,
    target: &Path,
    options: &ExtractOptions,
    workers: usize,
) -> ExtractReport {
    let engine = Engine::new(Arc::clone(image), EngineConfig::default());
    let context = Context { workers, ..Context::default() };
    extract(&engine, target, options, context).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Golden images come back as their manifests say: every third of them, so that tests run side by
/// side, with so many threads.
fn golden_images_come_back(turn: usize, workers: usize) {
    if !is_root() {
        return println!("skipped: owners and device nodes need root");
    }
    let golden = Golden::unpack();
    let mut failures = vec![];
    // All of them stay until the end: ext4 makes inodes slowly right after many were deleted.
    let folder = tempfile::tempdir().unwrap();
    for name in golden.names().into_iter().skip(turn).step_by(3) {
        let target = folder.path().join(&name);
        let report = run(&open(&golden, &name), &target, &ExtractOptions::default(), workers);
        failures.extend(report.problems.iter().take(5).map(|p| format!("{name}: {p:?}")));
        assert_eq!(report.is_clean(), report.problems.is_empty());
        let lines = match Manifest::of_directory(&target) {
            Ok(found) => golden.manifest(&name).differences(&found),
            Err(error) => vec![error.to_string()],
        };
        failures.extend(lines.iter().take(5).map(|line| format!("{name}: {line}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn golden_images_come_back_by_one_thread() {
    golden_images_come_back(0, 1);
}

#[test]
fn golden_images_come_back_by_two_threads() {
    golden_images_come_back(1, 2);
}

#[test]
fn golden_images_come_back_by_five_threads() {
    golden_images_come_back(2, 5);
}

/// Extracts bytes that may be anything, into a folder beside one that must stay empty.
fn extract_bytes(
    bytes: Vec<u8>,
    options: &ExtractOptions,
    prepare: impl FnOnce(&Path, &Path),
) -> (tempfile::TempDir, ExtractReport) {
    let folder = tempfile::tempdir().unwrap();
    let (target, outside) = (folder.path().join("target"), folder.path().join("outside"));
    std::fs::create_dir(&target).unwrap();
    std::fs::create_dir(&outside).unwrap();
    prepare(&target, &outside);
    let image = Arc::new(Image::open(bytes).unwrap());
    let report = run(&image, &target, options, 2);
    assert!(outside.read_dir().unwrap().next().is_none(), "nothing outside");
    assert_eq!(folder.path().read_dir().unwrap().count(), 2, "nothing beside");
    (folder, report)
}

#[test]
fn names_lead_nowhere() {
    for (name, evil) in [(&b"hole"[..], &b"../x"[..]), (b"hole", b"/abc"), (b"tiny", b"../y")] {
        let mut crafted = everything(9);
        let root = crafted.at("root.data");
        let at = crafted.bytes[root..].windows(4).position(|window| window == name).unwrap();
        crafted.put(root + at, evil);
        crafted.seal();
        let (_folder, report) = extract_bytes(crafted.bytes, &ExtractOptions::default(), |_, _| {});
        assert!(report.problems.iter().any(|problem| problem.kind == ProblemKind::Image));
    }
}

#[test]
fn links_in_the_target_are_replaced_not_followed() {
    let mut craft = Craft::new(9);
    let file = craft.flat(".nested", b"deep\n", 5, &[]);
    craft.flat("file", b"new", 3, &[]);
    craft.directory("dir", &[("inner", file, FileType::Regular)]);
    let bytes = craft.finish().bytes;
    let options = ExtractOptions { overwrite: true, ..ExtractOptions::default() };
    let (folder, report) = extract_bytes(bytes.clone(), &options, |target, outside| {
        std::os::unix::fs::symlink(outside, target.join("dir")).unwrap();
        std::os::unix::fs::symlink(outside.join("made"), target.join("file")).unwrap();
    });
    assert!(report.is_clean(), "{report:?}");
    let target = folder.path().join("target");
    assert!(target.join("dir").symlink_metadata().unwrap().is_dir());
    assert_eq!(std::fs::read(target.join("dir/inner")).unwrap(), b"deep\n");
    assert_eq!(std::fs::read(target.join("file")).unwrap(), b"new");
    // Again over itself; and not at all without permission.
    let image = Arc::new(Image::open(bytes).unwrap());
    assert!(run(&image, &target, &options, 2).is_clean());
    let engine = Engine::new(image, EngineConfig::default());
    let refused = extract(&engine, &target, &ExtractOptions::default(), Context::default());
    assert!(matches!(refused, Err(ferrofs_check::Error::NotEmpty { .. })), "{refused:?}");
}

#[test]
fn loops_and_second_parents_end() {
    const D: FileType = FileType::Directory;
    let mut craft = Craft::new(9);
    let root = craft.superblock.root;
    let first = craft.directory("d1", &[]);
    craft.directory("d2", &[("again", first, D)]);
    craft.directory("d3", &[("root", root, D), ("lost", Nid(1 << 40), D)]);
    let file = craft.flat("file", b"x", 1, &[]);
    craft.directory("d4", &[("file", file, D)]);
    let (folder, report) =
        extract_bytes(craft.finish().bytes, &ExtractOptions::default(), |_, _| {});
    assert_eq!(report.problems_total, 4, "{report:?}");
    assert!(report.complete);
    assert!(folder.path().join("target/d3").read_dir().unwrap().next().is_none());
    assert_eq!(report.problems.iter().filter(|p| p.path.as_bytes() == b"/d3/root").count(), 1);
}

/// Deeper than descriptors are kept open: closed ones are opened again.
#[test]
fn deep_trees() {
    const D: FileType = FileType::Directory;
    const LEVELS: usize = 430;
    let mut craft = Craft::new(9);
    let file = craft.flat(".file", b"bottom", 6, &[]);
    let mut below = craft.directory(".bottom", &[("file", file, FileType::Regular)]);
    for _ in 0..LEVELS {
        below = craft.directory(".level", &[("d", below, D), ("f", file, FileType::Regular)]);
    }
    craft.directory("top", &[("d", below, D)]);
    let (folder, report) =
        extract_bytes(craft.finish().bytes, &ExtractOptions::default(), |_, _| {});
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.directories, LEVELS as u64 + 3, "the target is the root");
    let bottom = folder.path().join("target/top").join("d/".repeat(LEVELS + 1));
    assert_eq!(std::fs::read(bottom.join("file")).unwrap(), b"bottom");
    use std::os::unix::fs::MetadataExt;
    for path in [&*bottom, &folder.path().join("target/top/d/d")] {
        assert_eq!(std::fs::metadata(path).unwrap().mtime(), 1_700_000_000, "set last");
    }
}

#[test]
fn set_id_bits_need_their_owner() {
    use std::os::unix::fs::MetadataExt;
    let mut craft = Craft::new(9);
    craft.flat("tool", b"x", 1, &[]);
    let mut crafted = craft.finish();
    let at = crafted.at("tool");
    crafted.put(at + 4, &0o106_755u16.to_le_bytes());
    crafted.put(at + 24, &[0xE8, 3, 0xE8, 3]); // User and group 1000.
    let options = ExtractOptions { owners: Some(false), ..ExtractOptions::default() };
    let (folder, report) = extract_bytes(crafted.bytes.clone(), &options, |_, _| {});
    let mode = std::fs::metadata(folder.path().join("target/tool")).unwrap().mode();
    assert_eq!((mode & 0o7777, report.set_id_bits_dropped), (0o755, 1));
    if !is_root() {
        return println!("skipped: giving files away needs root");
    }
    let (folder, report) = extract_bytes(crafted.bytes, &ExtractOptions::default(), |_, _| {});
    let metadata = std::fs::metadata(folder.path().join("target/tool")).unwrap();
    assert_eq!((metadata.mode() & 0o7777, metadata.uid(), metadata.gid()), (0o6755, 1000, 1000));
    assert_eq!(report.set_id_bits_dropped, 0);
}

#[test]
fn huge_holes_take_no_space() {
    let mut craft = Craft::new(9);
    craft.sparse("flat", 1 << 42);
    let format = ChunkFormat { bits: 31, indexes: false, wide: false };
    craft.chunked("chunks", 1 << 42, format, &[Chunk::Hole; 4]);
    let (folder, report) =
        extract_bytes(craft.finish().bytes, &ExtractOptions::default(), |_, _| {});
    for name in ["flat", "chunks"] {
        match std::fs::metadata(folder.path().join("target").join(name)) {
            Ok(metadata) => {
                use std::os::unix::fs::MetadataExt;
                assert_eq!((metadata.size(), metadata.blocks()), (1 << 42, 0), "{name}");
            }
            // A file system that has no files so large.
            Err(error) => assert!(report.problems_total > 0, "{name}: {error}"),
        }
    }
    assert_eq!(report.bytes, 0);
}

/// A file of 25 MiB out of one chunk of 128 KiB, repeated.
fn repeated() -> (Vec<u8>, Vec<u8>) {
    let mut craft = Craft::new(9);
    let data = text(128 << 10, 3);
    let block = u64::from(craft.data(&data));
    let format = ChunkFormat { bits: 8, indexes: false, wide: false };
    let mut chunks = vec![Chunk::At { device: 0, block }; 200];
    chunks[3] = Chunk::Hole;
    chunks[199] = Chunk::Hole;
    let size = 199 * data.len() + 5;
    craft.chunked("large", size as u64, format, &chunks);
    let mut content = data.repeat(200);
    content.truncate(size);
    content[3 * data.len()..4 * data.len()].fill(0);
    content[199 * data.len()..].fill(0);
    (craft.finish().bytes, content)
}

#[test]
fn large_files_are_shared_between_threads() {
    let (bytes, content) = repeated();
    for sparse in [true, false] {
        let options = ExtractOptions { sparse, ..ExtractOptions::default() };
        let (folder, report) = extract_bytes(bytes.clone(), &options, |_, _| {});
        assert!(report.is_clean(), "{report:?}");
        assert!(std::fs::read(folder.path().join("target/large")).unwrap() == content);
        assert_eq!(report.bytes + report.hole_bytes, content.len() as u64);
    }
    let options = ExtractOptions { bytes_max: Some(9 << 20), ..ExtractOptions::default() };
    let (folder, report) = extract_bytes(bytes, &options, |_, _| {});
    assert!(!report.complete);
    assert_eq!(report.problems[0].kind, ProblemKind::Limit);
    assert!(!folder.path().join("target/large").exists(), "not left half written");
}

/// Cancels once so many bytes were written.
struct Until<'a> {
    left: AtomicI64,
    cancel: &'a AtomicBool,
}

impl Progress for Until<'_> {
    fn bytes(&self, count: u64) {
        if self.left.fetch_sub(count as i64, Ordering::Relaxed) < count as i64 {
            self.cancel.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn cancelled_jobs_leave_whole_files_only() {
    let (bytes, content) = repeated();
    // In the middle of the large file, whose parts several threads write.
    for megabytes in [1, 9, 17] {
        let cancel = AtomicBool::new(false);
        let progress = Until { left: AtomicI64::new(megabytes << 20), cancel: &cancel };
        let folder = tempfile::tempdir().unwrap();
        let image = Arc::new(Image::open(bytes.clone()).unwrap());
        let engine = Engine::new(image, EngineConfig::default());
        let context = Context { workers: 3, progress: Some(&progress), cancel: Some(&cancel) };
        let report = extract(&engine, folder.path(), &ExtractOptions::default(), context).unwrap();
        let large = folder.path().join("large");
        if report.complete {
            assert!(std::fs::read(large).unwrap() == content);
        } else {
            assert!(!large.exists(), "half of it after {megabytes} MiB");
            assert_eq!(report.problems_total, 0, "{report:?}");
        }
    }
}

#[test]
fn broken_files_do_not_look_whole() {
    let mut crafted = everything(9);
    let at = crafted.at("full.data");
    crafted.put(at, &[0xFF; 2048]);
    let options = ExtractOptions::default();
    let (folder, report) = extract_bytes(crafted.bytes.clone(), &options, |_, _| {});
    assert!(
        report.problems.iter().any(|problem| problem.path.as_bytes() == b"/full"),
        "{report:?}"
    );
    assert!(!folder.path().join("target/full").exists());
    assert!(folder.path().join("target/tiny").exists(), "the others are there");
    let options = ExtractOptions { keep_broken: true, ..options };
    let (folder, _) = extract_bytes(crafted.bytes, &options, |_, _| {});
    assert!(folder.path().join("target/full").exists());
}

#[test]
fn subtrees() {
    let bytes = everything(9).bytes;
    let subtree = |path: &[u8], strip| ExtractOptions {
        subtree: Some(path.to_vec()),
        strip,
        ..ExtractOptions::default()
    };
    let names = |folder: &tempfile::TempDir| {
        let mut names: Vec<_> = folder
            .path()
            .join("target")
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let (folder, report) = extract_bytes(bytes.clone(), &subtree(b"/dir/", true), |_, _| {});
    assert_eq!((names(&folder).len(), report.problems_total), (40, 0));
    let (folder, _) = extract_bytes(bytes.clone(), &subtree(b"dir", false), |_, _| {});
    assert_eq!(names(&folder), ["dir"]);
    let (folder, _) = extract_bytes(bytes.clone(), &subtree(b"/dir/entry-007", true), |_, _| {});
    assert_eq!(names(&folder), ["entry-007"]);
    let (folder, _) = extract_bytes(bytes.clone(), &subtree(b"/dir/entry-007", false), |_, _| {});
    assert_eq!(names(&folder), ["dir"]);
    assert!(folder.path().join("target/dir/entry-007").exists());
    let image = Arc::new(Image::open(bytes).unwrap());
    let engine = Engine::new(image, EngineConfig::default());
    let gone = extract(&engine, folder.path(), &subtree(b"/none", true), Context::default());
    assert!(matches!(gone, Err(ferrofs_check::Error::Path { .. })), "{gone:?}");
}

/// What the check calls clean can be extracted, and damage never makes extraction panic or leave
/// its target.
#[test]
fn damaged_images_agree_with_the_check() {
    let base = Arc::new(everything(9).bytes);
    let meta = everything(9).meta_end;
    for round in 0..150usize {
        let offset = 1024 + (round * 2_654_435_761) % (meta - 1024);
        let mut bytes = (*base).clone();
        bytes[offset] ^= 1 << (round % 8);
        ferrofs_tests::craft::seal(&mut bytes);
        let Ok(image) = Image::open(bytes.clone()) else { continue };
        let context = Context { workers: 2, ..Context::default() };
        let checked = check(&Arc::new(image), &CheckOptions::default(), context);
        let options = ExtractOptions { bytes_max: Some(1 << 30), ..ExtractOptions::default() };
        let (_folder, report) = extract_bytes(bytes, &options, |_, _| {});
        let corrupt = report.problems.iter().find(|problem| problem.kind == ProblemKind::Image);
        if let Some(problem) = corrupt {
            assert!(checked.errors > 0, "byte {offset:#x}: {problem:?}");
        }
    }
}
