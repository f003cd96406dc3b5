// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carrying out a plan: merged reads, decodes into the caller's buffer or the cache, and waiting
//! for other readers last.

use crate::cache::Decoded;
use crate::plan::{Encoded, From, Part, plan};
use crate::registry::{Claim, Flight, Outcome, Owned};
use crate::{Engine, Scratch};
use ferrofs_image::{DeviceAddress, Error, FileMap, Location, Result, decode_extent};
use std::ops::Range;
use std::sync::Arc;

/// Claims held at once; bounds how long others wait for the first of them.
const RUN_MAX: usize = 64;

/// Pclusters claimed by this read that are neighbours on their device.
struct Run<'a, 'p> {
    members: Vec<(Range<usize>, &'p Encoded, Owned<'a>)>,
    start: DeviceAddress,
    len: usize,
}

/// The first failing byte of a read decides its error.
#[derive(Default)]
struct First {
    error: Option<(usize, Error)>,
}

impl First {
    fn note(&mut self, at: usize, error: Error) {
        if self.error.as_ref().is_none_or(|(first, _)| at < *first) {
            self.error = Some((at, error));
        }
    }

    fn check(&mut self, at: usize, result: Result<()>) {
        if let Err(error) = result {
            self.note(at, error);
        }
    }
}

impl Engine {
    pub(crate) fn read_planned(
        &self,
        map: &FileMap,
        offset: u64,
        buf: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let mut parts = std::mem::take(&mut scratch.parts);
        parts.clear();
        let result = plan(&self.image, map, offset, buf.len(), &mut parts)
            .and_then(|()| self.carry_out(&parts, buf, scratch))
            .map_err(|error| error.with_nid(map.nid()));
        scratch.parts = parts;
        if result.is_ok() {
            self.counters.reads(1);
            self.counters.bytes(buf.len());
        }
        result
    }

