// SPDX-License-Identifier: MIT OR Apache-2.0
//! A tree in memory: what goes into a build and what must come out.

use core::ops::Range;
use std::collections::BTreeMap;

use ferrofs_tree::{
    Change, Error, FileData, InodeId, Metadata, NewContent, Result, Source, Timestamp, Tree,
    TreeBuilder, Xattr,
};

use sha2::{Digest, Sha256};

use crate::{BuildOptions, InodeForm};

/// Numbers that only look random.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    /// Bytes of so many different values.
    pub(super) fn bytes(&mut self, len: usize, values: u64) -> Vec<u8> {
        (0..len).map(|_| self.below(values) as u8).collect()
    }
}

/// What a path holds.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Device(bool, u32, u32),
    Fifo,
    Socket,
}

/// One inode.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) permissions: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) nlink: u32,
}

/// Inodes and the paths that name them (relative, the root's is empty).
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) nodes: Vec<Node>,
    pub(super) paths: BTreeMap<Vec<u8>, usize>,
}

impl Default for Model {
    fn default() -> Self {
        let root = node(Kind::Directory);
        Self { nodes: vec![Node { nlink: 2, ..root }], paths: BTreeMap::from([(Vec::new(), 0)]) }
    }
}

fn node(kind: Kind) -> Node {
    Node {
        kind,
        permissions: 0o755,
        uid: 0,
        gid: 0,
        mtime: (1000, 5),
        xattrs: BTreeMap::new(),
        nlink: 1,
    }
}

impl Model {
    pub(super) fn file(&mut self, name: &str, content: Vec<u8>) {
        self.paths.insert(name.as_bytes().to_vec(), self.nodes.len());
        self.nodes.push(node(Kind::File(content)));
    }

    /// An empty one, below the root.
    pub(super) fn directory(&mut self, name: &str) {
        self.paths.insert(name.as_bytes().to_vec(), self.nodes.len());
        self.nodes.push(Node { nlink: 2, ..node(Kind::Directory) });
        self.nodes[0].nlink += 1;
    }

    pub(super) fn random(dice: &mut Dice) -> Self {
        let mut model = Self::default();
        let mut directories = vec![Vec::new()];
        for number in 0..5 + dice.below(80) {
            let parent = directories[dice.below(directories.len() as u64) as usize].clone();
            let most = if dice.below(5) == 0 { 240 } else { 20 };
            let pad = dice.below(most) as usize;
            let mut path = parent.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            // Some sort before the dots.
            let first = *b" !.-a\xff".get(dice.below(6) as usize).unwrap();
            path.push(first);
            path.extend_from_slice(number.to_string().as_bytes());
            path.extend(core::iter::repeat_n(b'n', pad));
            if dice.below(12) == 0 && model.link(dice, &path) {
                continue;
            }
            let kind = random_kind(dice);
            if kind == Kind::Directory {
                directories.push(path.clone());
                let at = model.paths[&parent];
                model.nodes[at].nlink += 1;
            }
            let nlink = if kind == Kind::Directory { 2 } else { 1 };
            let mut new = Node { nlink, ..node(kind) };
            randomize(dice, &mut new);
            model.paths.insert(path, model.nodes.len());
            model.nodes.push(new);
        }
        model
    }

    /// Gives an inode a second name.
    fn link(&mut self, dice: &mut Dice, path: &[u8]) -> bool {
        let at = dice.below(self.nodes.len() as u64) as usize;
        if self.nodes[at].kind == Kind::Directory {
            return false;
        }
        self.nodes[at].nlink += 1;
        self.paths.insert(path.to_vec(), at);
        true
    }

    pub(super) fn tree(&self) -> (Tree, MemorySource) {
        let mut builder = TreeBuilder::new(metadata(&self.nodes[0]));
        let mut ids = vec![InodeId::ROOT];
        for (number, node) in self.nodes.iter().enumerate().skip(1) {
            let content = match &node.kind {
                Kind::Directory => NewContent::Directory,
                Kind::File(bytes) => {
                    let (origin, size) = (number as u32, bytes.len() as u64);
                    NewContent::File { origin, size, sparse: false }
                }
                Kind::Symlink(target) => NewContent::Symlink(target),
                &Kind::Device(block, major, minor) => NewContent::Device { block, major, minor },
                Kind::Fifo => NewContent::Fifo,
                Kind::Socket => NewContent::Socket,
            };
            ids.push(builder.add(metadata(node), content).unwrap());
        }
        for (node, &id) in self.nodes.iter().zip(&ids) {
            let xattrs = node
                .xattrs
                .iter()
                .map(|(name, value)| Xattr { name: name.clone(), value: value.clone() });
            let set = builder.intern_xattrs(xattrs.collect());
            builder.set_xattrs(id, set);
        }
        let mut entries: BTreeMap<&[u8], Vec<(&[u8], InodeId)>> = BTreeMap::new();
        for (path, &number) in self.paths.iter().filter(|(path, _)| !path.is_empty()) {
            let cut = path.iter().rposition(|&byte| byte == b'/');
            let (parent, name) =
                cut.map_or((&b""[..], &path[..]), |c| (&path[..c], &path[c + 1..]));
            entries.entry(parent).or_default().push((name, ids[number]));
        }
        for (parent, entries) in entries {
            builder.set_entries(ids[self.paths[parent]], entries).unwrap();
        }
        let files = self.nodes.iter().map(|node| match &node.kind {
            Kind::File(bytes) => bytes.clone(),
            _ => Vec::new(),
        });
        (builder.finish().unwrap(), MemorySource { files: files.collect(), fail: false })
    }

