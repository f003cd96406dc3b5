// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inode digests: what a build stores is the SHA-256 of the source, in every form of content; the
//! check believes none of it; the kernel mounts such images. Those of erofs-utils are read the same.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ferrofs_build::{
    BlobTarget, BuildOptions, ChunkEntries, Chunks, Compression, Method, Silent, Target, Uuid,
    build,
};
use ferrofs_check::{CheckOptions, Code, Context, check};
use ferrofs_image::{Image, InodeDigest, OpenOptions};
use ferrofs_linux::{MountRequest, UnmountFlags};
use ferrofs_tests::craft::seal;
use ferrofs_tree::{Walk, WalkOptions};
use sha2::{Digest, Sha256};

fn populate(root: &Path) {
    fs::create_dir_all(root.join("sub")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(root.join(name), bytes).unwrap();
    write("empty", b"");
    write("one", b"x");
    write("text", &b"words that compress, and more of them\n".repeat(3000));
    write("zeros", &vec![0; 70_000]);
    let mut random = fastrand::Rng::with_seed(5);
    let mut noise = vec![0; (17 << 20) + 77];
    random.fill(&mut noise);
    write("sub/noise", &noise);
    fs::hard_link(root.join("sub/noise"), root.join("again")).unwrap();
    write("long text", &b"0123456789abcdef".repeat(9 << 16));
    File::create(root.join("hole")).unwrap().set_len((3 << 20) + 5).unwrap();
    let islands = File::create(root.join("islands")).unwrap();
    for at in [40_000, 5 << 20, 19 << 20] {
        islands.write_all_at(&noise[..5000], at).unwrap();
    }
    islands.write_all_at(&noise[..1 << 20], 21 << 20).unwrap();
    islands.set_len(26 << 20).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(root.join("text"), "user.digest", b"a lie", flags).unwrap();
    rustix::fs::lsetxattr(root.join("empty"), "user.digest", b"a lie", flags).unwrap();
}

fn sums(root: &Path) -> BTreeMap<PathBuf, [u8; 32]> {
    let names = ["one", "text", "zeros", "sub/noise", "again", "long text", "hole", "islands"];
    let sum = |name: &str| Sha256::digest(fs::read(root.join(name)).unwrap()).into();
    names.iter().map(|name| (PathBuf::from(name), sum(name))).collect()
}

fn cases() -> Vec<(&'static str, BuildOptions, bool)> {
    let plain = BuildOptions { uuid: Uuid::Content, ..BuildOptions::default() };
    let compressed = |method: &str, pcluster_size| {
        let method = Method::parse(method).unwrap();
        let compression = Some(Compression { method, pcluster_size, legacy_indexes: false });
        BuildOptions { compression, ..plain.clone() }
    };
    let chunks = |size| {
        let chunks = Some(Chunks { size, entries: ChunkEntries::Auto });
        BuildOptions { chunks, ..plain.clone() }
    };
    vec![
        ("no xattrs", BuildOptions { xattrs: None, ..plain.clone() }, false),
        ("no tails", BuildOptions { inline_tails: false, ..plain.clone() }, false),
        ("lz4", compressed("lz4", 4096), false),
        ("deflate", compressed("deflate,1", 65536), false),
        ("lzma", compressed("lzma,0", 65536), false),
        ("zstd", compressed("zstd,1", 1 << 20), false),
        ("chunks", chunks(4096), false),
        ("large chunks in a blob", chunks(32 << 20), true),
        ("plain", plain, false),
    ]
}

#[test]
fn digests_are_those_of_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("source");
    populate(&root);
    let sums = sums(&root);
    let walked = Walk::run(&root, &WalkOptions::default()).unwrap();
    let (path, blob_path) = (folder.path().join("image"), folder.path().join("blob"));
    let names = ["erofs.fingerprint.v1", "trusted.digest", "user.digest"];
    for ((case, options, blob), name) in cases().into_iter().zip(names.iter().cycle()) {
        let inode_digest = Some(name.as_bytes().to_vec());
        let options = BuildOptions { inode_digest, ..options };
        let target = Target { image: &path, blob: blob.then_some(BlobTarget::new(&blob_path)) };
        let mut bytes = Vec::new();
        for workers in [1, 4] {
            let workers = NonZeroUsize::new(workers).unwrap();
            let options = BuildOptions { workers, ..options.clone() };
            build(&walked.tree, &walked.source, &options, target, &mut Silent).unwrap();
            bytes.push(fs::read(&path).unwrap());
        }
        assert!(bytes[0] == bytes[1], "{case}: workers show");
        let mut open = OpenOptions::new();
        if blob {
            open = open.device(File::open(&blob_path).unwrap());
        }
        let image = Arc::new(open.open(File::open(&path).unwrap()).unwrap());
        for (file, sum) in &sums {
            let inode = image.resolve(file.as_os_str().as_encoded_bytes()).unwrap();
            let digest = image.inode_digest(&inode).unwrap();
            assert_eq!(digest, Some(InodeDigest::Sha256(*sum)), "{case}: {}", file.display());
            let value = image.xattr(&inode, name.as_bytes()).unwrap().unwrap();
            assert_eq!(value, [&b"sha256:"[..], sum].concat(), "{case}");
        }
        for other in ["empty", "sub", ""] {
            let inode = image.resolve(other.as_bytes()).unwrap();
            assert_eq!(image.inode_digest(&inode).unwrap(), None, "{case}: {other}");
            assert_eq!(image.xattr(&inode, name.as_bytes()).unwrap(), None, "{case}: {other}");
        }
        let options = CheckOptions { digests: true, ..CheckOptions::default() };
        let report = check(&image, &options, Context::default());
        assert!(report.complete && report.findings.is_empty(), "{case}: {report:?}");
        if !blob {
            by_kernel(case, &path, &folder.path().join("mnt"), name, &sums);
        }
    }
    damaged(&path);
}

