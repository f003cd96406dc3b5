// SPDX-License-Identifier: MIT OR Apache-2.0
//! The names of erofs-utils' programs.

use crate::{FERROFS, Scratch, golden, is_root, run};
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn links_have_the_manners_of_their_names() {
    let scratch = Scratch::new();
    let link = scratch.path("mkfs.erofs");
    std::os::unix::fs::symlink(FERROFS, &link).unwrap();
    let image = scratch.path("i");
    let output = Command::new(&link)
        .arg("-zlz4hc,9")
        .arg(&image)
        .args(["-C65536", "--quiet"])
        .arg(scratch.tree())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    run("check {}", &[&image]).ok();
    run("diff {} {}", &[&image, &scratch.tree()]).ok();
}

#[test]
fn mkfs() {
    let scratch = Scratch::new();
    let (image, tree) = (scratch.path("i"), scratch.tree());
    let mkfs = |options: &str| run(&format!("mkfs.erofs {{}} {options} {{}}"), &[&image, &tree]);
    let text = mkfs("-zlz4").ok();
    assert!(text.starts_with("mkfs.erofs "), "{text}");
    assert!(text.contains("\nFilesystem UUID: ") && text.contains("total inodes: 9\n"), "{text}");
    let help = run("mkfs.erofs --help", &[]).ok();
    assert!(help.contains("-b#") && help.contains("--xattr-prefix"), "{help}");
    assert!(run("mkfs.erofs -V", &[]).ok().starts_with("mkfs.erofs (erofs-utils) 1."));
    for options in [
        "-E legacy-compress -zlz4",
        "--ignore-mtime",
        "-Eforce-inode-compact --ignore-mtime",
        "-Eforce-inode-extended,^xattr-name-filter",
        "-Enosbcrc",
        "-T0 --all-time",
        "-T 0 --mkfs-time -Uclear",
        "--chunksize=4096 -Eforce-inode-blockmap",
        "--chunksize 4096 -Eforce-chunk-indexes",
        "-b512",
        "-x1 --xattr-prefix=user.infix.",
        "-x-1",
        "-d1 -zzstd,level=5 -C16k --workers=2",
        "-zlibdeflate,9 --all-root --force-uid=5",
        "--hard-dereference --exclude-path=dir/text --exclude-regex=\\.o$",
    ] {
        mkfs(options).ok();
        run("fsck.erofs --extract {}", &[&image]).ok();
    }
    for (options, part) in [
        ("--tar=f", "--tar is not supported yet"),
        ("-Efragments", "-E fragments is not supported yet"),
        ("-Eall-fragments,dedupe", "all-fragments"),
        ("-m4096", "-m is not supported yet"),
        ("--incremental=data", "--incremental"),
        ("--oci", "--oci"),
        ("-zunknownalg", "unknownalg"),
        ("-Ebogus", "bogus"),
        ("--bogus", "--bogus"),
        ("-b1000", "1000"),
    ] {
        fs::write(&image, "precious").unwrap();
        let error = mkfs(options).fails(1);
        assert!(error.starts_with("mkfs.erofs: ") && error.contains(part), "{error}");
        assert_eq!(fs::read(&image).unwrap(), b"precious", "{options}");
    }
    run("mkfs.erofs {}", &[&image]).fails(1);
}

#[test]
fn mkfs_hints() {
    let scratch = Scratch::new();
    let (image, tree, hints) = (scratch.path("i"), scratch.tree(), scratch.path("hints"));
    let mkfs = || run("mkfs.erofs -zlz4 --compress-hints={} {} {}", &[&hints, &image, &tree]);
    fs::write(&hints, "0").unwrap();
    mkfs().fails(1);
    fs::write(&hints, "0 \\.c$\n1048577 \\.am$\n8192 text$\n").unwrap();
    let ended = mkfs();
    assert!(ended.err.contains("1048577"), "{}", ended.err);
    ended.ok();
    run("diff {} {}", &[&image, &tree]).ok();
}

#[test]
fn fsck() {
    let scratch = Scratch::new();
    let image = scratch.image("-z lz4");
    assert_eq!(run("fsck.erofs {}", &[&image]).ok(), "");
    assert_eq!(run("fsck.erofs -a -A -y --extract {}", &[&image]).ok(), "");
    assert!(run("fsck.erofs -p {}", &[&image]).ok().contains("Compression ratio: "));
    let target = scratch.path("out");
    run("fsck.erofs --extract={} --xattrs {}", &[&target, &image]).ok();
    run("diff {} {}", &[&image, &target]).ok();
    run("fsck.erofs --extract={} {}", &[&target, &image]).fails(1);
    run("fsck.erofs --extract={} --overwrite {}", &[&target, &image]).ok();
    let blob = golden().image("chunk-blobdev");
    let device = &golden().devices("chunk-blobdev")[0];
    run("fsck.erofs --extract --device={} {}", &[device, &blob]).ok();
    run("fsck.erofs {}", &[&scratch.path("tree/dir/text")]).fails(1);
    run("fsck.erofs", &[]).fails(1);
    let error = run("fsck.erofs --extract=/ {}", &[&image]).fails(1);
    assert!(error.contains("--force"), "{error}");
    // Bytes in the middle of the only compressed file.
    let mut bytes = fs::read(&image).unwrap();
    bytes[4096..4200].fill(0xff);
    fs::write(&image, bytes).unwrap();
    let error = run("fsck.erofs --extract {}", &[&image]).fails(1);
    assert!(error.contains("corruption"), "{error}");
}