    fn carry_out(&self, parts: &[Part], buf: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let mut first = First::default();
        let mut run: Option<Run<'_, '_>> = None;
        let mut waits: Vec<(Range<usize>, &Encoded, Arc<Flight>)> = Vec::new();
        for part in parts {
            let at = part.target.start;
            let target = &mut buf[part.target.clone()];
            match &part.from {
                From::Zeros => target.fill(0),
                From::Device(address) => first.check(at, self.read_direct(*address, target)),
                From::Meta { space, offset } => {
                    first.check(at, self.image.read_metadata(*space, *offset, target));
                }
                From::Encoded(encoded) => match self.claim(encoded) {
                    Claim::Found(decoded) => self.copy(encoded, &decoded, target),
                    Claim::Theirs(flight) => waits.push((part.target.clone(), encoded, flight)),
                    Claim::Mine(owned) => {
                        let member = (part.target.clone(), encoded, owned);
                        if let Some(full) = self.add(&mut run, member) {
                            self.finish_run(full, buf, scratch, &mut first);
                        }
                    }
                },
            }
        }
        if let Some(run) = run {
            self.finish_run(run, buf, scratch, &mut first);
        }
        // No claim is held from here on: waiting cannot close a circle.
        for (range, encoded, flight) in waits {
            let at = range.start;
            let result = self.wait(encoded, &flight, range, buf, scratch);
            first.check(at, result);
        }
        match first.error {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn claim(&self, encoded: &Encoded) -> Claim<'_> {
        let key = encoded.key();
        let need = encoded.whole();
        if let Some(found) = self.cache.get(&key, need) {
            self.counters.hits(1);
            return Claim::Found(found);
        }
        self.registry.claim(key, need, || self.cache.get(&key, need))
    }

    /// Adds a claimed pcluster to the run, or gives back the run that it does not go with.
    fn add<'a, 'p>(
        &self,
        run: &mut Option<Run<'a, 'p>>,
        member: (Range<usize>, &'p Encoded, Owned<'a>),
    ) -> Option<Run<'a, 'p>> {
        let len = member.1.pcluster.len as usize;
        // Metadata spaces have no device address; such a pcluster is a run of its own.
        let start = match member.1.pcluster.location {
            Location::Device(at) => Some(at),
            Location::Meta { .. } => None,
        };
        if let (Some(run), Some(start)) = (run.as_mut(), start)
            && run.start.plus(run.len as u64) == Some(start)
            && matches!(run.members[0].1.pcluster.location, Location::Device(_))
            && run.len + len <= self.merge_bytes
            && run.members.len() < RUN_MAX
        {
            run.members.push(member);
            run.len += len;
            return None;
        }
        let start = start.unwrap_or(DeviceAddress { device: 0, offset: 0 });
        run.replace(Run { members: vec![member], start, len })
    }

    fn read_direct(&self, at: DeviceAddress, target: &mut [u8]) -> Result<()> {
        self.counters.device_reads(1);
        self.counters.device_bytes(target.len());
        self.counters.direct_bytes(target.len());
        self.image.read_device(at, target)
    }

    /// Reads the encoded bytes of a run in one piece and decodes its members.
    fn finish_run(
        &self,
        run: Run<'_, '_>,
        buf: &mut [u8],
        scratch: &mut Scratch,
        first: &mut First,
    ) {
        let mut staging = std::mem::take(&mut scratch.staging);
        if staging.len() < run.len {
            staging.resize(run.len, 0);
        }
        let raw = &mut staging[..run.len];
        match self.read_run(&run, raw) {
            Ok(()) => {
                let mut at = 0;
                for (range, encoded, owned) in run.members {
                    let end = at + encoded.pcluster.len as usize;
                    let start = range.start;
                    let target = &mut buf[range];
                    let result = self.decode(encoded, owned, &raw[at..end], target, scratch);
                    first.check(start, result);
                    at = end;
                }
            }
            Err(error) if run.members.len() == 1 => self.fail(run, &error, first),
            // One bad sector must not fail its neighbours: each is read by itself.
            Err(_) => {
                for (range, encoded, owned) in run.members {
                    let start = match encoded.pcluster.location {
                        Location::Device(at) => at,
                        Location::Meta { .. } => run.start,
                    };
                    let len = encoded.pcluster.len as usize;
                    let alone = Run { members: vec![(range, encoded, owned)], start, len };
                    let raw = &mut staging[..len];
                    match self.read_run(&alone, raw) {
                        Err(error) => self.fail(alone, &error, first),
                        Ok(()) => {
                            for (range, encoded, owned) in alone.members {
                                let start = range.start;
                                let target = &mut buf[range];
                                let result = self.decode(encoded, owned, raw, target, scratch);
                                first.check(start, result);
                            }
                        }
                    }
                }
            }
        }
        scratch.staging = staging;
    }

    fn read_run(&self, run: &Run<'_, '_>, raw: &mut [u8]) -> Result<()> {
        self.counters.device_reads(1);
        self.counters.device_bytes(raw.len());
        match run.members[0].1.pcluster.location {
            Location::Device(_) => self.image.read_device(run.start, raw),
            Location::Meta { space, offset } => self.image.read_metadata(space, offset, raw),
        }
    }

    fn fail(&self, run: Run<'_, '_>, error: &Error, first: &mut First) {
        for (range, encoded, owned) in run.members {
            self.counters.failures(1);
            let error = error.clone().with_nid(encoded.nid);
            owned.fail(error.clone());
            first.note(range.start, error);
        }
    }

    /// Decodes one claimed pcluster: into `target` if that takes the whole extent, else into the
    /// cache.
    fn decode(
        &self,
        encoded: &Encoded,
        owned: Owned<'_>,
        raw: &[u8],
        target: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let whole = encoded.whole();
        let direct = target.len() == whole;
        let mut fresh = (!direct).then(|| self.cache.buffer(whole));
        let output = match &mut fresh {
            Some(fresh) => fresh.bytes_mut(),
            None => &mut *target,
        };
        let Encoded { extent, pcluster, .. } = encoded;
        let rules = self.image.rules();
        let result = decode_extent(&mut scratch.decoder, rules, extent, pcluster, raw, output);
        if let Err(error) = result {
            self.counters.failures(1);
            let error = encoded.undecodable(error);
            owned.fail(error.clone());
            return Err(error);
        }
        self.counters.decodes(1);
        self.counters.decoded_bytes(whole);
        match fresh {
            None => {
                self.counters.direct_decodes(1);
                owned.finish_own(|| {
                    let mut copy = self.cache.buffer(whole);
                    copy.bytes_mut().copy_from_slice(target);
                    copy
                });
            }
            Some(fresh) => {
                let fresh = Arc::new(fresh);
                self.cache.insert(encoded.key(), Arc::clone(&fresh));
                self.copy(encoded, &fresh, target);
                owned.finish(fresh);
            }
        }
        Ok(())
    }

    fn copy(&self, encoded: &Encoded, decoded: &Decoded, target: &mut [u8]) {
        let range = encoded.within..encoded.within + target.len();
        target.copy_from_slice(&decoded[range]);
        self.counters.copied_bytes(target.len());
    }

    /// Waits for another reader, and does the work itself if that one left nothing behind.
    fn wait(
        &self,
        encoded: &Encoded,
        flight: &Flight,
        range: Range<usize>,
        buf: &mut [u8],
        scratch: &mut Scratch,
    ) -> Result<()> {
        self.counters.waits(1);
        let mut outcome = flight.wait(encoded.whole());
        loop {
            match outcome {
                Outcome::Done(decoded) => {
                    self.copy(encoded, &decoded, &mut buf[range]);
                    return Ok(());
                }
                Outcome::Failed(error) => return Err(error),
                Outcome::Retry => {}
            }
            outcome = match self.claim(encoded) {
                Claim::Found(decoded) => Outcome::Done(decoded),
                Claim::Theirs(flight) => flight.wait(encoded.whole()),
                Claim::Mine(owned) => {
                    let mut first = First::default();
                    let start = match encoded.pcluster.location {
                        Location::Device(at) => at,
                        Location::Meta { .. } => DeviceAddress { device: 0, offset: 0 },
                    };
                    let len = encoded.pcluster.len as usize;
                    let run = Run { members: vec![(range, encoded, owned)], start, len };
                    self.finish_run(run, buf, scratch, &mut first);
                    return first.error.map_or(Ok(()), |(_, error)| Err(error));
                }
            };
        }
    }
}
