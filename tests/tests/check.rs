// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checking: golden images are clean, every kind of damage has its code, and no image makes the
//! check panic or run on.

use ferrofs_check::{CheckOptions, CheckReport, Code, Context, check, check_opening};
use ferrofs_image::format::chunk::{Chunk, ChunkFormat};
use ferrofs_image::format::device::DeviceSlot;
use ferrofs_image::format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_image::format::inode::FileType;
use ferrofs_image::{Image, Nid, OpenOptions};
use ferrofs_tests::craft::{Compressed, Craft, Crafted, Patched, text, xattr_body};
use ferrofs_tests::everything::everything;
use ferrofs_tests::golden::Golden;
use std::fs::File;
use std::sync::Arc;

fn open(golden: &Golden, name: &str) -> Arc<Image> {
    let options = golden
        .devices(name)
        .into_iter()
        .fold(OpenOptions::new(), |options, device| options.device(File::open(device).unwrap()));
    Arc::new(options.open(File::open(golden.image(name)).unwrap()).unwrap())
}

#[test]
fn golden_images_are_clean() {
    let golden = Golden::unpack();
    let mut failures = vec![];
    let (mut pclusters, mut decoded) = (0, 0);
    for (index, name) in golden.names().into_iter().enumerate() {
        let image = open(&golden, &name);
        let context = Context { workers: [1, 2, 4][index % 3], ..Context::default() };
        let options = CheckOptions { digests: true, ..CheckOptions::default() };
        let report = check(&image, &options, context);
        assert!(report.complete, "{name}");
        assert!(report.inodes > 20 && report.directories > 2 && report.extents > 20, "{report:?}");
        pclusters += report.pclusters;
        decoded += report.decoded_bytes;
        failures.extend(report.findings.iter().take(8).map(|found| format!("{name}: {found}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(pclusters > 1000 && decoded > 10 << 20, "{pclusters} clusters, {decoded} bytes");
}

#[test]
fn little_memory_means_rounds_not_gaps() {
    let golden = Golden::unpack();
    let name =
        golden.names().into_iter().find(|name| name.contains("lz4-4k")).unwrap_or_else(|| {
            golden.names().into_iter().find(|name| name.starts_with("lz4")).expect("an LZ4 image")
        });
    let image = open(&golden, &name);
    let context = Context { workers: 2, ..Context::default() };
    let whole = check(&image, &CheckOptions::default(), context);
    let options = CheckOptions { memory_bytes: 0, ..CheckOptions::default() };
    let parts = check(&image, &options, context);
    assert!(parts.is_clean(), "{parts:?}");
    assert!(parts.pclusters >= whole.pclusters);
}

fn check_bytes(bytes: &[u8]) -> CheckReport {
    let open = |ignore_checksum| {
        let options = OpenOptions::new().metadata_cache(256 << 10);
        options.ignore_checksum(ignore_checksum).open(bytes.to_vec())
    };
    let options = CheckOptions { digests: true, ..CheckOptions::default() };
    check_opening(open, &options, Context { workers: 2, ..Context::default() })
}

/// Codes of what was found, besides those that every crafted image has: its link counts are made up.
fn codes(report: &CheckReport) -> Vec<Code> {
    let mut codes: Vec<Code> = report
        .findings
        .iter()
        .map(|finding| finding.code)
        .filter(|code| !matches!(code, Code::DirectoryLinkCount | Code::InodeCount))
        .collect();
    codes.dedup();
    codes
}

/// A small sound image.
fn small() -> Craft {
    let mut craft = Craft::new(9);
    craft.long_prefixes(&["user.long."]);
    let body = xattr_body(&[], &[(1, b"k", b"v1"), (0x80, b"er", b"value")]);
    craft.flat("file", &text(2000, 1), 0, &[]);
    craft.flat("attr", b"hello\n", 6, &body);
    craft.flat_of("link", FileType::Symlink, b"some/target", 11, &[]);
    craft.sparse("hole", 1 << 62);
    craft.compressed("lz4", &text(9000, 5), &Compressed { blocks: 4, ..Compressed::default() });
    craft
}

#[test]
fn crafted_images_are_sound_before_they_are_damaged() {
    assert_eq!(codes(&check_bytes(&small().finish().bytes)), []);
    for bits in 9..=12 {
        let report = check_bytes(&everything(bits).bytes);
        let errors: Vec<String> = report
            .findings
            .iter()
            .filter(|finding| {
                !matches!(
                    finding.code,
                    // Forty names of one inode, chunks that share blocks with other files.
                    Code::LinkCount
                        | Code::DirectoryLinkCount
                        | Code::InodeCount
                        | Code::PlainOverlap
                        | Code::DotDotTarget
                        | Code::Trailing
                        // A device that lies inside the image.
                        | Code::DeviceOverlap
                )
            })
            .map(ToString::to_string)
            .collect();
        assert!(errors.is_empty(), "block bits {bits}:\n{}", errors.join("\n"));
        assert!(report.complete);
    }
}

/// One change to the small image and the code that must be among what is found.
type Row = (&'static str, Code, fn(&mut Crafted));

const ROWS: &[Row] = &[
    ("nanoseconds", Code::Nanoseconds, |c| {
        let at = c.at("hole");
        c.put(at + 40, &1_000_000_000u32.to_le_bytes());
    }),
    ("link count", Code::LinkCount, |c| {
        let at = c.at("file");
        c.put(at + 6, &[5, 0]);
    }),
    ("symlink with NUL", Code::SymlinkNul, |c| {
        let at = c.at("link");
        c.put(at + 32 + 4, &[0]);
    }),
    ("empty symlink", Code::SymlinkEmpty, |c| {
        let at = c.at("link");
        c.put(at + 8, &[0, 0, 0, 0]);
    }),
    ("mode", Code::Inode, |c| {
        let at = c.at("file");
        c.put(at + 4, &[0xFF, 0xFF]);
    }),
    ("layout 7", Code::Unsupported, |c| {
        let at = c.at("file");
        c.put(at, &[14]);
    }),
    ("dot", Code::DotTarget, |c| {
        let (at, nid) = (c.at("root.data"), c.nid("file"));
        c.put(at, &nid.0.to_le_bytes());
    }),
    ("dot dot", Code::DotDotTarget, |c| {
        let (at, nid) = (c.at("root.data") + 12, c.nid("file"));
        c.put(at, &nid.0.to_le_bytes());
    }),
    ("type", Code::FileType, |c| {
        let at = c.at("root.data") + 24 + 10;
        c.put(at, &[FileType::Fifo.dirent()]);
    }),
    ("unknown type", Code::FileTypeUnknown, |c| {
        let at = c.at("root.data") + 24 + 10;
        c.put(at, &[0]);
    }),
    ("nid out of range", Code::Inode, |c| {
        let at = c.at("root.data") + 24;
        c.put(at, &(1u64 << 40).to_le_bytes());
    }),
    ("nid in a metabox that is not there", Code::Inode, |c| {
        let at = c.at("root.data") + 24;
        c.put(at, &(1u64 << 63 | 1).to_le_bytes());
    }),
    ("name offset 0", Code::DirectoryBlock, |c| {
        let at = c.at("root.data") + 8;
        c.put(at, &[0, 0]);
    }),
    ("slash in a name", Code::DirectoryBlock, |c| {
        let at = find(&c.bytes, c.at("root.data"), b"hole");
        c.put(at, b"../x");
    }),
    ("name twice in a block", Code::DirectoryBlock, |c| {
        let at = find(&c.bytes, c.at("root.data"), b"link");
        c.put(at, b"hole");
    }),
    ("directory without content", Code::DirectoryEmpty, |c| {
        let at = c.at("root");
        c.put(at + 8, &[0; 8]);
    }),
    ("filter", Code::XattrFilter, |c| {
        let at = c.at("attr.xattr");
        c.put(at, &[0xFF; 4]);
    }),
    ("entry overrun", Code::XattrEntry, |c| {
        let at = c.at("attr.xattr") + 12;
        c.put(at + 2, &[0xFF, 0xFF]);
    }),
    ("shared count", Code::XattrBody, |c| {
        let at = c.at("attr.xattr");
        c.put(at + 4, &[200]);
    }),
    ("unknown prefix", Code::XattrPrefix, |c| {
        let at = c.at("attr.xattr") + 12 + 1;
        c.put(at, &[0x85]);
    }),
    ("start block beyond the device", Code::Extent, |c| {
        let at = c.at("file");
        c.put(at + 16, &[0, 0, 0, 0x7F]);
    }),
    ("undecodable", Code::Undecodable, |c| {
        let at = c.at("lz4.data");
        let block = vec![0xFF; 4 * 512];
        c.put(at, &block);
    }),
    ("first index no head", Code::Extent, |c| {
        let at = c.at("lz4.map") + 16;
        c.put(at, &[2]);
    }),
    ("contradictory lengths", Code::Contradiction, |c| {
        let (first, heads) = heads(c);
        c.put(heads[1] + 4, &first.to_le_bytes());
    }),
    ("overlapping clusters", Code::Overlap, |c| {
        let (first, heads) = heads(c);
        c.put(heads[1] + 4, &(first + 1).to_le_bytes());
    }),
    ("label", Code::Label, |c| c.put(1024 + 64, &[b'x'; 16])),
    ("compat bit 31", Code::UnknownCompat, |c| c.put(1024 + 11, &[0x80])),
    ("too many blocks", Code::Truncated, |c| c.put(1024 + 38, &[1])),
    ("root no directory", Code::NotOpened, |c| {
        let at = c.at("root");
        c.put(at + 4, &0o100_644u16.to_le_bytes());
    }),
    ("fixed nanoseconds", Code::FixedNanoseconds, |c| c.put(1024 + 32, &[0xFF; 4])),
    ("magic", Code::NotOpened, |c| c.put(1024, &[0])),
];

/// First block of the LZ4 file, and where its heads lie.
fn heads(c: &Crafted) -> (u32, Vec<usize>) {
    let first = (c.at("lz4.data") / 512) as u32;
    let map = c.at("lz4.map") + 16;
    let heads: Vec<usize> = (0..9000usize.div_ceil(512))
        .map(|index| map + index * 8)
        .filter(|at| c.bytes[*at] & 3 == 1)
        .collect();
    assert!(heads.len() > 1, "two pclusters");
    (first, heads)
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let at = bytes[from..].windows(what.len()).position(|window| window == what);
    from + at.expect("it is there")
}

#[test]
fn every_damage_has_its_code() {
    let mut failures = vec![];
    for (name, code, damage) in ROWS {
        let mut crafted = small().finish();
        damage(&mut crafted);
        crafted.seal();
        let report = check_bytes(&crafted.bytes);
        if !codes(&report).contains(code) {
            failures.push(format!("{name}: wanted {code}, found {:?}", report.findings));
        }
        let of_file = report.findings.iter().find(|finding| finding.code == *code);
        if let Some(finding) = of_file
            && finding.nid.is_some_and(|nid| nid < 1 << 40)
            && finding.path.is_none()
            && *code != Code::NotOpened
        {
            // What is in a block that cannot be read has no name.
            let readable = !codes(&report).contains(&Code::DirectoryBlock);
            if readable {
                failures.push(format!("{name}: no path: {finding:?}"));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn undeclared_algorithms_and_missing_features() {
    let mut craft = small();
    craft.superblock.u1 = 0b1101;
    craft.configs.lzma_dict_size = None;
    let incompat = craft.superblock.incompat.0;
    craft.superblock.incompat.0 = incompat & !IncompatFeatures::CHUNKED_FILE.0;
    let format = ChunkFormat { bits: 0, indexes: false, wide: false };
    craft.chunked("chunks", 1000, format, &[Chunk::Hole; 2]);
    let mut crafted = craft.finish();
    let at = crafted.at("lz4.map") + 6;
    crafted.put(at, &[1]); // LZMA
    let report = check_bytes(&crafted.bytes);
    assert_eq!(codes(&report), [Code::FeatureBit, Code::Extent], "{report:?}");
}

#[test]
fn a_wrong_checksum_does_not_hide_the_rest() {
    let mut crafted = small().finish();
    let at = crafted.at("file");
    crafted.put(at + 6, &[5, 0]);
    crafted.put(1024 + 64, b"other");
    assert_eq!(codes(&check_bytes(&crafted.bytes)), [Code::Checksum, Code::LinkCount]);
}

#[test]
fn trees_that_are_none() {
    const D: FileType = FileType::Directory;
    let mut craft = small();
    let root = craft.superblock.root;
    let first = craft.directory("d1", &[]);
    craft.directory("d2", &[("again", first, D)]);
    craft.directory("d3", &[("root", root, D)]);
    let report = check_bytes(&craft.finish().bytes);
    let found = codes(&report);
    assert!(found.contains(&Code::TwoParents), "{report:?}");
    assert!(found.contains(&Code::Loop), "{report:?}");
    assert!(report.complete);
    let paths: Vec<String> = report
        .findings
        .iter()
        .filter(|finding| matches!(finding.code, Code::TwoParents | Code::Loop))
        .map(|finding| finding.path.as_ref().expect("a path").to_string())
        .collect();
    assert!(paths.contains(&"/".to_owned()), "{paths:?}");
}

#[test]
fn names_in_the_wrong_order_across_blocks() {
    let mut craft = small();
    let file = craft.flat(".nested", b"deep\n", 5, &[]);
    let names: Vec<String> = (0..40).map(|index| format!("entry-{index:03}")).collect();
    let entries: Vec<_> =
        names.iter().map(|name| (name.as_str(), file, FileType::Regular)).collect();
    craft.directory("dir", &entries);
    let mut crafted = craft.finish();
    let block = crafted.at("dir.data") + 512;
    let name =
        usize::from(u16::from_le_bytes([crafted.bytes[block + 8], crafted.bytes[block + 9]]));
    crafted.put(block + name, b"a");
    let report = check_bytes(&crafted.bytes);
    assert!(codes(&report).contains(&Code::NameOrder), "{report:?}");
    assert!(!codes(&report).contains(&Code::DirectoryBlock), "{report:?}");
}

#[test]
fn digests_devices_and_duplicates() {
    let mut craft = small();
    craft.long_prefixes(&["erofs.fingerprint.v1"]);
    craft.superblock.compat.insert(CompatFeatures::ISHARE_XATTRS);
    let wrong = [&b"sha256:"[..], &[7; 32]].concat();
    craft.flat("bad", b"content", 7, &xattr_body(&[], &[(0x80, b"", &wrong)]));
    craft.flat("short", b"content", 7, &xattr_body(&[], &[(0x80, b"", b"sha256:")]));
    craft.flat("twice", b"x", 1, &xattr_body(&[], &[(1, b"k", b"1"), (1, b"k", b"2")]));
    craft.flat("acl", b"x", 1, &xattr_body(&[], &[(2, b"", b"nonsense")]));
    craft.flat("nowhere", b"x", 1, &xattr_body(&[u32::MAX / 8], &[]));
    craft.devices(&[DeviceSlot { tag: [0; 64], blocks: 1 << 20, unified_start: 1 }]);
    let found = codes(&check_bytes(&craft.finish().bytes));
    for code in [
        Code::DigestMismatch,
        Code::DigestMalformed,
        Code::XattrTwice,
        Code::XattrAcl,
        Code::XattrShared,
        Code::DeviceShort,
        Code::DeviceOverlap,
    ] {
        assert!(found.contains(&code), "{code} is not in {found:?}");
    }
}

#[test]
fn budgets_and_cancelling_end_a_check() {
    let image = Arc::new(Image::open(everything(9).bytes).unwrap());
    let options = CheckOptions { budget: Some(20), ..CheckOptions::default() };
    let report = check(&image, &options, Context::default());
    assert!(!report.complete && codes(&report).contains(&Code::Budget));
    let cancel = std::sync::atomic::AtomicBool::new(true);
    let context = Context { cancel: Some(&cancel), ..Context::default() };
    assert!(!check(&image, &CheckOptions::default(), context).complete);
}

#[test]
fn findings_are_limited_and_counted() {
    let mut craft = Craft::new(9);
    for index in 0..30 {
        craft.flat_of(&format!("link{index}"), FileType::Symlink, b"a\0b", 3, &[]);
    }
    let image = Arc::new(Image::open(craft.finish().bytes).unwrap());
    let options = CheckOptions { findings_max: 7, ..CheckOptions::default() };
    let report = check(&image, &options, Context::default());
    assert_eq!((report.findings.len(), report.errors), (7, 30));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["findings"][6]["code"], "EF0107");
    assert!(json["findings"][6]["path"].as_str().unwrap().starts_with("/link"));
}

/// A small generator with a fixed seed.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, end: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end.max(1)
    }
}

/// Damage anywhere: the check ends with errors or finds nothing to say; it never panics.
#[test]
fn flipped_bits_and_cut_ends() {
    let golden = Golden::unpack();
    let mut random = Lcg(7);
    let mut noticed = 0;
    for name in golden.names() {
        let bytes = Arc::new(std::fs::read(golden.image(&name)).unwrap());
        for round in 0..12 {
            // Metadata is at the front of these images.
            let span = if round % 2 == 0 { bytes.len().min(64 << 10) } else { bytes.len() };
            let len = if round % 6 == 5 { random.below(bytes.len()) } else { bytes.len() };
            let patched = Patched {
                base: Arc::clone(&bytes),
                offset: random.below(span),
                mask: 1 << random.below(8),
                checksum: None,
                len,
            };
            let open = |ignore_checksum| {
                let options = golden.devices(&name).into_iter().fold(
                    OpenOptions::new().ignore_checksum(ignore_checksum),
                    |options, device| options.device(File::open(device).unwrap()),
                );
                options.open(patched.clone())
            };
            let context = Context { workers: 2, ..Context::default() };
            let report = check_opening(open, &CheckOptions::default(), context);
            noticed += u32::from(!report.is_clean());
            assert!(report.complete || !report.findings.is_empty(), "{name}: {patched:?}");
        }
    }
    assert!(noticed > 100, "{noticed}");
}

/// Inodes that all use one huge index: work that grows with the square of the image is refused.
#[test]
fn quadratic_images_end() {
    let mut craft = Craft::new(9);
    let file = craft.flat(".file", b"x", 1, &[]);
    let entries: Vec<(String, Nid)> =
        (0..200).map(|index| (format!("n{index:03}"), Nid(file.0 + index % 3))).collect();
    let entries: Vec<_> =
        entries.iter().map(|(name, nid)| (name.as_str(), *nid, FileType::Regular)).collect();
    craft.directory("many", &entries);
    let report = check_bytes(&craft.finish().bytes);
    assert!(report.complete || codes(&report).contains(&Code::Budget));
}