#[test]
fn dump() {
    let image = golden().image("lz4");
    let text = run("dump.erofs {}", &[&image]).ok();
    assert!(text.contains("Filesystem blocksize:                         4096\n"), "{text}");
    assert!(text.contains("Filesystem inode metadata start block:        0\n"), "{text}");
    assert!(text.lines().any(|line| line.contains("features:") && line.contains("0padding")));
    let plain = run("dump.erofs {}", &[&golden().image("plain")]).ok();
    assert!(!plain.contains("0padding") && !plain.contains("block size"), "{plain}");
    let root = run("dump.erofs --path=/ {}", &[&image]).ok();
    let nid = root.split("NID: ").nth(1).and_then(|text| text.split(' ').next()).unwrap();
    assert!(text.contains(&format!("Filesystem root nid:                          {nid}\n")));
    let list = run("dump.erofs --ls --nid {} {}", &[Path::new(nid), &image]).ok();
    assert!(list.contains("NID TYPE  FILENAME"), "{list}");
    assert!(run("dump.erofs -S {}", &[&image]).ok().contains("Filesystem total file count:"));
    assert!(run("dump.erofs -e --path=/ {}", &[&image]).ok().contains("extents found"));
    run("dump.erofs -e {}", &[&image]).fails(1);
    assert!(run("dump.erofs --blkid-udev {}", &[&image]).ok().contains("ID_FS_TYPE=erofs"));
    let scratch = Scratch::new();
    let own = scratch.image("");
    assert_eq!(run("dump.erofs --cat --path=/small {}", &[&own]).ok(), "small\n");
}

#[test]
fn mounts() {
    if !is_root() || !Path::new("/dev/fuse").exists() {
        println!("skipped: needs root and /dev/fuse");
        return;
    }
    let scratch = Scratch::new();
    let image = scratch.image("-z lz4");
    let target = scratch.path("mnt");
    fs::create_dir(&target).unwrap();
    let unmount = || run("mount.erofs -u {}", &[&target]);
    let text = run("erofsfuse {} {}", &[&image, &target]).ok();
    let rest = text.split_once('\n').map(|(first, rest)| (first.starts_with("erofsfuse "), rest));
    assert_eq!(rest, Some((true, "")), "{text}");
    run("diff --no-times {} {}", &[&image, &target]).ok();
    unmount().ok();
    for options in ["", "-v -n -o ro,noatime,loop", "-t erofs.fuse -o nosuid", "-s -o bogus"] {
        run(&format!("mount.erofs {{}} {{}} {options}"), &[&image, &target]).ok();
        assert_eq!(fs::read(target.join("small")).unwrap(), b"small\n", "{options}");
        unmount().ok();
    }
    run("mount.erofs -f {} {}", &[&image, &target]).ok();
    run("mount.erofs -N {} {} {}", &[Path::new("/proc/self/ns/mnt"), &image, &target]).ok();
    unmount().ok();
    unmount().fails(1);
    for options in ["-o bogus", "-t erofs.nbd", "-t ext4", "-o oci.blob=x", "--reattach"] {
        run(&format!("mount.erofs {options} {{}} {{}}"), &[&image, &target]).fails(1);
    }
    run("erofsfuse -o bogus {} {}", &[&image, &target]).fails(1);
    unmount().fails(1);
    // A corrupt root is an error of who looks there, as with erofsfuse.
    let text = run("dump.erofs --path=/ {}", &[&image]).ok();
    let nid = text.split("NID: ").nth(1).and_then(|text| text.split(' ').next()).unwrap();
    let at = nid.parse::<usize>().unwrap() * 32;
    let no_checksum = scratch.image("-z lz4 --no-checksum");
    let mut bytes = fs::read(&no_checksum).unwrap();
    bytes[at..at + 32].fill(0xff);
    fs::write(&no_checksum, bytes).unwrap();
    run("erofsfuse {} {}", &[&no_checksum, &target]).ok();
    assert!(fs::metadata(&target).is_err());
    unmount().ok();
}

/// The statistics are those of dump.erofs, to the last blank.
#[test]
fn statistics_as_scripts_know_them() {
    let scratch = Scratch::new();
    let (tree, image) = (scratch.path("small"), scratch.path("i"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a.txt"), [7; 3000]).unwrap();
    fs::hard_link(tree.join("a.txt"), tree.join("b.o")).unwrap();
    fs::write(tree.join("c"), vec![7; 70_000]).unwrap();
    std::os::unix::fs::symlink("c", tree.join("d")).unwrap();
    run("build {} -o {} -q -z lz4", &[&tree, &image]).ok();
    let text = run("dump.erofs -S {}", &[&image]).ok();
    let bar = |count: usize| format!("|{:<50}|", "#".repeat(count));
    for line in [
        "Filesystem total file count:\t\t5",
        "Filesystem regular file count:\t\t3",
        "Filesystem compressed files:            1",
        "Filesystem uncompressed files:          4",
        "Filesystem total original file size:    76000 Bytes",
        "Filesystem total file size:             10096 Bytes",
        "Filesystem compress rate:               13.28%",
        "Original file size distribution:",
        &format!("     2 .. 4     \t2              66.67% {}", bar(33)),
        &format!("    64 .. 128   \t1              33.33% {}", bar(16)),
        &format!("     4 .. 8     \t1              33.33% {}", bar(16)),
        &format!(" 32768 ..       \t0               0.00% {}", bar(0)),
        &format!(".txt             \t1              33.33% {}", bar(16)),
        &format!(".odex            \t1              33.33% {}", bar(16)),
        &format!("others           \t1              33.33% {}", bar(16)),
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in\n{text}");
    }
}
