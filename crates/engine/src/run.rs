// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pclusters that are read together: where their encoded bytes go, and their decoding.
//!
//! If the request wants an extent whole and LZ4 allows it, the encoded bytes are read into the
//! output itself, behind the place where they are decoded to. Those of a row of extents go there in
//! one piece, so that the row ends shortly behind the last extent:
//!
//! ```text
//! output   |  extent 1  |  extent 2  |  extent 3  | room
//! encoded                          | 1 | 2 |  3 |
//! ```
//!
//! Decoding goes from left to right and stays behind what it reads, by the margin of format.md §13.6.

use crate::cache::{Decoded, Hit, Key, Raw};
use crate::fault::{FaultKind, Occasion};
use crate::output::Output;
use crate::plan::Encoded;
use crate::read::{Claimed, Context, Found};
use crate::registry::Need;
use crate::request::{Hint, Surplus};
use crate::{Core, Scratch};
use ferrofs_image::{
    Algorithm, Corruption, DecodeError, Decoder, DeviceAddress, Encoding, Error, Extent, Location,
    Nid, Result, decode_extent, decode_extent_in_place,
};
use std::io::{ErrorKind, IoSliceMut};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// Pclusters in a run at most; bounds how long others wait for the first of them.
const RUN_MAX: usize = 64;

/// A claimed pcluster and what is wanted of it.
pub(crate) struct Member<'a, 'p> {
    /// Where in the request; empty if it is only to be kept.
    pub(crate) target: Range<usize>,
    /// Which bytes of the extent.
    pub(crate) wanted: Range<usize>,
    pub(crate) encoded: &'p Encoded,
    pub(crate) owned: Claimed<'a>,
    /// Its encoded bytes, if they are in memory.
    pub(crate) raw: Option<Arc<Raw>>,
    /// Keep the encoded bytes.
    pub(crate) keep: bool,
}

impl Member<'_, '_> {
    /// Bytes to read.
    pub(crate) fn raw_len(&self) -> usize {
        if self.raw.is_some() { 0 } else { self.encoded.pcluster.len as usize }
    }

    pub(crate) fn cost(&self) -> u64 {
        self.encoded.key().decode_cost(self.wanted.end)
    }

    /// Bytes that decoding it in place must be ahead of what it reads; `None`: not in place.
    fn margin(&self, core: &Core) -> Option<usize> {
        let direct = self.target.len() == self.encoded.whole() && !self.keep && self.raw.is_none();
        let margin = core.image.rules().in_place_margin(&self.encoded.pcluster);
        margin.filter(|_| direct && self.encoded.is_on_device())
    }
}

/// Claimed pclusters of which those to be read are neighbours on their device, in ascending order of
/// their targets.
pub(crate) struct Run<'a, 'p> {
    members: Vec<Member<'a, 'p>>,
    /// Bytes to read.
    len: usize,
}

impl Run<'_, '_> {
    /// First byte of the request that it delivers.
    pub(crate) fn start(&self) -> usize {
        self.members.first().map_or(0, |member| member.target.start)
    }
}

/// Groups pclusters into runs of at most `limit` bytes to read.
pub(crate) fn runs<'a, 'p>(members: Vec<Member<'a, 'p>>, limit: usize) -> Vec<Run<'a, 'p>> {
    let mut runs: Vec<Run<'a, 'p>> = Vec::new();
    // Where the next neighbour of the last run would be.
    let mut next: Option<DeviceAddress> = None;
    for member in members {
        let len = member.raw_len();
        let at = match member.encoded.pcluster.location {
            Location::Device(at) if len > 0 => Some(at),
            _ => None,
        };
        let behind = at.and_then(|at| at.plus(len as u64));
        if let Some(run) = runs.last_mut()
            && at.is_some()
            && next == at
            && run.len + len <= limit
            && run.members.len() < RUN_MAX
        {
            run.members.push(member);
            run.len += len;
        } else {
            runs.push(Run { members: vec![member], len });
        }
        next = behind;
    }
    runs
}

