// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of arbitrary images through the pools of a domain, which is smaller than what they hold.
//!
//! Invariants: what a pool gives is what the engine gives, or both give errors; the same image twice,
//! and behind each other, is the same; the limit holds.
#![no_main]

use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Nid, OpenOptions};
use ferrofs_share::pool::Domain;
use libfuzzer_sys::fuzz_target;
use std::ops::ControlFlow;
use std::sync::Arc;

const FILES_MAX: usize = 24;
const BYTES_MAX: u64 = 2 << 20;
const LIMIT: u64 = 256 << 10;

fn open(data: &[u8]) -> Option<Arc<Engine>> {
    let options = OpenOptions::new().ignore_checksum(true).metadata_cache(64 << 10);
    let image = options.open(data.to_vec()).ok()?;
    let config = EngineConfig { cache_bytes: 64 << 10, workers: 1, ..EngineConfig::default() };
    Some(Arc::new(Engine::new(Arc::new(image), config)))
}

/// Some files below the root.
fn files(engine: &Engine) -> Vec<Nid> {
    let image = engine.image();
    let (mut found, mut left) = (Vec::new(), 4 * FILES_MAX);
    if let Ok(root) = image.inode(image.root())
        && let Ok(directory) = image.directory(&root)
    {
        // What came before an error is looked at, too.
        let _ = directory.walk(0, |entry, _| {
            found.push(entry.nid);
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
    }
    found
}

fuzz_target!(|data: &[u8]| {
    let Some(engine) = open(data) else { return };
    let Some(other) = open(data) else { return };
    let domain = Domain::new(LIMIT).expect("memory for the pool");
    let mut left = (FILES_MAX, BYTES_MAX);
    for nid in files(&engine) {
        let Ok(inode) = engine.image().inode(nid) else { continue };
        if inode.file_type != FileType::Regular || inode.size > left.1 || left.0 == 0 {
            continue;
        }
        left = (left.0 - 1, left.1 - inode.size);
        let Ok(file) = engine.open(&inode) else { continue };
        let mut plain = vec![0; file.size() as usize];
        let expected = engine.read_into(&file, 0, &mut plain).is_ok();
        let composed = [&engine, &other].map(|engine| {
            let file = engine.open(&inode).ok()?;
            domain.compose(engine, &file).ok()
        });
        let mut bytes = vec![1; plain.len()];
        for composed in &composed {
            assert_eq!(composed.is_some(), expected);
            if let Some(composed) = composed {
                composed.read(0, &mut bytes);
                assert!(bytes == plain, "mapped");
            }
        }
        for engine in [&engine, &other, &engine] {
            let Ok(file) = engine.open(&inode) else { continue };
            let shared = domain.share(Arc::clone(engine), file);
            bytes.fill(2);
            let read = shared.read_into(0, &mut bytes);
            assert_eq!(read.is_ok(), expected);
            assert!(!expected || bytes == plain, "copied");
            // The second half alone.
            let half = bytes.len() / 2;
            bytes.fill(3);
            let read = shared.read_into(half as u64, &mut bytes[half..]);
            assert!(!expected || read.is_ok() && bytes[half..] == plain[half..], "a part");
        }
    }
    assert!(domain.stats().chunk_memory <= LIMIT + LIMIT / 4);
});
