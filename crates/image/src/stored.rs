// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where on the devices the content of a file is stored: what has to be there to read it.

use crate::{Error, FileMap, Image, Location, Pcluster, Place, Result, Source};
use core::ops::Range;

/// Extents that one call looks at: more than 4 TiB of pclusters of 1 MiB. Extents of nothing are
/// counted, too, so that no file of holes takes for ever.
const EXTENTS_MAX: u32 = 1 << 22;

impl Image {
    /// Gives `visit` the runs of devices in which the content of a file is stored, in the order of
    /// the file and as often as the file refers to them: a device and its bytes. Metadata (inline
    /// tails, indexes) is not among them; the index of extents is read for it.
    pub fn stored_runs(&self, map: &FileMap, mut visit: impl FnMut(u16, Range<u64>)) -> Result<()> {
        let mut left = EXTENTS_MAX;
        self.runs_of(map, 0..map.size(), true, &mut left, &mut visit)
    }

    fn runs_of(
        &self,
        map: &FileMap,
        content: Range<u64>,
        with_fragments: bool,
        left: &mut u32,
        visit: &mut dyn FnMut(u16, Range<u64>),
    ) -> Result<()> {
        let mut cursor = map.cursor(self);
        let mut offset = content.start;
        while offset < content.end.min(map.size()) {
            *left = left.checked_sub(1).ok_or_else(|| {
                let what = "a file of more extents than are looked at";
                Error::corrupt(Place::content(map.nid(), offset), what, map.size())
            })?;
            let extent = cursor.extent_at(offset)?;
            let end = extent.end().min(content.end);
            match extent.source {
                Source::Plain(at) => {
                    let skip = offset.saturating_sub(extent.start);
                    let start = at.offset.saturating_add(skip);
                    let len = end.saturating_sub(offset);
                    visit(at.device, start..start.saturating_add(len));
                }
                Source::Pcluster(Pcluster { location: Location::Device(at), len, .. }) => {
                    visit(at.device, at.offset..at.offset.saturating_add(len.into()));
                }
                Source::Fragment { offset: at } if with_fragments => {
                    let skip = offset.saturating_sub(extent.start);
                    let start = at.saturating_add(skip);
                    let range = start..start.saturating_add(end.saturating_sub(offset));
                    if let Some(packed) = self.packed_map() {
                        // The packed inode has no fragments itself.
                        self.runs_of(packed, range, false, left, visit)?;
                    }
                }
                _ => {}
            }
            offset = extent.end();
        }
        Ok(())
    }
}