/// Members whose encoded bytes are read into the output.
#[derive(Debug)]
struct InPlace {
    members: Range<usize>,
    /// Where in the request the encoded bytes lie.
    raw: Range<usize>,
}

/// Where the encoded bytes of a member are.
enum Place<'r> {
    Kept(Arc<Raw>),
    Staged(&'r [u8]),
    /// In the output, up to this byte of the request.
    Output(usize),
}

impl Core {
    /// Reads and decodes a run. `out` must reach from the run's first target to its last; what it
    /// has behind that is room.
    pub(crate) fn execute(
        &self,
        run: Run<'_, '_>,
        context: &Context,
        out: &mut Output<'_>,
        scratch: &mut Scratch,
        found: &mut Found,
    ) {
        if run.len == 0 {
            for mut member in run.members {
                if let Some(raw) = member.raw.take() {
                    self.decode(
                        member,
                        Place::Kept(raw),
                        context,
                        out,
                        &mut scratch.decoder,
                        found,
                    );
                }
            }
            return;
        }
        let Some(run) = self.execute_in_memory(run, context, out, scratch, found) else { return };
        let in_place = self.place(&run.members, out);
        let inside = |index| in_place.as_ref().is_some_and(|place| place.members.contains(&index));
        let mut staging = std::mem::take(&mut scratch.staging);
        let mut kept: Vec<Option<Raw>> = Vec::with_capacity(run.members.len());
        let mut staged = 0;
        for (index, member) in run.members.iter().enumerate() {
            let len = member.raw_len();
            if !member.keep && !inside(index) {
                staged += len;
            }
            kept.push(member.keep.then(|| self.caches.raw(len)));
        }
        if staging.len() < staged {
            staging.resize(staged, 0);
        }
        self.counters.staging_bytes(staged);
        self.counters.merged(run.members.len() - 1);

        if let Err(error) =
            self.read_run(&run.members, &mut staging[..staged], &mut kept, in_place.as_ref(), out)
        {
            scratch.staging = staging;
            return self.fail_read(run, &error, context, out, scratch, found);
        }
        let mut at = 0;
        let mut end = in_place.as_ref().map_or(0, |place| place.raw.start);
        for ((index, member), own) in run.members.into_iter().enumerate().zip(kept) {
            let len = member.raw_len();
            let raw = if let Some(own) = own {
                Place::Kept(Arc::new(own))
            } else if in_place.as_ref().is_some_and(|place| place.members.contains(&index)) {
                end += len;
                Place::Output(end)
            } else {
                at += len;
                Place::Staged(&staging[at - len..at])
            };
            self.decode(member, raw, context, out, &mut scratch.decoder, found);
        }
        scratch.staging = staging;
    }

    /// Decodes a run from a device that is in memory; gives the run back if it is not, or if a read
    /// of it is to fail.
    fn execute_in_memory<'a, 'p>(
        &self,
        run: Run<'a, 'p>,
        context: &Context,
        out: &mut Output<'_>,
        scratch: &mut Scratch,
        found: &mut Found,
    ) -> Option<Run<'a, 'p>> {
        let first = run.members.first()?;
        let Location::Device(at) = first.encoded.pcluster.location else { return Some(run) };
        let Some(mut bytes) = self.image.device_bytes(at, run.len) else { return Some(run) };
        if self.faults.any() {
            return Some(run);
        }
        self.counters.borrowed_bytes(run.len);
        for member in run.members {
            let (now, later) = bytes.split_at(member.raw_len());
            bytes = later;
            let member = Member { keep: false, ..member };
            self.decode(member, Place::Staged(now), context, out, &mut scratch.decoder, found);
        }
        None
    }

