// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of requests and what state each object is in.

use super::super::{Body, Message, Open, Read};
use super::{ReadError, Space, Thresholds};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::{Arc, Condvar};

/// What a daemon has made of the cache.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    /// Nobody has it open.
    Closed,
    /// Open, but not bound.
    Setup,
    Bound,
    /// The daemon that had bound it is gone.
    Dead,
}

/// What the daemon has of an object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Hold {
    /// Not opened yet, or its descriptor is gone.
    Closed,
    /// An OPEN is under way.
    Opening,
    Open,
}

#[derive(Debug)]
struct Entry {
    key: (Vec<u8>, Vec<u8>),
    file: Arc<str>,
    hold: Hold,
    /// Counts descriptors: what comes from an older one is stale.
    generation: u64,
    size: Option<u64>,
    users: usize,
    /// Belongs to a daemon that is gone.
    dead: bool,
    /// Its READs without an answer.
    reads: Vec<u32>,
}

#[derive(Debug)]
struct Request {
    object: u32,
    kind: Kind,
    waiter: Arc<Waiter>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Open,
    Close,
    Read { offset: u64, len: u64 },
}

/// Who waits for a request. Its flag is set under the state's lock.
#[derive(Debug, Default)]
pub(super) struct Waiter {
    pub(super) wake: Condvar,
    done: std::sync::OnceLock<Result<(), Errno>>,
}

impl Waiter {
    pub(super) fn result(&self) -> Option<Result<(), Errno>> {
        self.done.get().copied()
    }

    fn end(&self, result: Result<(), Errno>) {
        // The first end counts.
        let _ = self.done.set(result);
        self.wake.notify_all();
    }
}

#[derive(Debug)]
pub(super) struct State {
    phase: Phase,
    requests: BTreeMap<u32, Request>,
    /// Numbers of the requests that were not delivered.
    new: BTreeSet<u32>,
    /// READs that wait for their object to be opened again.
    held: BTreeSet<u32>,
    next_id: u32,
    next_object: u32,
    /// Where the search for new requests goes on.
    cursor: u32,
    objects: HashMap<u32, Entry>,
    keys: HashMap<(Vec<u8>, Vec<u8>), u32>,
    files: HashMap<Arc<str>, usize>,
    pub(super) thresholds: Thresholds,
    culling: bool,
    full: bool,
}

/// What to give to the daemon.
pub(super) struct Next {
    pub(super) message: Message,
    /// For an OPEN: the object's file, and which descriptor this is.
    pub(super) file: Option<(Arc<str>, u64)>,
}

impl State {
    pub(super) fn new(thresholds: Thresholds) -> Self {
        Self {
            phase: Phase::Closed,
            requests: BTreeMap::new(),
            new: BTreeSet::new(),
            held: BTreeSet::new(),
            next_id: 0,
            next_object: 1,
            cursor: 0,
            objects: HashMap::new(),
            keys: HashMap::new(),
            files: HashMap::new(),
            thresholds,
            culling: false,
            full: false,
        }
    }

    pub(super) fn is_bound(&self) -> bool {
        self.phase == Phase::Bound
    }

