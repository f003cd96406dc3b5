// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carrying out a request: claims first, then reads and decodes, then what needs neither, and
//! waiting for other readers last.

use crate::cache::{Decoded, Hit, Key, PAGE};
use crate::config::{EngineConfig, Strategy, SyncDecompression, Wanted};
use crate::output::Output;
use crate::plan::{Encoded, From, Part, plan};
use crate::registry::{Claim, Joined, Need, Outcome, Owned};
use crate::request::{Failure, Hint, Report, Request, Surplus};
use crate::run::{Member, Run, runs};
use crate::{Core, Scratch};
use ferrofs_image::{DeviceAddress, Error, FileMap, Nid, Result};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

pub(crate) type Claimed<'a> = Owned<'a, Key, Arc<Decoded>, Error>;
pub(crate) type Waiting = Joined<Arc<Decoded>, Error>;

/// Bytes of a request that are worked on at a time: bounds the claims held and the plan's memory.
const WINDOW: usize = 8 << 20;
/// Cost of decodes from which on help is worth calling for, in bytes of LZ4: waking a thread takes
/// as long as decoding some ten thousands.
const ASSIST_COST: u64 = 384 << 10;

/// What a request has come to so far.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) failures: Vec<Failure>,
    pub(crate) surplus: Vec<Surplus>,
    pub(crate) wants_surplus: bool,
}

impl Found {
    pub(crate) fn fail(&mut self, range: Range<usize>, error: Error) {
        self.failures.push(Failure { range, error });
    }

    fn check(&mut self, range: &Range<usize>, result: Result<()>) {
        if let Err(error) = result {
            self.fail(range.clone(), error);
        }
    }

    fn absorb(&mut self, other: Self) {
        self.failures.extend(other.failures);
        self.surplus.extend(other.surplus);
    }
}

/// Settings and circumstances of one request.
#[derive(Clone, Copy)]
pub(crate) struct Context {
    pub(crate) config: EngineConfig,
    pub(crate) hint: Hint,
    /// The file that is read.
    pub(crate) nid: Nid,
    len: usize,
}

impl Encoded {
    /// The bytes of the extent that `part` wants.
    fn wanted(&self, target: &Range<usize>) -> Range<usize> {
        self.within..self.within + target.len()
    }

    /// Offset of the extent in the page of its file.
    pub(crate) const fn phase(&self) -> u16 {
        (self.extent.start % PAGE as u64) as u16
    }
}

impl Core {
    /// Serves `request`, of which `len` bytes lie inside the file.
    pub(crate) fn serve(
        &self,
        map: &FileMap,
        request: &Request,
        len: usize,
        mut out: Output<'_>,
    ) -> Report {
        let started = Instant::now();
        let context = Context { config: self.config(), hint: request.hint, nid: map.nid(), len };
        let mut found = Found { wants_surplus: request.surplus, ..Found::default() };
        let mut scratch = self.scratch();
        let mut parts = std::mem::take(&mut scratch.parts);
        let mut done = 0;
        while done < len {
            let count = (len - done).min(WINDOW);
            parts.clear();
            let offset = request.offset + done as u64;
            match plan(&self.image, map, offset, done..done + count, &mut parts) {
                Ok(()) => {
                    let last = done + count == len;
                    self.window(&parts, last, &context, &mut out, &mut scratch, &mut found);
                }
                // What was planned before the extent that cannot be found is right, and is wanted.
                Err(error) => {
                    let planned = parts.last().map_or(done, |part| part.target.end);
                    self.window(&parts, false, &context, &mut out, &mut scratch, &mut found);
                    found.fail(planned..done + count, error);
                }
            }
            done += count;
        }
        scratch.parts = parts;
        self.give_back(scratch);
        let mut report = Report { len, failures: found.failures, surplus: found.surplus };
        report.settle();
        for failure in &mut report.failures {
            failure.error = failure.error.clone().with_nid(map.nid());
        }
        let failed: usize = report.failures.iter().map(|failure| failure.range.len()).sum();
        self.counters.requests(1);
        self.counters.failed_requests(usize::from(failed > 0));
        self.counters.bytes(len.saturating_sub(failed));
        self.counters.request_time.note(started.elapsed());
        report
    }