    /// Which members can be decoded in place, and where their encoded bytes must lie for that.
    fn place(&self, members: &[Member<'_, '_>], out: &mut Output<'_>) -> Option<InPlace> {
        let first = members.iter().position(|member| member.margin(self).is_some())?;
        let start = members[first].target.start;
        let limit = start + out.piece_from(start).len();
        let mut end = first;
        while let Some(member) = members.get(end)
            && member.margin(self).is_some()
            && (end == first || members[end - 1].target.end == member.target.start)
            && member.target.end <= limit
        {
            end += 1;
        }
        // Each round drops the member that has no room, and what is behind it.
        while end > first {
            let group = &members[first..end];
            let margin = |member: &Member<'_, '_>| member.margin(self).unwrap_or(usize::MAX);
            let most = group.iter().map(margin).max().unwrap_or(0);
            let raw_end = group.last()?.target.end.saturating_add(most).min(limit);
            let mut at = raw_end;
            let mut tight = None;
            for (index, member) in group.iter().enumerate().rev() {
                let ahead = at.checked_sub(member.target.end);
                let start = at.checked_sub(member.raw_len());
                if ahead.is_none_or(|ahead| ahead < margin(member))
                    || start.is_none_or(|start| start < member.target.start)
                {
                    tight = Some(index);
                }
                at = start.unwrap_or(0);
            }
            match tight {
                None => return Some(InPlace { members: first..end, raw: at..raw_end }),
                // The leftmost one without room. Without it the others have more.
                Some(index) => end = first + index,
            }
        }
        None
    }

    fn read_run(
        &self,
        members: &[Member<'_, '_>],
        staging: &mut [u8],
        kept: &mut [Option<Raw>],
        in_place: Option<&InPlace>,
        out: &mut Output<'_>,
    ) -> Result<()> {
        let Some(first) = members.first() else { return Ok(()) };
        let at = match first.encoded.pcluster.location {
            Location::Device(at) => at,
            Location::Meta { space, offset } => {
                return self.image.read_metadata(space, offset, staging);
            }
        };
        self.strike_read(at, first.encoded.nid)?;
        let started = Instant::now();
        let len: usize = members.iter().map(Member::raw_len).sum();
        self.counters.device_reads(1);
        self.counters.device_bytes(len);
        let mut direct = in_place.and_then(|place| out.contiguous(&place.raw));
        let result = match &mut direct {
            Some(direct) if direct.len() == len => self.image.read_device(at, direct),
            None if staging.len() == len => self.image.read_device(at, staging),
            _ => {
                let mut bufs = Vec::with_capacity(members.len());
                let mut staging = staging;
                for ((index, member), own) in members.iter().enumerate().zip(kept) {
                    if let Some(own) = own {
                        bufs.push(IoSliceMut::new(own.bytes_mut()));
                    } else if in_place.is_some_and(|place| place.members.contains(&index)) {
                        bufs.extend(direct.take().map(IoSliceMut::new));
                    } else {
                        let (now, later) = staging.split_at_mut(member.raw_len());
                        bufs.push(IoSliceMut::new(now));
                        staging = later;
                    }
                }
                self.image.read_device_vectored(at, &mut bufs)
            }
        };
        self.counters.device_time.note(started.elapsed());
        result
    }

    /// The read of a run failed. One bad sector must not fail its neighbours: each is read by
    /// itself.
    fn fail_read(
        &self,
        run: Run<'_, '_>,
        error: &Error,
        context: &Context,
        out: &mut Output<'_>,
        scratch: &mut Scratch,
        found: &mut Found,
    ) {
        let alone = run.members.len() == 1;
        for member in run.members {
            if alone {
                self.counters.io_failures(1);
                let error = error.clone().with_nid(member.encoded.nid);
                found.fail(member.target, error.clone());
                member.owned.fail(error, None);
            } else {
                let run = Run { len: member.raw_len(), members: vec![member] };
                self.execute(run, context, out, scratch, found);
            }
        }
    }

