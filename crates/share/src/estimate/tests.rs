// SPDX-License-Identifier: MIT OR Apache-2.0
//! Against a calculation that holds everything in memory, and golden images against each other.

use super::*;
use fastcdc::v2020::FastCDC;
use ferrofs_engine::EngineConfig;
use ferrofs_image::{Image, OpenOptions};
use ferrofs_tests::golden::Golden;
use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};

/// Bytes that repeat nowhere.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(step).collect();
    bytes.truncate(len);
    bytes
}

/// Files of two versions: equal, shifted, changed in the middle, with zeros, long and short.
fn versions() -> [BTreeMap<&'static str, Vec<u8>>; 2] {
    let long = noise(9 << 20, 1);
    let shifted = [b"three", long.as_slice()].concat();
    let mut changed = noise(700_000, 2);
    let original = changed.clone();
    changed[300_000] ^= 1;
    let mut zeros = vec![0; 5 << 20];
    zeros[3_000_000..3_000_100].fill(7);
    let a = BTreeMap::from([
        ("long", long),
        ("middle", original),
        ("same", noise(123_456, 3)),
        ("tiny", b"x".to_vec()),
        ("window", noise(4 << 20, 4)),
        ("zeros", zeros.clone()),
    ]);
    let b = BTreeMap::from([
        ("long", shifted),
        ("middle", changed),
        ("renamed", noise(123_456, 3)),
        ("tiny", b"y".to_vec()),
        ("window", noise(4 << 20, 4)),
        ("zeros", zeros),
    ]);
    [a, b]
}

