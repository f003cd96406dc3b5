// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use proptest::prelude::*;
use std::vec;

fn head(head: Head, offset: u16, block: u32) -> Lcluster {
    Lcluster::Head { head, offset, block, partial: false, hole: false }
}

fn decode_all(bytes: &[u8], start: u64, n: u64, two: bool, rules: PackRules) -> Vec<Lcluster> {
    let layout = PackLayout::new(start, n, two);
    assert_eq!(layout.byte_len(), bytes.len() as u64);
    let mut out = vec![];
    while (out.len() as u64) < n {
        let at = layout.locate(out.len() as u64);
        assert_eq!(at.first, out.len() as u64);
        let used = (n - at.first).min(at.pack.entries() as u64) as usize;
        let pack = parse(&bytes[at.offset as usize..], at.pack, used, rules).unwrap();
        out.extend_from_slice(pack.entries());
    }
    out
}

/// The file of format.md §10.2: 25 lclusters, packs from 0x508.
#[test]
fn worked_example_small_pclusters() {
    let bytes = hex("0010481f00000000 0120012002000000 8815012002000000 \
         805100f8620580b85200d81205806050000823ed7f01606a17005e7303000000 \
         0120fe0f0c000000 a00600000d000000");
    let rules = PackRules { lcluster_bits: 12, big: false };
    let all = decode_all(&bytes, 0x508, 25, true, rules);
    assert_eq!(all[0], head(Head::Head1, 0, 1));
    assert_eq!(all[1], head(Head::Head1, 0xf48, 2));
    assert_eq!(all[3], Lcluster::NonHead { back: Back::Distance(2), forward: 1 });
    assert_eq!(all[4], head(Head::Head1, 0x588, 3));
    assert_eq!(all[6], head(Head::Head1, 0x180, 4));
    assert_eq!(all[8], head(Head::Head1, 0x62f, 5));
    let heads: Vec<usize> = (0..25).filter(|&i| matches!(all[i], Lcluster::Head { .. })).collect();
    assert_eq!(heads, [0, 1, 4, 6, 8, 10, 12, 14, 16, 17, 19, 21, 23, 24]);
    assert_eq!(all[23], head(Head::Plain, 4094, 13));
    assert_eq!(all[24], head(Head::Plain, 1696, 14));
    let mut out = vec![];
    emit(&all, 0x508, true, rules, &mut out).unwrap();
    assert_eq!(out, bytes);
}

#[test]
fn worked_example_big_pclusters() {
    let bytes = hex("0010042801000000 0220062005000000 0420042005000000 \
         06e0018800326604a8003800128005a0017800228011d9002a000e8005000000 \
         042001200c000000 a00600000c000000");
    let rules = PackRules { lcluster_bits: 12, big: true };
    let all = decode_all(&bytes, 0x528, 25, true, rules);
    assert_eq!(all[0], head(Head::Head1, 0, 1));
    // A block count that ends its pack leaves no room for delta1: the next pack tells.
    assert_eq!(all[1], Lcluster::NonHead { back: Back::Blocks(4), forward: 1 });
    assert_eq!(all[3], Lcluster::NonHead { back: Back::Distance(3), forward: 6 });
    assert_eq!(all[9], head(Head::Head1, 2444, 5));
    assert_eq!(all[18], head(Head::Head1, 2321, 9));
    assert_eq!(all[21], Lcluster::NonHead { back: Back::Distance(3), forward: 3 });
    assert_eq!(all[24], head(Head::Plain, 1696, 12));
    let mut out = vec![];
    emit(&all, 0x528, true, rules, &mut out).unwrap();
    assert_eq!(out, bytes);
}

#[test]
fn refusals() {
    let rules = PackRules { lcluster_bits: 12, big: true };
    // HEAD1 followed by a NONHEAD without a block count.
    assert!(parse(&hex("0010012001000000"), Pack::Four, 2, rules).is_err());
    // Block count without big pclusters.
    let small = PackRules { big: false, ..rules };
    assert!(parse(&hex("0010042801000000"), Pack::Four, 2, small).is_err());
    let wide = PackRules { lcluster_bits: 15, big: false };
    assert!(parse(&[0; 8], Pack::Four, 2, wide).is_err());
    let sub_page = PackRules { lcluster_bits: 9, big: false };
    assert!(parse(&hex("0012000001000000"), Pack::Four, 1, sub_page).is_err(), "offset >= 512");
    // A gap between pclusters of one pack cannot be expressed.
    let gap = [head(Head::Head1, 0, 1), head(Head::Head1, 5, 9)];
    assert!(emit(&gap, 0, false, small, &mut vec![]).is_err());
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().filter_map(|b| (b as char).to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Lclusters of a made-up file: extents of `lens` lclusters each, one pcluster of `blocks` each.
fn model(extents: &[(u16, u16)], big: bool) -> Vec<Lcluster> {
    let mut out = vec![];
    let mut block = 100u32;
    for &(len, blocks) in extents {
        out.push(head(Head::Head1, 0, block));
        for lcluster in 1..len {
            let back = if big && lcluster == 1 {
                Back::Blocks(blocks)
            } else {
                Back::Distance(lcluster.min(DELTA_MAX))
            };
            out.push(Lcluster::NonHead { back, forward: (len - lcluster).min(DELTA_MAX) });
        }
        block += if big && len > 1 { u32::from(blocks) } else { 1 };
    }
    out
}

proptest! {
    #[test]
    fn what_is_emitted_is_read_back(
        extents in proptest::collection::vec((1u16..40, 1u16..200), 1..60),
        start in 0u64..4, big: bool, two: bool,
    ) {
        let start = start * 8;
        let rules = PackRules { lcluster_bits: 12, big };
        let all = model(&extents, big);
        let mut out = vec![];
        emit(&all, start, two, rules, &mut out).unwrap();
        let back = decode_all(&out, start, all.len() as u64, two, rules);
        for (index, (meant, read)) in all.iter().zip(&back).enumerate() {
            // Behind a pack's end the distance ends at the pack when a block count closes it.
            if let (
                Lcluster::NonHead { back: a, forward: f },
                Lcluster::NonHead { back: b, forward: g },
            ) = (meant, read)
            {
                prop_assert_eq!(a, b, "lcluster {}", index);
                prop_assert!(g <= f && *g >= 1, "lcluster {}: {} {}", index, f, g);
            } else {
                prop_assert_eq!(meant, read, "lcluster {}", index);
            }
        }
    }

    #[test]
    fn arbitrary_packs_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
        bits in 9u8..16, big: bool, two: bool, used in 0usize..20,
    ) {
        let pack = if two { Pack::Two } else { Pack::Four };
        let rules = PackRules { lcluster_bits: bits, big };
        let _ = parse(&bytes, pack, used, rules);
    }
}