    /// Reads a device, counted, timed, and with the faults that were asked for.
    pub(crate) fn read_device(&self, at: DeviceAddress, nid: Nid, buf: &mut [u8]) -> Result<()> {
        self.strike_read(at, nid)?;
        let started = Instant::now();
        self.counters.device_reads(1);
        self.counters.device_bytes(buf.len());
        let result = self.image.read_device(at, buf);
        self.counters.device_time.note(started.elapsed());
        result
    }

    fn strike_read(&self, at: DeviceAddress, nid: Nid) -> Result<()> {
        let occasion = Occasion { decode: false, device: Some(at.device), nid };
        let (kind, errno) = match self.faults.strike(occasion) {
            Some(FaultKind::ReadError) => (ErrorKind::Other, Some(5)),
            Some(FaultKind::ShortRead) => (ErrorKind::UnexpectedEof, None),
            _ => return Ok(()),
        };
        Err(Error::Io { device: at.device, offset: at.offset, len: 0, kind, errno })
    }

    fn strike_decode(&self, encoded: &Encoded) -> Result<()> {
        let device = match encoded.pcluster.location {
            Location::Device(at) => Some(at.device),
            Location::Meta { .. } => None,
        };
        match self.faults.strike(Occasion { decode: true, device, nid: encoded.nid }) {
            Some(FaultKind::NoMemory) => Err(Error::Io {
                device: device.unwrap_or(0),
                offset: encoded.address(),
                len: u64::from(encoded.pcluster.len),
                kind: ErrorKind::OutOfMemory,
                errno: Some(12),
            }),
            Some(FaultKind::Decode) => Err(encoded.injected()),
            _ => Ok(()),
        }
    }

    /// Decodes one claimed pcluster, delivers what is wanted of it, and ends the claim.
    fn decode(
        &self,
        member: Member<'_, '_>,
        raw: Place<'_>,
        context: &Context,
        out: &mut Output<'_>,
        decoder: &mut Decoder,
        found: &mut Found,
    ) {
        let need = member.owned.begin();
        let started = Instant::now();
        let result = self
            .strike_decode(member.encoded)
            .and_then(|()| self.decode_bytes(&member, &raw, need, out, decoder));
        self.counters.decode_time.note(started.elapsed());
        let Member { target, wanted, encoded, owned, keep, .. } = member;
        let key = encoded.key();
        let fresh = match result {
            Ok(fresh) => fresh,
            Err(error) => {
                // Never kept, also if it was when it came.
                self.caches.forget_encoded(&key);
                let io = matches!(error, Error::Io { .. });
                if io {
                    self.counters.io_failures(1);
                } else {
                    self.counters.decode_failures(1);
                }
                found.fail(target, error.clone());
                // Another length may decode; a failing device fails for all.
                return owned.fail(error, (!io).then_some(need));
            }
        };
        self.counters.decodes(1);
        if keep && let Place::Kept(raw) = raw {
            self.caches.keep_encoded(key, raw);
        }
        let Some(fresh) = fresh else {
            let whole = encoded.whole();
            self.counters.decoded_bytes(whole);
            self.counters.direct_decodes(1);
            return owned.finish(whole, || {
                let mut copy = self.caches.buffer(whole, encoded.phase());
                out.for_each(&target, |skip, piece| {
                    copy.bytes_mut()[skip..skip + piece.len()].copy_from_slice(piece);
                });
                self.counters.copied_bytes(whole);
                Arc::new(copy)
            });
        };
        let fresh = Arc::new(fresh);
        self.counters.decoded_bytes(fresh.len());
        self.counters.partial_decodes(usize::from(fresh.len() < encoded.whole()));
        if !target.is_empty() {
            self.copy(&Hit::Extent(Arc::clone(&fresh)), &wanted, &target, out);
        }
        self.keep(key, &fresh, &wanted, target.is_empty(), context);
        // What comes out of the packed inode lies elsewhere in the file.
        if found.wants_surplus && encoded.nid == context.nid && fresh.len() > wanted.len() {
            let Extent { start, .. } = encoded.extent;
            found.surplus.push(Surplus::new(start, encoded.whole(), key, Arc::clone(&fresh)));
        }
        let bytes = fresh.len();
        owned.finish(bytes, || fresh);
    }

