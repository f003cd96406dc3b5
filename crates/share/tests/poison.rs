// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image that lies about its content, first, second or at the same time, changes nothing for others.

use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::Image;
use ferrofs_image::format::features::CompatFeatures;
use ferrofs_share::estimate::{Estimate, EstimateOptions, Input, estimate};
use ferrofs_share::pool::Domain;
use ferrofs_tests::craft::{Craft, xattr_body};
use std::sync::Arc;

/// An image of one file that says that its digest is a certain one, as the other image's file does.
fn liar(content: &[u8]) -> Arc<Engine> {
    let mut craft = Craft::new(12);
    craft.long_prefixes(&["erofs.fingerprint.v1"]);
    craft.superblock.compat.insert(CompatFeatures::ISHARE_XATTRS);
    let claim = [&b"sha256:"[..], &[7; 32]].concat();
    craft.flat("file", content, content.len() % 4096, &xattr_body(&[], &[(0x80, b"", &claim)]));
    let image = Image::open(craft.finish().bytes).unwrap();
    Arc::new(Engine::new(image.into(), EngineConfig::default()))
}

fn contents() -> [Vec<u8>; 2] {
    let good: Vec<u8> = (0..8292_u32).map(|n| (n / 7) as u8).collect();
    let mut evil = good.clone();
    evil[5000..].fill(b'!');
    [good, evil]
}

fn read_both_ways(domain: &Domain, engine: &Arc<Engine>, content: &[u8]) {
    let file = engine.open(&engine.image().resolve(b"/file").unwrap()).unwrap();
    let composed = domain.compose(engine, &file).unwrap();
    let shared = domain.share(Arc::clone(engine), file);
    let (mut one, mut two) = (vec![0; content.len()], vec![0; content.len()]);
    assert_eq!(shared.read_into(0, &mut one).unwrap(), content.len());
    assert_eq!(composed.read(0, &mut two), content.len());
    assert!(one == content && two == content);
}

#[test]
fn no_claim_reaches_a_pool() {
    let contents = contents();
    let engines = contents.each_ref().map(|content| liar(content));
    for order in [[0, 1], [1, 0]] {
        let domain = Domain::new(1 << 20).unwrap();
        for index in order.into_iter().chain(order) {
            read_both_ways(&domain, &engines[index], &contents[index]);
        }
    }
    let domain = Domain::new(1 << 20).unwrap();
    std::thread::scope(|scope| {
        for index in [0, 1, 0, 1] {
            let (domain, engine, content) = (&domain, &engines[index], &contents[index]);
            scope.spawn(move || {
                (0..50).for_each(|_| read_both_ways(domain, engine, content));
            });
        }
    });
}

#[test]
fn an_estimate_believes_claims_only_if_told_to() {
    let engines = contents().map(|content| liar(&content));
    let run = |trust_digests| -> Estimate {
        let inputs = engines.each_ref().map(|engine| (String::new(), Input::Image(engine)));
        let options = EstimateOptions { trust_digests, ..EstimateOptions::default() };
        estimate(&inputs, options).unwrap()
    };
    let added = |found: &Estimate| found.methods.iter().map(|row| row.added_bytes[1]).collect();
    let found = run(false);
    assert_eq!(found.trees[1].read_bytes, 8292);
    let bytes: Vec<u64> = added(&found);
    assert_eq!(bytes[..3], [12288, 12288, 8192], "one page is equal");
    let found = run(true);
    assert_eq!(found.trees[1].read_bytes, 0);
    let bytes: Vec<u64> = added(&found);
    assert_eq!(bytes, [12288, 0, 0, 0, 0, 0, 0]);
}
