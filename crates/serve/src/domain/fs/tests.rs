// SPDX-License-Identifier: MIT OR Apache-2.0
//! What readers get of a file that becomes shared while they read it.

use super::*;
use crate::domain::member::MemberSpec;
use ferrofs_build::{BuildOptions, Silent, Target, build};
use ferrofs_engine::EngineConfig;
use ferrofs_tree::{Walk, WalkOptions};
use std::path::Path;

const CONTENT: &[u8] = b"what both images hold";

fn member(folder: &Path, slot: u16) -> Arc<Member> {
    let image = folder.join(format!("{slot}.erofs"));
    let walked = Walk::run(&folder.join("tree"), &WalkOptions::default()).unwrap();
    let target = Target { image: &image, blob: None };
    build(&walked.tree, &walked.source, &BuildOptions::default(), target, &mut Silent).unwrap();
    let spec = MemberSpec { image, ..MemberSpec::default() };
    Arc::new(Member::open(slot, spec, EngineConfig::default(), slot == 1).unwrap())
}

#[test]
fn what_became_shared_while_it_was_read_is_read_again_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tree")).unwrap();
    std::fs::write(folder.path().join("tree/file"), CONTENT).unwrap();
    let fs = DomainFs::new(false, false);
    let [one, two] = [1, 2].map(|slot| member(folder.path(), slot));
    let inode = |member: &Member| member.image().resolve(b"/file").unwrap();
    fs.add(Arc::clone(&one));
    fs.add(Arc::clone(&two));
    let node = fs.sharing.resolve(&one, &inode(&one)).unwrap();
    assert!(matches!(fs.place(node), Ok(Place::Own(..))));
    let request = ReadRequest::new(node, 0, CONTENT.len());
    let mut buf = vec![0; CONTENT.len() + ferrofs_fuse::SPARE_LEN];
    // Between the question whose file this is and the reading of it, another image gets its node, and
    // its own image is written to: what is read now is not what was hashed.
    let count = fs.read_own(&request, &mut buf, |buf| {
        assert_eq!(fs.sharing.resolve(&two, &inode(&two)).unwrap(), node);
        buf[..CONTENT.len()].fill(b'x');
        Ok(CONTENT.len())
    });
    assert_eq!(&buf[..count.unwrap()], CONTENT);
    // Of one that nobody shares, what was read counts.
    std::fs::write(folder.path().join("tree/file"), b"other").unwrap();
    let three = member(folder.path(), 3);
    fs.add(Arc::clone(&three));
    let node = fs.sharing.resolve(&three, &inode(&three)).unwrap();
    let request = ReadRequest::new(node, 0, 5);
    let count = fs.read_own(&request, &mut buf, |buf| {
        buf[..5].copy_from_slice(b"other");
        Ok(5)
    });
    assert_eq!(&buf[..count.unwrap()], b"other");
}