/// Unique bytes by method, after each tree.
fn expected(trees: &[BTreeMap<&'static str, Vec<u8>>]) -> Vec<[u64; 6]> {
    let pages = |len: usize| len.div_ceil(4096) * 4096;
    let mut seen: [HashSet<Vec<u8>>; 6] = Default::default();
    let mut sums = [0; 6];
    let mut after = vec![];
    for tree in trees {
        for content in tree.values() {
            let mut add = |method: usize, piece: &[u8], len: usize| {
                if seen[method].insert(piece.to_vec()) {
                    sums[method] += len as u64;
                }
            };
            add(0, content, pages(content.len()));
            for page in content.chunks(4096) {
                let mut padded = page.to_vec();
                padded.resize(4096, 0);
                add(1, &padded, 4096);
            }
            content.chunks(65536).for_each(|chunk| add(2, chunk, pages(chunk.len())));
            for (method, average) in [(3, 4096), (4, 16384), (5, 65536)] {
                for chunk in FastCDC::new(content, average / 4, average, average * 4) {
                    let bytes = &content[chunk.offset..chunk.offset + chunk.length];
                    add(method, bytes, bytes.len());
                }
            }
        }
        after.push(sums);
    }
    after
}

fn write(trees: &[BTreeMap<&'static str, Vec<u8>>]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (index, tree) in trees.iter().enumerate() {
        let top = folder.path().join(index.to_string());
        fs::create_dir_all(top.join("sub")).unwrap();
        for (name, content) in tree {
            fs::write(top.join("sub").join(name), content).unwrap();
        }
        fs::hard_link(top.join("sub/tiny"), top.join("again")).unwrap();
        fs::write(top.join("empty"), "").unwrap();
        std::os::unix::fs::symlink("sub/long", top.join("link")).unwrap();
    }
    folder
}

fn engine(golden: &Golden, name: &str) -> Engine {
    let options = golden
        .devices(name)
        .into_iter()
        .fold(OpenOptions::new(), |options, device| options.device(File::open(device).unwrap()));
    let image: Image = options.open(File::open(golden.image(name)).unwrap()).unwrap();
    Engine::new(image.into(), EngineConfig::default())
}

#[test]
fn a_calculation_in_memory_agrees() {
    let trees = versions();
    let after = expected(&trees);
    let folder = write(&trees);
    let paths = ["0", "1"].map(|name| folder.path().join(name));
    let inputs: Vec<_> =
        paths.iter().map(|path| (String::from("t"), Input::Directory(path))).collect();
    for workers in [1, 3] {
        let options = EstimateOptions { workers, ..EstimateOptions::default() };
        let found = estimate(&inputs, options).unwrap();
        for (index, tree) in trees.iter().enumerate() {
            let facts = &found.trees[index];
            assert_eq!(facts.files, tree.len() as u64);
            assert_eq!(facts.bytes, tree.values().map(|content| content.len() as u64).sum::<u64>());
        }
        for (method, row) in found.methods[1..].iter().enumerate() {
            let added = [after[0][method], after[1][method] - after[0][method]];
            assert_eq!(row.added_bytes, added, "{}", row.method);
            assert_eq!(row.unique_bytes, after[1][method], "{}", row.method);
        }
        let none = &found.methods[0];
        assert_eq!((none.unique_bytes, none.saved_percent), (none.total_bytes, 0.0));
        let of = |method| found.methods.iter().find(|row| row.method == method).unwrap();
        assert!(of("cdc16k").added_bytes[1] < of("page4k").added_bytes[1] / 20, "{found:?}");
    }
}

#[test]
fn holes_are_zeros_that_nobody_reads() {
    let folder = tempfile::tempdir().unwrap();
    let (sparse, dense) = (folder.path().join("sparse"), folder.path().join("dense"));
    let len = 20_000_123;
    for (path, holes) in [(&sparse, true), (&dense, false)] {
        fs::create_dir(path).unwrap();
        let file = File::create(path.join("file")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"data", 12 << 20).unwrap();
        if holes {
            file.set_len(len).unwrap();
        } else {
            let mut content = vec![0; len as usize];
            content[12 << 20..][..4].copy_from_slice(b"data");
            fs::write(path.join("file"), content).unwrap();
        }
    }
    let inputs = [&sparse, &dense].map(|path| (String::new(), Input::Directory(path)));
    let found = estimate(&inputs, EstimateOptions::default()).unwrap();
    assert!(found.trees[0].read_bytes < len / 2, "{found:?}");
    assert_eq!(found.trees[1].read_bytes, len);
    for row in found.methods.iter().filter(|row| !row.method.starts_with("cdc")) {
        let added = if row.method == "none" { len.next_multiple_of(4096) } else { 0 };
        assert_eq!(row.added_bytes[1], added, "{}", row.method);
    }
}

#[test]
fn one_tree_in_many_encodings_is_one_tree() {
    let golden = Golden::unpack();
    let mut groups = BTreeMap::<_, Vec<String>>::new();
    for name in golden.names() {
        let (mut files, mut bytes) = (0_u64, 0_u64);
        let engine = engine(&golden, &name);
        let found = estimate(&[(name.clone(), Input::Image(&engine))], EstimateOptions::default());
        if let Ok(found) = found {
            (files, bytes) = (found.trees[0].files, found.methods[1].unique_bytes);
        }
        groups.entry((files, bytes)).or_default().push(name);
    }
    let same = groups.into_values().max_by_key(Vec::len).unwrap();
    assert!(same.len() > 10, "{same:?}");
    let engines: Vec<_> = same.iter().map(|name| engine(&golden, name)).collect();
    let inputs: Vec<_> = same.iter().cloned().zip(engines.iter().map(Input::Image)).collect();
    let found = estimate(&inputs, EstimateOptions::default()).unwrap();
    for row in &found.methods[1..] {
        let fresh = row.added_bytes.iter().skip(1).sum::<u64>();
        assert!(row.added_bytes[0] > 0, "{row:?}");
        // Holes begin elsewhere when blocks have other sizes, and with them content-defined chunks.
        let slack = if row.method.starts_with("cdc") { row.added_bytes[0] / 10 } else { 0 };
        assert!(fresh <= slack, "{row:?}");
    }
}

#[test]
fn failures_and_cancelling() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing");
    let inputs = [(String::new(), Input::Directory(&missing))];
    let error = estimate(&inputs, EstimateOptions::default()).unwrap_err();
    assert!(error.to_string().contains("missing"), "{error}");
    let cancel = AtomicBool::new(true);
    let options = EstimateOptions { cancel: Some(&cancel), ..EstimateOptions::default() };
    let inputs = [(String::new(), Input::Directory(folder.path()))];
    assert!(matches!(estimate(&inputs, options), Err(Error::Cancelled)));
}