    pub(super) fn request_count(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn object_count(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn has_new(&self) -> bool {
        !self.new.is_empty()
    }

    pub(super) fn is_culling(&self) -> bool {
        self.culling
    }

    pub(super) fn uses_file(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// Takes note of the free room; whether to cull.
    pub(super) fn measured(&mut self, space: Space) -> bool {
        let limits = &self.thresholds;
        self.full = space.blocks < limits.blocks_stop || space.files < limits.files_stop;
        if space.blocks < limits.blocks_cull || space.files < limits.files_cull {
            self.culling = true;
        } else if space.blocks >= limits.blocks_run && space.files >= limits.files_run {
            self.culling = false;
        }
        self.culling
    }

    pub(super) fn open_device(&mut self) -> Result<(), Errno> {
        match self.phase {
            Phase::Closed | Phase::Dead => {
                self.phase = Phase::Setup;
                Ok(())
            }
            Phase::Setup | Phase::Bound => Err(Errno::BUSY),
        }
    }

    pub(super) fn bind(&mut self, on_demand: bool) -> Result<(), Errno> {
        if self.phase != Phase::Setup {
            return Err(Errno::BUSY);
        }
        // The old mode has the kernel's network file systems behind it, of which there are none.
        if !on_demand {
            return Err(Errno::OPNOTSUPP);
        }
        if !self.thresholds.are_sound() {
            return Err(Errno::RANGE);
        }
        self.phase = Phase::Bound;
        Ok(())
    }

    /// The device is closed: everything ends, at once.
    pub(super) fn die(&mut self) {
        self.phase = Phase::Dead;
        for request in std::mem::take(&mut self.requests).into_values() {
            request.waiter.end(Err(Errno::IO));
        }
        self.new.clear();
        self.held.clear();
        for object in self.objects.values_mut() {
            object.dead = true;
            object.reads.clear();
        }
        self.keys.clear();
    }

    /// A further user of a cookie, opened or about to be.
    pub(super) fn join(&mut self, key: &(Vec<u8>, Vec<u8>)) -> Option<(u32, Arc<str>)> {
        let id = *self.keys.get(key)?;
        let object = self.objects.get_mut(&id)?;
        object.users += 1;
        Some((id, Arc::clone(&object.file)))
    }

    /// The first user of a cookie. `existed`: its file is there, so it takes no new room.
    pub(super) fn add(
        &mut self,
        key: (Vec<u8>, Vec<u8>),
        file: &Arc<str>,
    ) -> Result<u32, ReadError> {
        match self.phase {
            Phase::Bound => {}
            Phase::Dead => return Err(ReadError::Dead),
            Phase::Closed | Phase::Setup => return Err(ReadError::Unbound),
        }
        if self.full {
            return Err(ReadError::Full);
        }
        while self.next_object == 0 || self.objects.contains_key(&self.next_object) {
            self.next_object = self.next_object.wrapping_add(1);
        }
        let id = self.next_object;
        self.next_object = id.wrapping_add(1);
        self.keys.insert(key.clone(), id);
        *self.files.entry(Arc::clone(file)).or_default() += 1;
        let entry = Entry {
            key,
            file: Arc::clone(file),
            hold: Hold::Closed,
            generation: 0,
            size: None,
            users: 1,
            dead: false,
            reads: Vec::new(),
        };
        self.objects.insert(id, entry);
        Ok(id)
    }

    /// Whether an object outlived its daemon: its file may be another's now.
    pub(super) fn is_dead(&self, object: u32) -> bool {
        self.objects.get(&object).is_none_or(|object| object.dead)
    }

    pub(super) fn size(&self, object: u32) -> Option<u64> {
        self.objects.get(&object)?.size
    }

    /// Asks the daemon to open an object, unless it has it; who waits for the answer.
    pub(super) fn ask_open(&mut self, id: u32) -> Result<Option<Arc<Waiter>>, ReadError> {
        let object = self.objects.get_mut(&id).filter(|object| !object.dead);
        let object = object.ok_or(ReadError::Dead)?;
        if object.size.is_some() {
            return Ok(None);
        }
        if object.hold == Hold::Opening {
            let found =
                self.requests.values().find(|one| one.object == id && one.kind == Kind::Open);
            return found.map(|one| Some(Arc::clone(&one.waiter))).ok_or(ReadError::Dead);
        }
        object.hold = Hold::Opening;
        Ok(Some(self.queue(id, Kind::Open).1))
    }

    /// Asks for bytes; who waits. One request serves all who want the same.
    pub(super) fn ask_read(
        &mut self,
        id: u32,
        range: &Range<u64>,
        failover: bool,
    ) -> Result<Arc<Waiter>, ReadError> {
        let object = self.objects.get(&id).filter(|object| !object.dead).ok_or(ReadError::Dead)?;
        if object.hold == Hold::Closed && !failover {
            return Err(ReadError::Errno(Errno::IO));
        }
        for other in &object.reads {
            if let Some(Request { kind: Kind::Read { offset, len }, waiter, .. }) =
                self.requests.get(other)
                && *offset <= range.start
                && range.end <= offset.saturating_add(*len)
            {
                return Ok(Arc::clone(waiter));
            }
        }
        let len = range.end.saturating_sub(range.start);
        let (request, waiter) = self.queue(id, Kind::Read { offset: range.start, len });
        if let Some(object) = self.objects.get_mut(&id) {
            object.reads.push(request);
            if object.hold != Hold::Open {
                self.new.remove(&request);
                self.held.insert(request);
                self.reopen(id);
            }
        }
        Ok(waiter)
    }

    /// Asks for an object that the daemon has let go of.
    fn reopen(&mut self, id: u32) {
        if let Some(object) = self.objects.get_mut(&id)
            && object.hold == Hold::Closed
        {
            object.hold = Hold::Opening;
            self.queue(id, Kind::Open);
        }
    }

    fn queue(&mut self, object: u32, kind: Kind) -> (u32, Arc<Waiter>) {
        // Numbers go round, so that a late answer seldom meets another request.
        while self.requests.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let waiter = Arc::new(Waiter::default());
        self.requests.insert(id, Request { object, kind, waiter: Arc::clone(&waiter) });
        self.new.insert(id);
        (id, waiter)
    }

    /// The next request to deliver, if there is one; it stays new until [`State::delivered`].
    pub(super) fn next(&self) -> Option<Next> {
        let id = self.new.range(self.cursor..).next().or_else(|| self.new.iter().next())?;
        let request = self.requests.get(id)?;
        let object = self.objects.get(&request.object);
        let mut file = None;
        let body = match request.kind {
            Kind::Open => {
                let object = object?;
                file = Some((Arc::clone(&object.file), object.generation.wrapping_add(1)));
                let (volume, cookie) = object.key.clone();
                Body::Open(Open { volume, cookie, fd: request.object, flags: 0 })
            }
            Kind::Close => Body::Close,
            Kind::Read { offset, len } => Body::Read(Read { offset, len, fd: request.object }),
        };
        Some(Next { message: Message { id: *id, object: request.object, body }, file })
    }

    /// A request has been given to the daemon.
    pub(super) fn delivered(&mut self, id: u32) {
        self.new.remove(&id);
        self.cursor = id.wrapping_add(1);
        let Some(request) = self.requests.get(&id) else { return };
        match request.kind {
            // Nobody answers it.
            Kind::Close => {
                self.requests.remove(&id);
            }
            Kind::Open => {
                if let Some(object) = self.objects.get_mut(&request.object) {
                    object.generation = object.generation.wrapping_add(1);
                }
            }
            Kind::Read { .. } => {}
        }
    }

    /// The object whose OPEN this is, its file, and the size if it is known already.
    pub(super) fn opening(&self, id: u32) -> Result<(u32, Arc<str>, Option<u64>), Errno> {
        let request = self.requests.get(&id).filter(|request| request.kind == Kind::Open);
        // What was not delivered cannot be answered: the number is guessed or old.
        let request = request.filter(|_| !self.new.contains(&id)).ok_or(Errno::INVAL)?;
        let object = self.objects.get(&request.object).ok_or(Errno::INVAL)?;
        Ok((request.object, Arc::clone(&object.file), object.size))
    }

    /// Ends an OPEN.
    pub(super) fn opened(&mut self, id: u32, result: Result<u64, Errno>) {
        let Some(request) = self.requests.remove(&id) else { return };
        self.new.remove(&id);
        let Some(object) = self.objects.get_mut(&request.object) else { return };
        match result {
            Ok(size) => {
                object.size = Some(size);
                object.hold = Hold::Open;
                for read in &object.reads {
                    if self.held.remove(read) {
                        self.new.insert(*read);
                    }
                }
            }
            Err(errno) => {
                object.hold = Hold::Closed;
                for read in std::mem::take(&mut object.reads) {
                    self.held.remove(&read);
                    self.new.remove(&read);
                    if let Some(request) = self.requests.remove(&read) {
                        request.waiter.end(Err(errno));
                    }
                }
            }
        }
        request.waiter.end(result.map(|_| ()));
    }

    /// Ends a READ, by its object's descriptor (`from`: object and generation) or by a command.
    pub(super) fn completed(&mut self, id: u32, from: Option<(u32, u64)>) -> Result<(), Errno> {
        let request = self.requests.get(&id).ok_or(Errno::INVAL)?;
        if !matches!(request.kind, Kind::Read { .. })
            || self.new.contains(&id)
            || self.held.contains(&id)
        {
            return Err(Errno::INVAL);
        }
        let object = self.objects.get_mut(&request.object).ok_or(Errno::INVAL)?;
        if from.is_some_and(|from| from != (request.object, object.generation)) {
            return Err(Errno::INVAL);
        }
        object.reads.retain(|read| *read != id);
        if let Some(request) = self.requests.remove(&id) {
            request.waiter.end(Ok(()));
        }
        Ok(())
    }

    /// The daemon has let go of a descriptor.
    pub(super) fn dropped(&mut self, id: u32, generation: u64, failover: bool) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        if object.generation != generation || object.dead {
            return;
        }
        let opening = object.hold == Hold::Opening;
        object.hold = Hold::Closed;
        if opening {
            // An OPEN whose descriptor is gone before its answer: ask again, or give up.
            let found =
                self.requests.iter().find(|one| one.1.object == id && one.1.kind == Kind::Open);
            let Some(request) = found.map(|(request, _)| *request) else { return };
            if failover {
                if let Some(object) = self.objects.get_mut(&id) {
                    object.hold = Hold::Opening;
                }
                self.new.insert(request);
            } else {
                self.opened(request, Err(Errno::IO));
            }
            return;
        }
        if !failover {
            for read in std::mem::take(&mut object.reads) {
                self.new.remove(&read);
                if let Some(request) = self.requests.remove(&read) {
                    request.waiter.end(Err(Errno::IO));
                }
            }
        } else if !object.reads.is_empty() {
            for read in object.reads.clone() {
                self.new.remove(&read);
                self.held.insert(read);
            }
            self.reopen(id);
        }
    }

    /// All that was delivered and not answered is new again.
    pub(super) fn restore(&mut self) {
        for (id, _) in self.requests.iter().filter(|(id, _)| !self.held.contains(id)) {
            self.new.insert(*id);
        }
    }

    /// A user of an object is gone. The last one ends the object.
    pub(super) fn leave(&mut self, id: u32) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.users = object.users.saturating_sub(1);
        if object.users > 0 {
            return;
        }
        let Some(object) = self.objects.remove(&id) else { return };
        if self.keys.get(&object.key) == Some(&id) {
            self.keys.remove(&object.key);
        }
        if let Some(count) = self.files.get_mut(&object.file) {
            *count -= 1;
            if *count == 0 {
                self.files.remove(&object.file);
            }
        }
        let mine: Vec<u32> =
            if object.dead || (object.reads.is_empty() && object.hold != Hold::Opening) {
                object.reads.clone()
            } else {
                self.requests.iter().filter(|one| one.1.object == id).map(|one| *one.0).collect()
            };
        for request in mine {
            self.new.remove(&request);
            self.held.remove(&request);
            if let Some(request) = self.requests.remove(&request) {
                request.waiter.end(Err(Errno::IO));
            }
        }
        // A daemon that was never told of it need not be told of its end.
        if !object.dead && object.generation > 0 {
            self.queue(id, Kind::Close);
        }
    }
}
