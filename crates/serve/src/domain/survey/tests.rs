// SPDX-License-Identifier: MIT OR Apache-2.0
//! When a mount beside others goes on.

use super::*;
use crate::LazySpec;
use crate::domain::member::MemberSpec;
use ferrofs_build::{BuildOptions, Silent, Target, build};
use ferrofs_engine::EngineConfig;
use ferrofs_tree::{Walk, WalkOptions};
use std::sync::mpsc::{RecvTimeoutError, channel};

/// Who reads before it is known what others have gets what he asks for by many small requests.
#[test]
fn a_mount_waits_until_it_is_known_what_others_have() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, image) = (folder.path().join("tree"), folder.path().join("image.erofs"));
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("file"), "what both have").unwrap();
    let walked = Walk::run(&tree, &WalkOptions::default()).unwrap();
    let target = Target { image: &image, blob: None };
    build(&walked.tree, &walked.source, &BuildOptions::default(), target, &mut Silent).unwrap();
    let fs = Arc::new(DomainFs::new(false, true));
    let here = MemberSpec { image: image.clone(), ..MemberSpec::default() };
    let lazy = LazySpec {
        location: format!("file://{}", image.display()),
        cache: Some(folder.path().join("cache").into()),
        insecure: true,
        ..LazySpec::default()
    };
    let there = MemberSpec { lazy: Some(lazy), ..here.clone() };
    let [one, two] = [(1, here), (2, there)].map(|(slot, spec)| {
        let member = Member::open(slot, spec, EngineConfig::default(), slot == 1);
        Arc::new(member.unwrap())
    });
    count(&fs, &one);
    fs.add(one);
    fs.add(Arc::clone(&two));
    // Whoever looks has this.
    let held = fs.survey.lock().unwrap();
    let (sender, receiver) = channel();
    let begun = {
        let (fs, two) = (Arc::clone(&fs), Arc::clone(&two));
        std::thread::spawn(move || {
            begin(&fs, &two).unwrap();
            sender.send(()).unwrap();
        })
    };
    while !two.is_counted.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let early = receiver.recv_timeout(Duration::from_millis(300));
    assert_eq!(early, Err(RecvTimeoutError::Timeout), "it waits for who looks");
    drop(held);
    receiver.recv().unwrap();
    begun.join().unwrap();
}
