// SPDX-License-Identifier: MIT OR Apache-2.0
//! Broken images end in errors or in bytes, and what a domain then holds is right.

use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::OpenOptions;
use ferrofs_image::format::inode::FileType;
use ferrofs_share::Error;
use ferrofs_share::estimate::{EstimateOptions, Input, estimate};
use ferrofs_share::pool::Domain;
use ferrofs_tests::everything::everything;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Bytes that one broken image may make us read; it can make a small one endless.
const READ_MAX: u64 = 64 << 20;

fn open(bytes: Vec<u8>) -> Option<Arc<Engine>> {
    let image = OpenOptions::new().ignore_checksum(true).open(bytes).ok()?;
    let config = EngineConfig { cache_bytes: 1 << 20, ..EngineConfig::default() };
    Some(Arc::new(Engine::new(image.into(), config)))
}

/// Estimates an image; whether that came to its end.
fn count(engine: &Engine) -> bool {
    let (read, cancel) = (AtomicU64::new(0), AtomicBool::new(false));
    let progress = |bytes| {
        if read.fetch_add(bytes, Ordering::Relaxed) > READ_MAX {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let (progress, cancel) = (Some(&progress as &(dyn Fn(u64) + Sync)), Some(&cancel));
    let options = EstimateOptions { trust_digests: true, workers: 1, progress, cancel };
    match estimate(&[(String::from("broken"), Input::Image(engine))], options) {
        Ok(_) => true,
        Err(Error::Cancelled) => false,
        Err(error) => {
            assert!(error.to_string().starts_with("broken: "), "{error}");
            false
        }
    }
}

/// Reads the files below the root through a domain, and compares with the engine.
fn pools(domain: &Domain, engine: &Arc<Engine>) -> usize {
    let image = engine.image();
    let mut compared = 0;
    let root = image.inode(image.root()).and_then(|root| image.directory(&root)?.entries());
    for entry in root.unwrap_or_default() {
        let Ok(inode) = image.inode(entry.nid) else { continue };
        if inode.file_type != FileType::Regular || inode.size > READ_MAX / 16 {
            continue;
        }
        let Ok(file) = engine.open(&inode) else { continue };
        let mut plain = vec![0; file.size() as usize];
        let expected = engine.read_into(&file, 0, &mut plain);
        let composed = domain.compose(engine, &file);
        assert_eq!(composed.is_ok(), expected.is_ok(), "{:?}", entry.name);
        let mut found = vec![1; plain.len()];
        let shared = domain.share(Arc::clone(engine), file).read_into(0, &mut found);
        assert_eq!(shared.is_ok(), expected.is_ok(), "{:?}", entry.name);
        if let Ok(composed) = composed {
            assert!(found == plain, "{:?}", entry.name);
            found.fill(2);
            composed.read(0, &mut found);
            assert!(found == plain, "{:?}", entry.name);
            compared += 1;
        }
    }
    compared
}

#[test]
fn broken_images_break_nothing() {
    let crafted = everything(12);
    let domain = Domain::new(4 << 20).unwrap();
    let whole = open(crafted.bytes.clone()).expect("it is right");
    assert!(count(&whole), "it is read whole");
    let most = pools(&domain, &whole);
    assert!(most > 5, "{most}");
    let (mut opened, mut ended) = (0, 0);
    for seed in 0..150_u64 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut bytes = crafted.bytes.clone();
        for _ in 0..dice.usize(1..12) {
            let at = dice.usize(1200..crafted.meta_end);
            bytes[at] = if dice.bool() { dice.u8(..) } else { 0xFF };
        }
        let Some(engine) = open(bytes) else { continue };
        opened += 1;
        ended += usize::from(count(&engine));
        pools(&domain, &engine);
    }
    assert!(opened > 50 && ended < opened, "{ended} of {opened}");
    assert_eq!(pools(&domain, &whole), most, "what others did changes nothing");
    assert_eq!(domain.stats().composed_bytes, 0);
}