/// A mount that ends with the test.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = ferrofs_linux::unmount(self.0, UnmountFlags::default());
    }
}

fn by_kernel(case: &str, image: &Path, at: &Path, name: &str, sums: &BTreeMap<PathBuf, [u8; 32]>) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: mounting needs root");
        return;
    }
    fs::create_dir_all(at).unwrap();
    let request =
        MountRequest { source: image.into(), target: at.into(), ..MountRequest::default() };
    if let Err(error) = ferrofs_linux::mount_erofs(&request) {
        // Kernels before 6.19 have no LZMA or Zstandard if they were built without.
        println!("skipped: {case}: {error}");
        return;
    }
    let mounted = Mounted(at);
    for (file, sum) in sums {
        let file = mounted.0.join(file);
        assert_eq!(Sha256::digest(fs::read(&file).unwrap())[..], sum[..], "{case}");
        let mut value = [0; 64];
        let found = rustix::fs::lgetxattr(&file, name, &mut value[..]);
        if name.starts_with("erofs.") {
            found.unwrap_err();
        } else {
            assert_eq!(value[..found.unwrap()], [&b"sha256:"[..], sum].concat(), "{case}");
        }
    }
}

/// One bit of content makes a lie of a digest; one of the digest too.
fn damaged(path: &Path) {
    let good = fs::read(path).unwrap();
    let text = b"words that compress";
    let claim = [&b"sha256:"[..], &Sha256::digest(b"x")].concat();
    let find = |part: &[u8]| good.windows(part.len()).position(|bytes| bytes == part).unwrap();
    let cases = [
        (find(text), Code::DigestMismatch),
        (find(&claim) + 20, Code::DigestMismatch),
        (find(&claim) + 2, Code::DigestMalformed),
    ];
    for (at, code) in cases {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        let image = Arc::new(Image::open(bytes).unwrap());
        let options = CheckOptions { digests: true, ..CheckOptions::default() };
        let report = check(&image, &options, Context::default());
        let found: Vec<Code> = report.findings.iter().map(|finding| finding.code).collect();
        assert_eq!(found, [code]);
        if code == Code::DigestMalformed {
            let inode = image.resolve(b"one").unwrap();
            assert_eq!(image.inode_digest(&inode).unwrap(), None);
            assert!(image.inode_digest_value(&inode).unwrap().is_some());
        }
    }
}