    fn keep(
        &self,
        key: Key,
        fresh: &Arc<Decoded>,
        wanted: &Range<usize>,
        warm: bool,
        context: &Context,
    ) {
        if wanted.len() == fresh.len() && !warm {
            return;
        }
        if context.hint != Hint::Random && self.caches.keeps_extent(fresh.len()) {
            self.caches.keep_extent(key, Arc::clone(fresh));
        } else {
            self.caches.keep_pages(key, fresh);
        }
    }

    /// Decodes into the output (and returns nothing), or into a buffer of its own.
    fn decode_bytes(
        &self,
        member: &Member<'_, '_>,
        raw: &Place<'_>,
        need: Need,
        out: &mut Output<'_>,
        decoder: &mut Decoder,
    ) -> Result<Option<Decoded>> {
        let Member { target, wanted, encoded, .. } = member;
        let whole = encoded.whole();
        let direct = target.len() == whole && need.bytes == whole;
        let rules = self.image.rules();
        let Encoded { extent, pcluster, .. } = encoded;
        let copy;
        let bytes: &[u8] = match raw {
            Place::Output(end) if direct => {
                let buf = out.contiguous(&(target.start..*end)).unwrap_or_default();
                let decoded = decode_extent_in_place(decoder, rules, extent, pcluster, buf);
                self.counters.in_place_decodes(1);
                return decoded.map(|()| None).map_err(|error| encoded.undecodable(error));
            }
            Place::Output(end) => {
                // Somebody joined who needs more than the extent has. The bytes must not be
                // overwritten while more than that is decoded.
                let from = end - pcluster.len as usize;
                copy = out.contiguous(&(from..*end)).unwrap_or_default().to_vec();
                self.counters.staging_bytes(copy.len());
                &copy
            }
            Place::Kept(bytes) => bytes,
            Place::Staged(bytes) => bytes,
        };
        if direct && let Some(dst) = out.contiguous(target) {
            let decoded = decode_extent(decoder, rules, extent, pcluster, bytes, dst);
            return decoded.map(|()| None).map_err(|error| encoded.undecodable(error));
        }
        let mut fresh = self.caches.buffer(need.bytes, encoded.phase());
        let mut decoded = decode_extent(decoder, rules, extent, pcluster, bytes, fresh.bytes_mut());
        if decoded.is_err() && need.bytes > wanted.end.max(whole) {
            // Somebody else wanted more than there is.
            fresh = self.caches.buffer(whole, encoded.phase());
            decoded = decode_extent(decoder, rules, extent, pcluster, bytes, fresh.bytes_mut());
        }
        decoded.map(|()| Some(fresh)).map_err(|error| encoded.undecodable(error))
    }
}

impl Encoded {
    pub(crate) const fn is_on_device(&self) -> bool {
        matches!(self.pcluster.location, Location::Device(_))
    }

    /// Where the encoded bytes begin.
    pub(crate) const fn address(&self) -> u64 {
        match self.pcluster.location {
            Location::Device(at) => at.offset,
            Location::Meta { offset, .. } => offset,
        }
    }

    fn injected(&self) -> Error {
        let algorithm = match self.pcluster.encoding {
            Encoding::Compressed(algorithm) => algorithm,
            // Only compressed pclusters are claimed.
            Encoding::Shifted | Encoding::Interlaced => Algorithm::Lz4,
        };
        self.undecodable(DecodeError::Corrupt { algorithm, reason: Corruption::Malformed })
    }
}
