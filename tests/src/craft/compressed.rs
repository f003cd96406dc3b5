// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compressed files with indexes, full and compact.

use super::{Behind, Craft};
use ferrofs_codec::Method;
use ferrofs_image::Nid;
use ferrofs_image::format::inode::{FileType, Layout};
use ferrofs_image::format::lcluster::compact::{self, PackRules};
use ferrofs_image::format::lcluster::header::{Advise, MapFields, MapHeader};
use ferrofs_image::format::lcluster::{Back, Head, Lcluster, full};

/// One extent of a compressed file.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// First file offset.
    pub start: usize,
    /// Bytes of the file.
    pub len: usize,
    /// First block.
    pub block: u32,
    /// Blocks.
    pub blocks: u16,
    /// How it is encoded.
    pub head: Head,
    /// It decodes to more than `len` bytes.
    pub partial: bool,
}

/// What is special about a compressed file.
#[derive(Clone, Copy, Debug)]
pub struct Compressed<'a> {
    /// HEAD1 encoder.
    pub method: &'a str,
    /// HEAD2 encoder, for every second extent.
    pub second: Option<&'a str>,
    /// Blocks of a pcluster.
    pub blocks: usize,
    /// Compact indexes.
    pub compact: bool,
    /// Advice besides what the rest implies.
    pub advise: u16,
    /// The second extent uses only part of its pcluster.
    pub partial: bool,
    /// Extents begin at blocks of the file.
    pub aligned: bool,
    /// The tail lies inline behind the indexes.
    pub inline: bool,
    /// The tail of this many bytes lies in the packed inode at this offset.
    pub fragment: Option<(usize, u32)>,
}

impl Default for Compressed<'_> {
    fn default() -> Self {
        Self {
            method: "lz4",
            second: None,
            blocks: 1,
            compact: false,
            advise: 0,
            partial: false,
            aligned: false,
            inline: false,
            fragment: None,
        }
    }
}

impl Craft {
    /// Cuts `content` into pclusters and places them.
    fn pieces(&mut self, content: &[u8], options: &Compressed<'_>) -> Vec<Piece> {
        let block = self.block();
        let mut pieces: Vec<Piece> = vec![];
        let mut start = 0;
        while start < content.len() {
            let turn = pieces.len() % 2 == 1;
            let (method, head) = match options.second {
                Some(second) if turn => (second, Head::Head2),
                _ => (options.method, Head::Head1),
            };
            let mut encoder = Method::parse(method).expect("a method").encoder().expect("encoder");
            let mut encoded = vec![0; options.blocks * block];
            let rest = &content[start..];
            let mut prefix = encoder.compress_prefix(rest, &mut encoded).expect("it compresses");
            // Of less the encoder may take less still.
            let mut whole = prefix.consumed / block * block;
            let is_good = |end: usize| end == rest.len() || end.is_multiple_of(block);
            while options.aligned && !is_good(prefix.consumed) {
                prefix =
                    encoder.compress_prefix(&rest[..whole], &mut encoded).expect("it compresses");
                whole -= block;
            }
            let blocks = prefix.written.div_ceil(block);
            let use_less = options.partial && pieces.len() == 1 && prefix.consumed > 3 * block;
            let len = if use_less { prefix.consumed - block - 7 } else { prefix.consumed };
            if blocks * block >= len || len < block {
                // What does not shrink is stored, in one block.
                let len = rest.len().min(block);
                let turned = options.advise & Advise::INTERLACED != 0;
                let stored = self.data(&stored(&rest[..len], start, block, turned));
                let piece = Piece {
                    start,
                    len,
                    block: stored,
                    blocks: 1,
                    head: Head::Plain,
                    partial: false,
                };
                pieces.push(piece);
                start += len;
                continue;
            }
            let mut padded = vec![0; blocks * block - prefix.written];
            padded.extend_from_slice(&encoded[..prefix.written]);
            let at = self.data(&padded);
            let blocks = blocks as u16;
            pieces.push(Piece { start, len, block: at, blocks, head, partial: use_less });
            start += len;
        }
        pieces
    }

    /// A compressed file with indexes.
    pub fn compressed(&mut self, name: &str, content: &[u8], options: &Compressed<'_>) -> Nid {
        self.compressed_of(name, FileType::Regular, content, options)
    }