/// Images of erofs-utils 1.9.4 and what their files must have, by name: see tests/golden/README.md.
fn of_another_writer(folder: &Path) -> (Vec<PathBuf>, BTreeMap<String, [u8; 32]>) {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/digests.tar.zst");
    let archive = zstd::Decoder::new(File::open(archive).unwrap()).unwrap();
    tar::Archive::new(archive).unpack(folder).unwrap();
    let of_hex = |hex: &str| {
        let byte = |at: usize| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap();
        std::array::from_fn(byte)
    };
    let text = fs::read_to_string(folder.join("sums")).unwrap();
    let lines = text.lines().map(|line| line.split_once("  ").unwrap());
    let sums = lines.map(|(hex, path)| (path.to_owned(), of_hex(hex))).collect();
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut images: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|name| name == "erofs")).collect();
    images.sort();
    (images, sums)
}

#[test]
fn digests_of_another_writer_are_read_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (images, sums) = of_another_writer(folder.path());
    assert_eq!((images.len(), sums.len()), (18, 9));
    for path in &images {
        let case = path.file_name().unwrap().to_string_lossy();
        let name: &[u8] = if case == "named.erofs" {
            b"trusted.overlay.metacopy"
        } else {
            BuildOptions::DIGEST_NAME
        };
        let image = Arc::new(Image::open(fs::read(path).unwrap()).unwrap());
        for (file, sum) in &sums {
            let inode = image.resolve(file.as_bytes()).unwrap();
            let claim = (inode.size > 0).then_some(InodeDigest::Sha256(*sum));
            assert_eq!(image.inode_digest(&inode).unwrap(), claim, "{case}: {file}");
            let value = image.xattr(&inode, name).unwrap();
            let expected = claim.map(|_| [&b"sha256:"[..], sum].concat());
            assert_eq!(value, expected, "{case}: {file}");
        }
        let options = CheckOptions { digests: true, ..CheckOptions::default() };
        let report = check(&image, &options, Context::default());
        assert!(report.complete && report.findings.is_empty(), "{case}: {report:?}");
        // What follows the name of the algorithm is a claim, and now another one.
        let mut bytes = fs::read(path).unwrap();
        let claim = [&b"sha256:"[..], &sums["text"][..]].concat();
        let Some(at) = bytes.windows(claim.len()).position(|bytes| bytes == claim) else {
            assert_eq!(case, "metabox.erofs", "only there metadata is compressed");
            continue;
        };
        bytes[at + 20] ^= 1;
        // It may lie in the block that the superblock's checksum covers.
        seal(&mut bytes);
        let report = check(&Arc::new(Image::open(bytes).unwrap()), &options, Context::default());
        let found: Vec<Code> = report.findings.iter().map(|finding| finding.code).collect();
        assert_eq!(found, [Code::DigestMismatch], "{case}");
    }
}

/// A checker that is not ours, of a version that knows the attribute.
#[test]
fn fsck_of_erofs_utils_agrees() {
    let help = Command::new("fsck.erofs").arg("--help").output();
    let help = help.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    if !String::from_utf8_lossy(&help).contains("--xattr-inode-digest") {
        println!("skipped: no fsck.erofs that knows inode digests");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (root, path) = (folder.path().join("source"), folder.path().join("image"));
    populate(&root);
    let walked = Walk::run(&root, &WalkOptions::default()).unwrap();
    let inode_digest = Some(BuildOptions::DIGEST_NAME.to_vec());
    let options = BuildOptions { inode_digest, ..BuildOptions::default() };
    let target = Target { image: &path, blob: None };
    build(&walked.tree, &walked.source, &options, target, &mut Silent).unwrap();
    let status = Command::new("fsck.erofs").arg("--xattr-inode-digest").arg(&path).status();
    assert!(status.unwrap().success());
}