    fn window(
        &self,
        parts: &[Part],
        last_window: bool,
        context: &Context,
        out: &mut Output<'_>,
        scratch: &mut Scratch,
        found: &mut Found,
    ) {
        let mut members: Vec<Member<'_, '_>> = Vec::new();
        let mut hits: Vec<(&Range<usize>, Key, Range<usize>, Hit)> = Vec::new();
        let mut waits: Vec<(&Range<usize>, &Encoded, Waiting)> = Vec::new();
        let is_encoded = |part: &Part| matches!(part.from, From::Encoded(_));
        let last = parts.iter().rposition(is_encoded).filter(|_| last_window);
        for (index, part) in parts.iter().enumerate() {
            let From::Encoded(encoded) = &part.from else { continue };
            let wanted = encoded.wanted(&part.target);
            match self.claim(encoded, &wanted, context) {
                Claim::Found(hit) => hits.push((&part.target, encoded.key(), wanted, hit)),
                Claim::Theirs(joined) => waits.push((&part.target, encoded, joined)),
                Claim::Mine(owned) => {
                    let last = last == Some(index);
                    members.push(self.member(part.target.clone(), encoded, owned, context, last));
                }
            }
        }
        let looked_up = members.len() + hits.len() + waits.len();
        if looked_up > 0 && waits.is_empty() && members.iter().all(|member| member.raw.is_some()) {
            self.counters.bypassed(1);
        }
        if !members.is_empty() {
            self.carry_out(members, context, out, scratch, found);
        }
        // From here on no claim is held. What follows is not touched by decoding in place any more.
        for part in parts {
            let target = &part.target;
            match &part.from {
                From::Zeros => out.for_each(target, |_, piece| piece.fill(0)),
                From::Device(at) => {
                    found.check(target, self.read_stored(*at, target, context, out));
                }
                From::Meta { space, offset } => {
                    let mut result = Ok(());
                    out.for_each(target, |skip, piece| {
                        let at = offset + skip as u64;
                        let read = self.image.read_metadata(*space, at, piece);
                        result = result.clone().and(read);
                    });
                    found.check(target, result);
                }
                From::Encoded(_) => {}
            }
        }
        for (target, key, wanted, hit) in hits {
            let whole = matches!(&hit, Hit::Extent(decoded) if decoded.len() == wanted.len());
            if self.copy(&hit, &wanted, target, out) || whole {
                // The kernel's strategies keep what they keep.
                let split = context.config.strategy == Strategy::Split;
                self.caches.forget_extent(&key, split);
            }
        }
        for (target, encoded, joined) in waits {
            self.wait(encoded, joined, target, context, out, scratch, found);
        }
    }

    /// What must be decoded for `wanted`.
    fn need(&self, encoded: &Encoded, wanted: &Range<usize>, context: &Context) -> Need {
        let whole = encoded.whole();
        let around = match context.hint {
            Hint::None => true,
            Hint::Readahead => context.config.readmore,
            Hint::Random => false,
        };
        if wanted.end == whole || (around && self.caches.keeps_extent(whole)) {
            Need { bytes: whole, exact: !encoded.pcluster.partial }
        } else {
            Need { bytes: wanted.end, exact: false }
        }
    }

