// SPDX-License-Identifier: MIT OR Apache-2.0
//! Walks of real directories.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use super::*;
use crate::{Change, Content, Source};

fn walk(root: &Path, options: &WalkOptions) -> Walked {
    Walk::run(root, options).unwrap()
}

fn paths(tree: &Tree) -> Vec<String> {
    let mut paths = Vec::new();
    let mut pending = vec![(InodeId::ROOT, String::new())];
    while let Some((id, path)) = pending.pop() {
        for entry in tree.entries(id) {
            let name = String::from_utf8_lossy(tree.entry_name(entry)).into_owned();
            pending.push((entry.inode(), format!("{path}/{name}")));
        }
        paths.push(path);
    }
    paths.sort();
    paths
}

fn find(tree: &Tree, path: &str) -> InodeId {
    tree.ids().find(|&id| tree.path(id) == path.as_bytes()).unwrap()
}

fn read(walked: &Walked, path: &str) -> Result<Vec<u8>> {
    let id = find(&walked.tree, path);
    let Content::File { size, .. } = walked.tree.content(id) else { panic!("{path} is no file") };
    let mut bytes = vec![0; size as usize];
    let mut data = walked.source.open(&walked.tree, id)?;
    data.read_at(0, &mut bytes)?;
    data.verify()?;
    Ok(bytes)
}

#[test]
fn files_links_and_directories_are_found_and_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("a/b")).unwrap();
    fs::write(root.join("a/b/file"), b"content").unwrap();
    fs::hard_link(root.join("a/b/file"), root.join("again")).unwrap();
    symlink("a/b", root.join("link")).unwrap();
    let walked = walk(root, &WalkOptions::default());
    assert_eq!(paths(&walked.tree), ["", "/a", "/a/b", "/a/b/file", "/again", "/link"]);
    assert_eq!(walked.tree.len(), 5);
    // The root's entries come before those of its subdirectories.
    let file = find(&walked.tree, "again");
    assert_eq!(walked.tree.inode(file).nlink(), 2);
    assert_eq!(read(&walked, "again").unwrap(), b"content");
    let link = find(&walked.tree, "link");
    assert_eq!(walked.tree.content(link), Content::Symlink(b"a/b"));
    let metadata = walked.tree.inode(file).metadata();
    let stat = fs::metadata(root.join("again")).unwrap();
    assert_eq!(metadata.mtime.seconds, stat.mtime());
    assert_eq!(u32::from(metadata.permissions), stat.mode() & 0o7777);
    let apart = WalkOptions { hard_dereference: true, ..WalkOptions::default() };
    assert_eq!(walk(root, &apart).tree.len(), 6);
}

#[test]
fn what_is_excluded_takes_everything_below_along() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::create_dir_all(root.join("keep/drop")).unwrap();
    fs::create_dir_all(root.join("drop/below")).unwrap();
    fs::write(root.join("keep/x.o"), b"").unwrap();
    fs::write(root.join("image"), b"").unwrap();
    let mut exclude = Exclude::default();
    exclude.path(b"drop");
    exclude.regex(r"\.o$").unwrap();
    let avoid = vec![root.join("image"), root.join("not there")];
    let walked = walk(root, &WalkOptions { exclude, avoid, ..WalkOptions::default() });
    assert_eq!(paths(&walked.tree), ["", "/keep", "/keep/drop"]);
    assert_eq!(walked.report.excluded, 2);
    assert_eq!(walked.report.avoided, [Path::new("image")]);
}

#[test]
fn a_file_that_changes_is_an_error_that_names_it() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["grown", "cut", "touched", "replaced", "gone", "link"] {
        fs::write(root.join(name), b"content").unwrap();
    }
    let walked = walk(root, &WalkOptions::default());
    fs::write(root.join("grown"), b"more content").unwrap();
    fs::write(root.join("cut"), b"c").unwrap();
    let touched = fs::File::options().write(true).open(root.join("touched")).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    fs::write(root.join("new"), b"CONTENT").unwrap();
    fs::rename(root.join("new"), root.join("replaced")).unwrap();
    fs::remove_file(root.join("gone")).unwrap();
    fs::remove_file(root.join("link")).unwrap();
    symlink("touched", root.join("link")).unwrap();
    for (name, expected) in [
        ("grown", Change::Size { walked: 7, now: 12 }),
        ("cut", Change::Size { walked: 7, now: 1 }),
        ("touched", Change::Time),
        ("replaced", Change::Identity),
        ("gone", Change::Identity),
        ("link", Change::Identity),
    ] {
        match read(&walked, name) {
            Err(Error::Changed { path, what }) => {
                assert_eq!(what, expected, "{name}");
                assert_eq!(path, root.join(name));
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_file_cut_while_it_is_open_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, vec![1; 10_000]).unwrap();
    let walked = walk(directory.path(), &WalkOptions::default());
    let id = find(&walked.tree, "file");
    let mut data = walked.source.open(&walked.tree, id).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
    let error = data.read_at(0, &mut [0; 10_000]).unwrap_err();
    assert!(matches!(error, Error::Changed { what: Change::Truncated { at: 5000 }, .. }));
    assert!(data.verify().is_err());
}

#[test]
fn holes_are_skipped() {
    let directory = tempfile::tempdir().unwrap();
    let file = fs::File::create(directory.path().join("file")).unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.set_len(4 << 20).unwrap();
    let walked = walk(directory.path(), &WalkOptions::default());
    let id = find(&walked.tree, "file");
    let Content::File { sparse, .. } = walked.tree.content(id) else { panic!() };
    if !sparse {
        println!("skipped: the file system here has no holes");
        return;
    }
    let mut data = walked.source.open(&walked.tree, id).unwrap();
    let range = data.next_data(0).unwrap().unwrap();
    assert!(range.start <= 1 << 20 && range.end >= (1 << 20) + 4096 && range.end < 4 << 20);
    assert_eq!(data.next_data(range.end).unwrap(), None);
}

#[test]
fn xattrs_of_files_links_and_the_root_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    fs::write(root.join("file"), b"").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    for name in ["file", "."] {
        match rustix::fs::lsetxattr(root.join(name), "user.note", b"value", flags) {
            Ok(()) => {}
            Err(error) => {
                println!("skipped: no xattrs here: {error}");
                return;
            }
        }
    }
    let walked = walk(root, &WalkOptions::default());
    for id in [InodeId::ROOT, find(&walked.tree, "file")] {
        let set = walked.tree.inode(id).metadata().xattrs;
        let found: Vec<_> = walked.tree.xattrs(set).map(|xattr| &*xattr.value).collect();
        assert!(found.contains(&&b"value"[..]), "{id}");
    }
    let without = walk(root, &WalkOptions { xattrs: false, ..WalkOptions::default() });
    assert_eq!(without.tree.inode(InodeId::ROOT).metadata().xattrs, XattrSetId::NONE);
}

#[test]
fn all_that_cannot_be_read_is_named() {
    if rustix::process::geteuid().is_root() {
        println!("skipped: root reads everything");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for name in ["one", "two"] {
        fs::create_dir(root.join(name)).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o000);
        fs::set_permissions(root.join(name), mode).unwrap();
    }
    let error = Walk::run(root, &WalkOptions::default()).unwrap_err();
    assert_eq!(error.each().len(), 2, "{error}");
}

#[test]
fn the_root_must_be_a_directory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, b"").unwrap();
    let options = WalkOptions::default();
    assert!(matches!(Walk::run(&file, &options), Err(Error::NotADirectory { .. })));
    let missing = directory.path().join("missing");
    assert!(matches!(Walk::run(&missing, &options), Err(Error::Io { .. })));
}