    /// Anything with content, compressed with indexes.
    pub fn compressed_of(
        &mut self,
        name: &str,
        file_type: FileType,
        content: &[u8],
        options: &Compressed<'_>,
    ) -> Nid {
        let block = self.block();
        let fragment = options.fragment.map_or(0, |(len, _)| len);
        let inline = if options.inline { content.len() % block } else { 0 };
        let body = content.len() - fragment - inline;
        let mut pieces = self.pieces(&content[..body], options);
        let first_block = pieces.first().map_or(0, |piece| piece.block);
        let dummy = pieces.last().map_or(0, |piece| piece.block + u32::from(piece.blocks));
        if fragment + inline > 0 {
            pieces.push(Piece {
                start: body,
                len: fragment + inline,
                block: if options.compact { dummy } else { 0 },
                blocks: u16::from(inline > 0),
                head: Head::Plain,
                partial: false,
            });
        }
        let big = options.blocks > 1;
        let mut advise = options.advise;
        advise |= if big { Advise::BIG_PCLUSTER_1 | Advise::BIG_PCLUSTER_2 } else { 0 };
        advise |= if options.inline { Advise::INLINE_PCLUSTER } else { 0 };
        advise |= if fragment > 0 { Advise::FRAGMENT } else { 0 };
        let id = |method: &str| Method::parse(method).expect("a method").algorithm() as u8;
        let header = MapFields {
            word: options.fragment.map_or((inline as u32) << 16, |(_, offset)| offset),
            advise: Advise(advise),
            algorithms: id(options.method) | options.second.map_or(0, id) << 4,
            cluster_bits: 0,
        };
        let lclusters = lclusters(&pieces, content.len(), block, big, dummy);
        let mut area = MapHeader::Map(header).emit().expect("a header").to_vec();
        if options.compact {
            let rules = PackRules { lcluster_bits: self.bits.bits(), big };
            let two_byte = advise & Advise::COMPACTED_2B != 0;
            // An inode begins at a multiple of 32 and has 32 bytes, the header 8.
            compact::emit(&lclusters, 8, two_byte, rules, &mut area).expect("packs");
        } else {
            area.extend_from_slice(&[0; 8]);
            for lcluster in lclusters {
                area.extend_from_slice(&full::emit(lcluster, 0).expect("an index"));
            }
        }
        area.extend_from_slice(&content[body..body + inline]);
        let layout =
            if options.compact { Layout::CompressedCompact } else { Layout::CompressedFull };
        let mut record = self.record(file_type, layout, content.len());
        record.u = pieces.iter().map(|piece| u32::from(piece.blocks)).sum();
        self.contents.insert(format!("/{name}"), content.to_vec());
        let nid = self.inode(name, record, &Behind { xattrs: &[], unit: 8, area: &area });
        self.places.insert(format!("{name}.data"), first_block as usize * block);
        nid
    }
}

/// One block of stored bytes; rotated so that each stands at its file offset modulo the block.
fn stored(bytes: &[u8], start: usize, block: usize, rotated: bool) -> Vec<u8> {
    let mut out = vec![0; block];
    for (index, byte) in bytes.iter().enumerate() {
        out[if rotated { (start + index) % block } else { index }] = *byte;
    }
    out
}

/// lclusters of a file with these extents.
#[must_use]
pub fn lclusters(
    pieces: &[Piece],
    size: usize,
    block: usize,
    big: bool,
    eof_block: u32,
) -> Vec<Lcluster> {
    let count = size.div_ceil(block);
    let mut heads: Vec<(usize, u16, Piece)> = vec![];
    for piece in pieces {
        heads.push((piece.start / block, (piece.start % block) as u16, *piece));
    }
    if !size.is_multiple_of(block) && heads.last().is_none_or(|(at, _, _)| at + 1 < count) {
        let eof = Piece {
            start: size,
            len: 0,
            block: eof_block,
            blocks: 0,
            head: Head::Plain,
            partial: false,
        };
        heads.push((count - 1, (size % block) as u16, eof));
    }
    let mut out = Vec::with_capacity(count);
    for lcluster in 0..count {
        let last = heads.iter().rfind(|(at, _, _)| *at <= lcluster).expect("a first head");
        let next = heads.iter().map(|(at, _, _)| *at).find(|at| *at > lcluster).unwrap_or(count);
        let (at, offset, piece) = last;
        let back = lcluster - at;
        out.push(if back == 0 {
            Lcluster::Head {
                head: piece.head,
                offset: *offset,
                block: piece.block,
                partial: piece.partial,
                hole: false,
            }
        } else {
            let back = if back == 1 && big {
                Back::Blocks(piece.blocks)
            } else {
                Back::Distance(back as u16)
            };
            Lcluster::NonHead { back, forward: (next - lcluster) as u16 }
        });
    }
    out
}