    fn claim(
        &self,
        encoded: &Encoded,
        wanted: &Range<usize>,
        context: &Context,
    ) -> Claim<'_, Key, Arc<Decoded>, Error, Hit> {
        let key = encoded.key();
        let need = self.need(encoded, wanted, context);
        let find = || self.caches.find(&key, encoded.phase(), wanted);
        let claim = match find() {
            Some(hit) => Claim::Found(hit),
            None => self.registry.claim(key, need, find),
        };
        self.counters.lookups(1);
        match &claim {
            Claim::Found(Hit::Extent(_)) => self.counters.extent_hits(1),
            Claim::Found(Hit::Pages { .. }) => self.counters.page_hits(1),
            Claim::Theirs(_) => self.counters.waits(1),
            Claim::Mine(_) => self.counters.claims(1),
        }
        claim
    }

    fn member<'a, 'p>(
        &self,
        target: Range<usize>,
        encoded: &'p Encoded,
        owned: Claimed<'a>,
        context: &Context,
        last: bool,
    ) -> Member<'a, 'p> {
        let wanted = encoded.wanted(&target);
        let key = encoded.key();
        let raw = self.caches.find_encoded(&key);
        self.counters.encoded_hits(usize::from(raw.is_some()));
        let whole = encoded.whole();
        if wanted.len() < whole {
            self.caches.note_miss(&key, encoded.phase(), &wanted, raw.is_none());
        }
        let part =
            Wanted { from_its_start: wanted.start == 0, to_its_end: wanted.end == whole, last };
        let keep = raw.is_none()
            && encoded.is_on_device()
            && context.config.strategy.keeps(context.config.rule, part);
        Member { target, wanted, encoded, owned, raw, keep }
    }

    /// Reads and decodes claimed pclusters, with help if that is worth it.
    fn carry_out(
        &self,
        members: Vec<Member<'_, '_>>,
        context: &Context,
        out: &mut Output<'_>,
        scratch: &mut Scratch,
        found: &mut Found,
    ) {
        let helpers = self.helpers(&members, context);
        let limit = if helpers == 0 {
            context.config.merge_bytes
        } else {
            // Pieces for everybody, and some more so that nobody is left alone with the last.
            let raw: usize = members.iter().map(Member::raw_len).sum();
            (raw / (2 * (helpers + 1))).max(64 << 10).min(context.config.merge_bytes)
        };
        let runs = runs(members, limit);
        if helpers == 0 || runs.len() == 1 {
            for run in runs {
                // Runs ascend, so what lies behind one is not delivered yet and gives it room.
                self.execute(run, context, out, scratch, found);
            }
            return;
        }
        self.counters.assisted(1);
        let count = runs.len();
        let mut whole = out.reborrow();
        let mut tasks: Vec<(Run<'_, '_>, Output<'_>)> = Vec::with_capacity(count);
        for run in runs.into_iter().rev() {
            let region = whole.split_off(run.start());
            tasks.push((run, region));
        }
        let tasks = Mutex::new(tasks);
        let finished = AtomicUsize::new(0);
        let all = Mutex::new(std::mem::take(found));
        self.workers.assist(helpers.min(count - 1), &|| {
            let mut scratch = None;
            loop {
                let task = tasks.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let Some((run, mut region)) = task else { break };
                let scratch = scratch.get_or_insert_with(|| self.scratch());
                let wants_surplus =
                    all.lock().unwrap_or_else(PoisonError::into_inner).wants_surplus;
                let mut found = Found { wants_surplus, ..Found::default() };
                self.execute(run, context, &mut region, scratch, &mut found);
                all.lock().unwrap_or_else(PoisonError::into_inner).absorb(found);
                finished.fetch_add(1, Ordering::Release);
            }
            if let Some(scratch) = scratch {
                self.give_back(scratch);
            }
        });
        *found = all.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A worker that panicked took its run with it; the reader must not go on as if it were done.
        assert_eq!(finished.load(Ordering::Acquire), count, "a worker panicked while decoding");
    }

    /// How many workers to ask for help.
    fn helpers(&self, members: &[Member<'_, '_>], context: &Context) -> usize {
        let cores = self.workers.limit();
        let cost = || -> u64 { members.iter().map(Member::cost).sum() };
        match context.config.sync {
            SyncDecompression::Always => 0,
            SyncDecompression::Never => cores,
            SyncDecompression::Auto => {
                let long =
                    context.hint == Hint::Readahead || context.len > context.config.sync_bytes;
                let helps = long && members.len() > 1 && cost() >= ASSIST_COST;
                if helps { cores.saturating_sub(1) } else { 0 }
            }
        }
    }

    fn read_stored(
        &self,
        at: DeviceAddress,
        target: &Range<usize>,
        context: &Context,
        out: &mut Output<'_>,
    ) -> Result<()> {
        let mut result = Ok(());
        out.for_each(target, |skip, piece| {
            if result.is_ok() {
                let at = DeviceAddress { device: at.device, offset: at.offset + skip as u64 };
                result = self.read_device(at, context.nid, piece);
            }
        });
        if result.is_ok() {
            self.counters.stored_bytes(target.len());
        }
        result
    }

    /// Delivers from memory. True if that ends a reading of the extent from front to back.
    pub(crate) fn copy(
        &self,
        hit: &Hit,
        wanted: &Range<usize>,
        target: &Range<usize>,
        out: &mut Output<'_>,
    ) -> bool {
        self.counters.copied_bytes(wanted.len());
        hit.copy(wanted, |skip, bytes| out.write(target.start + skip, bytes))
    }

    /// Waits for another reader, and does the work itself if that one left nothing that helps.
    #[expect(clippy::too_many_arguments, reason = "the whole state of a request")]
    fn wait(
        &self,
        encoded: &Encoded,
        mut joined: Waiting,
        target: &Range<usize>,
        context: &Context,
        out: &mut Output<'_>,
        scratch: &mut Scratch,
        found: &mut Found,
    ) {
        let started = Instant::now();
        let wanted = encoded.wanted(target);
        loop {
            match joined.wait(|| self.workers.help()) {
                Outcome::Done(decoded) => {
                    self.copy(&Hit::Extent(decoded), &wanted, target, out);
                    break;
                }
                Outcome::Failed(error) => {
                    found.fail(target.clone(), error);
                    break;
                }
                Outcome::Retry => self.counters.retries(1),
            }
            match self.claim(encoded, &wanted, context) {
                Claim::Found(hit) => {
                    self.copy(&hit, &wanted, target, out);
                    break;
                }
                Claim::Theirs(next) => joined = next,
                Claim::Mine(owned) => {
                    let member = self.member(target.clone(), encoded, owned, context, false);
                    for run in runs(vec![member], usize::MAX) {
                        // Everything around is delivered already: no room but its own.
                        let mut region = out.reborrow().split_off(target.start);
                        drop(region.split_off(target.end));
                        self.execute(run, context, &mut region, scratch, found);
                    }
                    break;
                }
            }
        }
        self.counters.wait_time.note(started.elapsed());
    }

    /// Decodes what `range` of a file touches into the cache.
    pub(crate) fn warm(&self, map: &FileMap, range: Range<u64>) {
        let config = EngineConfig { sync: SyncDecompression::Always, ..self.config() };
        let context = Context { config, hint: Hint::Readahead, nid: map.nid(), len: 0 };
        let mut scratch = self.scratch();
        let mut parts = Vec::new();
        let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        // Errors come again when somebody wants the bytes.
        let _ = plan(&self.image, map, range.start, 0..len.min(WINDOW), &mut parts);
        let mut members = Vec::new();
        for part in &parts {
            let From::Encoded(encoded) = &part.from else { continue };
            let wanted = 0..encoded.whole();
            if !self.caches.keeps_extent(wanted.len()) {
                continue;
            }
            if let Claim::Mine(owned) = self.claim(encoded, &wanted, &context) {
                let raw = self.caches.find_encoded(&encoded.key());
                self.counters.encoded_hits(usize::from(raw.is_some()));
                members.push(Member { target: 0..0, wanted, encoded, owned, raw, keep: false });
            }
        }
        for run in runs(members, context.config.merge_bytes) {
            let mut out = Output::whole(&mut []);
            self.execute(run, &context, &mut out, &mut scratch, &mut Found::default());
        }
        self.give_back(scratch);
        self.counters.background_jobs(1);
    }
}
