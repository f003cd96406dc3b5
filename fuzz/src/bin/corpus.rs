// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the seeds of every target's corpus below the folder given, `corpus` by default:
//!
//!     cargo run --release --bin corpus
//!
//! All are made from crafted images and from streams of our own encoders, the same each time.

use ferrofs_codec::Method;
use ferrofs_fuzz::craft::{Crafted, text, xattr_body};
use ferrofs_fuzz::everything::everything;
use ferrofs_store::{Tail, make_copy};
use std::fs;
use std::path::{Path, PathBuf};

struct Corpus(PathBuf);

impl Corpus {
    fn add(&self, target: &str, name: &str, bytes: &[u8]) {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).expect("a folder for the corpus");
        fs::write(folder.join(name), bytes).expect("a seed is written");
    }
}

fn main() {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "corpus".into());
    let corpus = Corpus(Path::new(&folder).to_path_buf());
    let small = everything(9);
    images(&corpus, &small);
    records(&corpus, &small);
    streams(&corpus);
    messages(&corpus);
    corpus.add("share_pool", "everything-512", &small.bytes);
    copies(&corpus);
}

/// Copies behind digest tables, with and without ends of files left out.
fn copies(corpus: &Corpus) {
    let bytes: Vec<u8> = (0..40_000u32).map(|at| (at / 50) as u8).collect();
    let path = std::env::temp_dir().join(format!("ferrofs-corpus-{}", std::process::id()));
    fs::write(&path, &bytes).expect("a file to copy");
    let file = fs::File::open(&path).expect("the file is there");
    fs::remove_file(&path).expect("it is not needed by name");
    let tail = |start, end| Tail { range: start..end, digest_at: Some(start - 40) };
    let tails = [tail(5000, 5700), tail(6000, 9000), tail(30_000, 30_700)];
    let range = 4096..40_000;
    for (name, tails) in [("whole", &tails[..0]), ("tails", &tails[..])] {
        let copy = make_copy(&file, std::slice::from_ref(&range), tails);
        corpus.add("table_copy", name, &copy.expect("it is read"));
    }
}

/// What clients and servers of domains say.
fn messages(corpus: &Corpus) {
    let stats = r#"{"domain":"web","mechanism":"superblock","pid":7,"trusts_digests":false,
        "keep_seconds":600,"contents":1,"files":2,"saved_bytes":4096,"memory_bytes":null,
        "images":[{"number":1,"image":"/a.erofs","targets":["/mnt"],"lies":1}]}"#;
    let add = r#"{"add":{"image":{"image":"/a.erofs","offset":512,"devices":["/b"],"lazy":null},
        "mechanism":"auto","trust":true,"keep_seconds":5,"sight":{"target":"/mnt",
        "metrics":"127.0.0.1:9100","metrics_file":["/m.prom",{"secs":15,"nanos":0}]}}}"#;
    let request = |command: &str| format!(r#"{{"version":1,"command":{command}}}"#);
    let added = format!(
        r#"{{"tree":"tree/1","again":false,"images":1,"stats":{stats},"metrics":null,"notes":[]}}"#
    );
    for (name, text) in [
        ("add", request(add)),
        ("stats", request(r#"{"stats":{"memory":true}}"#)),
        ("stop", request(r#""stop""#)),
        ("added", format!(r#"{{"version":1,"ok":{added}}}"#)),
        ("answer", format!(r#"{{"version":1,"ok":{stats}}}"#)),
        ("refused", String::from(r#"{"version":1,"error":"why not"}"#)),
    ] {
        corpus.add("domain_message", name, text.as_bytes());
    }
}

fn images(corpus: &Corpus, small: &Crafted) {
    corpus.add("read_image", "everything-512", &small.bytes);
    // One defect each, that leads into code which a sound image does not reach.
    let defects: [(&str, usize, &[u8]); 6] = [
        ("no-metabox", 1024 + 81, &[0]),
        ("no-packed", 1024 + 96, &[0; 8]),
        ("plain", 1024 + 80, &[0x4c, 0]),
        ("loop", small.at("dir.data") + 24, &small.nid("root").0.to_le_bytes()),
        ("big-everywhere", small.at("full.map") + 4, &[6]),
        ("interlaced-extents", small.at("ext16.map") + 4, &[0x15]),
    ];
    for (name, offset, bytes) in defects {
        let mut crafted = small.clone();
        crafted.put(offset, bytes);
        corpus.add("read_image", name, &crafted.bytes);
    }
}

fn records(corpus: &Corpus, small: &Crafted) {
    let bytes = &small.bytes;
    corpus.add("superblock", "superblock", &bytes[1024..1024 + 256]);
    for (name, &at) in &small.places {
        let file = name.replace('.', "-");
        let upto = |len: usize| &bytes[at..(at + len).min(bytes.len())];
        if name.ends_with(".map") {
            for flags in [9, 3] {
                let head = [0, flags & 3, 8];
                corpus.add("index_packs", &format!("{file}-{flags}"), &[&head, upto(280)].concat());
                // Without the map header, so that packs begin where they do.
                let head = [0, flags & 3, 8];
                let area = [&head, &upto(280)[8..]].concat();
                corpus.add("index_packs", &format!("{file}-{flags}-packs"), &area);
            }
        } else if !name.contains('.') {
            corpus.add("superblock", &file, upto(64));
        }
    }
    corpus.add("superblock", "slot", &bytes[small.at(".devices")..][..128]);
    for (name, key) in [("root.data", "flat"), ("dir.data", "entry-020")] {
        let head = [&[key.len() as u8][..], key.as_bytes()].concat();
        let block = &bytes[small.at(name)..][..512];
        corpus.add("dirents", &name.replace('.', "-"), &[&head, block].concat());
    }
    let body = xattr_body(&[9, 10], &[(1, b"k", b"v1"), (0x80, b"er", b"value"), (2, b"", b"acl")]);
    corpus.add("xattrs", "body", &body);
    corpus.add("xattrs", "prefixes", &bytes[small.at(".prefixes")..][..32]);
    corpus.add("xattrs", "shared", &bytes[small.at(".shared")..][..32]);
    corpus.add("xattrs", "name", b"system.posix_acl_access");
}

fn streams(corpus: &Corpus) {
    let noise: Vec<u8> = (0..3000u32).map(|i| (i.wrapping_mul(0x9E37_79B1) >> 23) as u8).collect();
    let sources = [("text", text(9000, 1)), ("zeros", vec![0; 9000]), ("noise", noise)];
    for (target, methods) in [
        ("decode_lz4", &["lz4", "lz4hc"][..]),
        ("decode_lzma", &["lzma"]),
        ("decode_deflate", &["deflate,1", "deflate,9"]),
        ("decode_zstd", &["zstd,1", "zstd,19"]),
    ] {
        for method in methods {
            for (name, source) in &sources {
                for room in [64, 700, 4096] {
                    let mut encoder =
                        Method::parse(method).expect("a method").encoder().expect("an encoder");
                    let mut stream = vec![0; room];
                    let prefix = encoder.compress_prefix(source, &mut stream).expect("it encodes");
                    let [low, high, ..] = prefix.consumed.to_le_bytes();
                    let seed = [&[low, high, 8][..], &stream[..prefix.written]].concat();
                    corpus.add(target, &format!("{method}-{name}-{room}"), &seed);
                }
            }
        }
    }
}