    /// Compares with what was read back, as far as the options keep things.
    pub(super) fn assert_same(&self, back: &Self, options: &BuildOptions) {
        let names = |model: &Self| model.paths.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(self), names(back));
        let keeps_time = !options.ignore_mtime && options.inode_form != InodeForm::Compact;
        let mut numbers: BTreeMap<usize, usize> = BTreeMap::new();
        for (path, &number) in &self.paths {
            let theirs = back.paths[path];
            assert_eq!(*numbers.entry(number).or_insert(theirs), theirs, "hard link {path:?}");
            let mut expected = self.nodes[number].clone();
            let mut found = back.nodes[theirs].clone();
            if !keeps_time {
                found.mtime = expected.mtime;
            }
            if options.xattrs.is_none() {
                expected.xattrs.clear();
            }
            if let Some(name) = &options.inode_digest {
                expected.xattrs.remove(name);
                if let Kind::File(bytes) = &expected.kind
                    && !bytes.is_empty()
                {
                    let value = [&b"sha256:"[..], &Sha256::digest(bytes)].concat();
                    expected.xattrs.insert(name.clone(), value);
                }
            }
            assert!(expected.kind == found.kind, "content of {path:?}");
            (expected.kind, found.kind) = (Kind::Fifo, Kind::Fifo);
            assert_eq!(expected, found, "{path:?}");
        }
    }
}

fn random_kind(dice: &mut Dice) -> Kind {
    match dice.below(14) {
        0..=2 => Kind::Directory,
        3 => {
            let most = if dice.below(3) == 0 { 4095 } else { 60 };
            let len = 1 + dice.below(most) as usize;
            Kind::Symlink(dice.bytes(len, 200).iter().map(|byte| byte + 1).collect())
        }
        4 => Kind::Device(true, 259, 70_000),
        5 => Kind::Device(false, 0, 0),
        6 => Kind::Fifo,
        7 => Kind::Socket,
        8 => Kind::File(Vec::new()),
        9 => Kind::File(vec![0; dice.below(100_000) as usize]),
        _ => {
            // Around block sizes, and in between; from well to not compressible.
            let base = 512 << dice.below(7);
            let len = (base as usize + 10).saturating_sub(dice.below(20) as usize)
                + dice.below(2) as usize * dice.below(60_000) as usize;
            let values = [2, 4, 60, 256][dice.below(4) as usize];
            Kind::File(dice.bytes(len, values))
        }
    }
}

fn randomize(dice: &mut Dice, node: &mut Node) {
    node.permissions = dice.below(0o10000) as u16;
    if dice.below(3) == 0 {
        node.uid = dice.below(200_000) as u32;
        node.gid = dice.below(70_000) as u32;
    }
    if dice.below(2) == 0 {
        node.mtime = (dice.below(1 << 30) as i64 - (1 << 29), dice.below(1_000_000_000) as u32);
    }
    for _ in 0..dice.below(3) * dice.below(4) {
        let names: [&[u8]; 7] = [
            b"user.long.a",
            b"user.b",
            b"trusted.c",
            b"security.d",
            b"system.posix_acl_access",
            b"user.long.",
            b"other.e",
        ];
        let name = names[dice.below(7) as usize].to_vec();
        let most = if dice.below(4) == 0 { 3000 } else { 12 };
        let len = dice.below(most) as usize;
        let fixed = dice.below(2) == 0;
        let value = if fixed { b"label".to_vec() } else { dice.bytes(len, 256) };
        node.xattrs.insert(name, value);
    }
}

fn metadata(node: &Node) -> Metadata {
    Metadata {
        permissions: node.permissions,
        uid: node.uid,
        gid: node.gid,
        mtime: Timestamp { seconds: node.mtime.0, nanoseconds: node.mtime.1 },
        ..Metadata::default()
    }
}

/// Content in memory.
pub(super) struct MemorySource {
    files: Vec<Vec<u8>>,
    /// Every file changes as soon as it is read.
    pub(super) fail: bool,
}

impl Source for MemorySource {
    fn open<'a>(&'a self, tree: &'a Tree, file: InodeId) -> Result<Box<dyn FileData + 'a>> {
        let ferrofs_tree::Content::File { origin, .. } = tree.content(file) else {
            panic!("{file} is not a regular file");
        };
        Ok(Box::new(MemoryFile { bytes: &self.files[origin as usize], fail: self.fail }))
    }
}

struct MemoryFile<'a> {
    bytes: &'a [u8],
    fail: bool,
}

impl FileData for MemoryFile<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.copy_from_slice(&self.bytes[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }

    fn next_data(&mut self, offset: u64) -> Result<Option<Range<u64>>> {
        let end = self.bytes.len() as u64;
        Ok((offset < end).then_some(offset..end))
    }

    fn verify(&mut self) -> Result<()> {
        if self.fail {
            return Err(Error::Changed { path: "memory".into(), what: Change::Time });
        }
        Ok(())
    }
}
