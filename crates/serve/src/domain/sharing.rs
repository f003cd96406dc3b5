// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which files of a domain are one node: those of equal content and equal attributes.
//!
//! Files of a size that nobody else has are never hashed, nor is the first of a size for itself. Others
//! are, before they are shared for the first time, unless what images say is trusted: a digest in an image
//! only rules out. The word of an image that is read on demand is taken for what *its own* users will read,
//! and nobody else.
//! Invariants: what was decided of a file stays; only proven content is given to other images; a file
//! that is not what its image says is never shared.

use super::content::{Algorithm, Content, Proof, WHOLE_MAX, claim, sample};
use super::member::Member;
use super::nodes::FileId;
use super::shared::SharedFile;
use super::stash::Stash;
use ferrofs_fuse::{Attr, Errno};
use ferrofs_image::{Inode, Nid};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Larger files are not shared: an image can say that it has files of any size, and hashing them would
/// take for ever.
const SIZE_MAX: u64 = 16 << 30;

/// What two files must have in common besides content to be one node.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Attributes {
    mode: u16,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: (i64, u32),
    /// BLAKE3 of the extended attributes that Linux shows.
    xattrs: [u8; 32],
}

/// A file that was met.
#[derive(Clone, Debug)]
struct Known {
    member: Arc<Member>,
    attributes: Attributes,
    claim: Option<Content>,
    proof: Arc<Mutex<Proven>>,
    /// Hash of its first and last bytes: what rules out most files that are only as long.
    sample: Arc<OnceLock<[u8; 32]>>,
    /// Its place among all files, in the order in which they were met.
    place: u64,
    /// The kernel may have something of it in memory.
    given: bool,
}

/// A file and its place among all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) place: u64,
    pub(crate) id: FileId,
}

/// What images say of a file's content.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) nid: Nid,
    /// Files of other images that have it.
    pub(crate) others: Vec<(Arc<Member>, Nid)>,
    /// A file of the same image that was met earlier has it: others are told there.
    pub(crate) again: bool,
}

/// How far a file is known. The lock is held while it is hashed, so that it is hashed once.
#[derive(Debug, Default)]
enum Proven {
    #[default]
    Unknown,
    Yes(Arc<Proof>),
    /// It cannot be read, or is not what its image says.
    Never,
}

#[derive(Debug, Default)]
struct State {
    /// Files that may be equal: by size and attributes.
    alike: HashMap<(u64, Attributes), Vec<FileId>>,
    files: HashMap<FileId, Known>,
    /// The same by their places: directory by directory, as those read who read all.
    places: BTreeMap<u64, FileId>,
    next_place: u64,
    /// Nodes that were listed once, so that the kernel is likely to know them.
    listed: HashSet<u64>,
    /// The nodes of files that share, and of those that never will.
    decided: HashMap<FileId, u64>,
    /// What is shared, by the name of its content: that by SHA-256 where digests are trusted, else that by
    /// groups.
    contents: HashMap<(Content, Attributes), Arc<SharedFile>>,
    /// The names by groups of what images name by SHA-256, as far as that was met.
    names: HashMap<Content, Content>,
    nodes: HashMap<u64, Arc<SharedFile>>,
}

/// The sharing of one domain.
#[derive(Debug)]
pub(crate) struct Sharing {
    trust: bool,
    /// Attributes do not count.
    by_content: bool,
    state: Mutex<State>,
    /// What was read for it and may be asked for next.
    pub(crate) stash: Stash,
    hashed_bytes: AtomicU64,
}

/// What a domain shares.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct SharingStats {
    pub(crate) contents: u64,
    pub(crate) files: u64,
    pub(crate) mapped_bytes: u64,
    pub(crate) saved_bytes: u64,
    pub(crate) hashed_bytes: u64,
    /// What more would be saved if equal content with other attributes were shared, too.
    pub(crate) differing_bytes: u64,
}

impl Sharing {
    pub(crate) fn new(trust: bool, by_content: bool) -> Self {
        let (state, stash) = (Mutex::default(), Stash::default());
        Self { trust, by_content, state, stash, hashed_bytes: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared file of this node, if it is one.
    pub(crate) fn file(&self, node: u64) -> Option<Arc<SharedFile>> {
        self.lock().nodes.get(&node).cloned()
    }

    /// The nodes of shared files.
    pub(crate) fn nodes(&self) -> Vec<u64> {
        self.lock().nodes.keys().copied().collect()
    }

    /// Takes note of a regular file, so that others can be compared with it.
    pub(crate) fn note(&self, member: &Arc<Member>, inode: &Inode) -> Result<(), Errno> {
        if inode.size == 0
            || inode.size > SIZE_MAX
            || self.lock().files.contains_key(&member.id(inode.nid))
        {
            return Ok(());
        }
        let fail = |error: ferrofs_image::Error| Errno::new(error.errno());
        let image = member.image();
        let known = Known {
            member: Arc::clone(member),
            attributes: if self.by_content {
                Attributes::default()
            } else {
                attributes(member, inode).map_err(fail)?
            },
            claim: claim(image, inode).map_err(fail)?,
            proof: Arc::default(),
            sample: Arc::default(),
            place: 0,
            given: false,
        };
        let id = member.id(inode.nid);
        let key = (inode.size, known.attributes);
        let mut state = self.lock();
        // Two may have met it at a time.
        if !state.files.contains_key(&id) {
            let place = state.next_place;
            state.next_place += 1;
            state.files.insert(id, Known { place, ..known });
            state.places.insert(place, id);
            // As a rule there is no other.
            state.alike.entry(key).or_insert_with(|| Vec::with_capacity(1)).push(id);
        }
        Ok(())
    }

    /// The place of a file among all.
    pub(crate) fn place(&self, id: FileId) -> Option<u64> {
        self.lock().files.get(&id).map(|known| known.place)
    }

    /// Up to `count` files from a place on.
    pub(crate) fn placed(&self, from: u64, count: usize) -> Vec<Placed> {
        let state = self.lock();
        let found = state.places.range(from..).take(count);
        found.map(|(&place, &id)| Placed { place, id }).collect()
    }

    /// All files of an image, in the order in which they were met, and where their content is, too, by
    /// what images say.
    pub(crate) fn said_elsewhere(&self, slot: u16) -> Vec<Said> {
        let state = self.lock();
        let own = state.places.values().filter(|id| id.slot == slot);
        let mut files: Vec<Said> = Vec::new();
        let mut first: HashMap<(Content, Attributes), usize> = HashMap::new();
        for id in own {
            let key = state.files.get(id).and_then(|known| Some((known.claim?, known.attributes)));
            let again =
                key.is_some_and(|key| *first.entry(key).or_insert(files.len()) < files.len());
            files.push(Said { nid: id.nid, others: Vec::new(), again });
        }
        for (id, known) in state.files.iter().filter(|(id, _)| id.slot != slot) {
            let key = known.claim.map(|claim| (claim, known.attributes));
            let index = key.and_then(|key| first.get(&key));
            if let Some(said) = index.and_then(|index| files.get_mut(*index)) {
                said.others.push((Arc::clone(&known.member), id.nid));
            }
        }
        files
    }

    /// What other images than this one say that they have, by its SHA-256, and a file that has it.
    pub(crate) fn claimed_elsewhere(&self, slot: u16) -> HashMap<[u8; 32], (Arc<Member>, Nid)> {
        let state = self.lock();
        let others = state.files.iter().filter(|(id, _)| id.slot != slot);
        let claimed = others.filter_map(|(id, known)| {
            let claim = known.claim.filter(|claim| claim.algorithm == Algorithm::Sha256)?;
            Some((claim.digest, (Arc::clone(&known.member), id.nid)))
        });
        claimed.collect()
    }

    /// The node of a file as far as it is decided; else its own.
    pub(crate) fn node_now(&self, id: FileId) -> Option<u64> {
        self.lock().decided.get(&id).copied().or_else(|| id.node())
    }

    /// Takes note that nodes are listed; how many were not before.
    pub(crate) fn list(&self, nodes: impl Iterator<Item = u64>) -> usize {
        let mut state = self.lock();
        nodes.filter(|node| state.listed.insert(*node)).count()
    }

    /// The node of a regular file, if it can be told without reading any; `None` if it shares, or may.
    pub(crate) fn peek(&self, member: &Arc<Member>, inode: &Inode) -> Result<Option<u64>, Errno> {
        self.note(member, inode)?;
        let id = member.id(inode.nid);
        let mut state = self.lock();
        if let Some(node) = state.decided.get(&id) {
            return Ok(Some(*node));
        }
        if candidates(&state, id, inode.size).next().is_some() {
            return Ok(None);
        }
        // Under the same lock: the next one that is alike finds this one.
        if let Some(known) = state.files.get_mut(&id) {
            known.given = true;
        }
        Ok(id.node())
    }

    /// The node that the kernel was given of a file, or may have been.
    pub(crate) fn given(&self, id: FileId) -> Option<u64> {
        let state = self.lock();
        let own = || state.files.get(&id).filter(|known| known.given).and_then(|_| id.node());
        state.decided.get(&id).copied().or_else(own)
    }

    /// The node of a regular file, which is that of its content if it shares.
    pub(crate) fn resolve(&self, member: &Arc<Member>, inode: &Inode) -> Result<u64, Errno> {
        let node = self.find(member, inode)?;
        self.tally(member, node);
        Ok(node)
    }

    /// Counts that the kernel was given a file's node.
    pub(crate) fn tally(&self, member: &Member, node: u64) {
        let is_shared = self.lock().nodes.contains_key(&node);
        let counter = if is_shared { &member.hits } else { &member.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Sharing::resolve`], for who does not give it to the kernel, or counts that himself.
    pub(crate) fn find(&self, member: &Arc<Member>, inode: &Inode) -> Result<u64, Errno> {
        let node = self.compare(member, inode)?;
        let id = member.id(inode.nid);
        if let Some(shared) = FileId::of(node).filter(|shared| *shared != id) {
            if self.file(node).is_some_and(|file| file.was_read()) {
                self.stash.take(id);
            } else {
                self.stash.rename(id, shared);
            }
        }
        Ok(node)
    }

    fn compare(&self, member: &Arc<Member>, inode: &Inode) -> Result<u64, Errno> {
        self.note(member, inode)?;
        let id = member.id(inode.nid);
        let own = id.node().ok_or(Errno::NOTSUP)?;
        let (known, others) = {
            let mut state = self.lock();
            if let Some(node) = state.decided.get(&id) {
                return Ok(*node);
            }
            let others: Vec<_> = candidates(&state, id, inode.size).collect();
            let Some(known) = state.files.get_mut(&id) else { return Ok(own) };
            // Whatever becomes of it. Under the same lock: of two that are alike one finds the other.
            known.given = true;
            (known.clone(), others)
        };
        let others = self.alike(&known, id, inode.size, others);
        if others.is_empty() {
            return Ok(own);
        }
        // Bytes that are not here are not fetched to prove a word that only its own users take. Nor are
        // those that came along with others read for it: that would count as if they had been wanted,
        // and bring still more.
        let on_demand = !member.blobs.is_empty();
        let content = match known.claim {
            Some(claim) if on_demand || self.trust => claim,
            None if !member.has(inode.nid) => return Ok(own),
            _ => match self.prove(&known, id, self.trust) {
                Some(proof) => proof.sha256.filter(|_| self.trust).unwrap_or(proof.content),
                None => return Ok(own),
            },
        };
        if let Some(node) = self.join(&known, id, content) {
            return Ok(node);
        }
        for other_id in others {
            let Some(other) = self.lock().files.get(&other_id).cloned() else { continue };
            if !other.member.has(other_id.nid) {
                continue;
            }
            let proof = match other.claim {
                Some(claim) if self.trust && claim == content => None,
                _ => {
                    let by_sha256 = content.algorithm == Algorithm::Sha256;
                    match self.prove(&other, other_id, by_sha256) {
                        Some(proof) if proof.is(content) => Some(proof),
                        _ => continue,
                    }
                }
            };
            return self.share((&known, id), (&other, other_id), content, proof.as_deref());
        }
        Ok(own)
    }

    /// Leaves out files of which nothing is known but that they begin or end otherwise.
    fn alike(&self, known: &Known, id: FileId, size: u64, mut others: Vec<FileId>) -> Vec<FileId> {
        let of = |known: &Known, id: FileId| {
            if let Some(sample) = known.sample.get() {
                return Some(*sample);
            }
            // Nothing is fetched for this, and what cannot be read is not ruled out.
            if !known.member.has(id.nid) {
                return None;
            }
            let found = if size <= WHOLE_MAX {
                // What is read whole need not be read again if they are equal.
                self.prove(known, id, false)?.content.digest
            } else {
                sample(&known.member, id.nid).ok()?
            };
            Some(*known.sample.get_or_init(|| found))
        };
        others.retain(|other_id| {
            let Some(other) = self.lock().files.get(other_id).cloned() else { return false };
            if known.claim.is_some() && known.claim == other.claim {
                return true;
            }
            match (of(known, id), of(&other, *other_id)) {
                (Some(one), Some(two)) => one == two,
                _ => true,
            }
        });
        others
    }

    /// Puts a file to those that have its content, if there are some.
    fn join(&self, known: &Known, id: FileId, content: Content) -> Option<u64> {
        let mut state = self.lock();
        let content = state.names.get(&content).copied().unwrap_or(content);
        let file = Arc::clone(state.contents.get(&(content, known.attributes))?);
        // Else its image has just left.
        state.files.get(&id)?;
        file.add(&known.member, id.nid);
        state.decided.insert(id, file.node);
        Some(file.node)
    }

    /// Hashes a file, if nobody has; also by SHA-256 if that is wanted, or there is a claim to be checked.
    fn prove(&self, known: &Known, id: FileId, sha256: bool) -> Option<Arc<Proof>> {
        let mut proven = known.proof.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match &*proven {
            Proven::Yes(proof) if proof.sha256.is_some() || !sha256 => {
                return Some(Arc::clone(proof));
            }
            Proven::Yes(proof) => Some(proof.content),
            Proven::Never => return None,
            Proven::Unknown => None,
        };
        let sha256 = sha256 || known.claim.is_some();
        let (member, nid) = (&known.member, id.nid);
        let proof = member
            .image()
            .inode(nid)
            .and_then(|inode| member.fs.engine().open(&inode))
            .and_then(|file| Proof::of(&member.fs, &file, sha256));
        match proof {
            Ok((proof, content)) => {
                self.hashed_bytes.fetch_add(proof.content.size, Ordering::Relaxed);
                member.hashed_bytes.fetch_add(proof.content.size, Ordering::Relaxed);
                if known.claim.is_some_and(|claim| !proof.is(claim)) {
                    member.report_lie(nid, "its digest in the image is not that of its content");
                    *proven = Proven::Never;
                    self.keep_alone(id);
                    return None;
                }
                if !member.is_unchanged() || before.is_some_and(|before| before != proof.content) {
                    // What the kernel has of it may be older than what was hashed.
                    member.report_lie(nid, "the image was changed while it was mounted");
                    *proven = Proven::Never;
                    self.keep_alone(id);
                    return None;
                }
                let proof = Arc::new(proof);
                *proven = Proven::Yes(Arc::clone(&proof));
                if let Some(content) = content {
                    self.stash.put(id, content);
                }
                Some(proof)
            }
            // Another time it may be readable: nothing is remembered.
            Err(error) => {
                tracing::warn!(nid = nid.0, %error, "cannot be hashed, and is not shared");
                None
            }
        }
    }

    /// A file is never to be shared.
    fn keep_alone(&self, id: FileId) {
        if let Some(node) = id.node() {
            self.lock().decided.entry(id).or_insert(node);
        }
    }

    /// Makes one node of two files: that of the second.
    fn share(
        &self,
        (known, id): (&Known, FileId),
        (other, other_id): (&Known, FileId),
        content: Content,
        proof: Option<&Proof>,
    ) -> Result<u64, Errno> {
        let own = id.node().ok_or(Errno::NOTSUP)?;
        let node = other_id.node().ok_or(Errno::NOTSUP)?;
        // Before the lock: it reads the image.
        let attr: Attr = other.member.attr(other_id.nid, node)?;
        let mut state = self.lock();
        // Another reader may have been faster, or one of the images have left.
        if let Some(node) = state.decided.get(&id) {
            return Ok(*node);
        }
        if !state.files.contains_key(&id) || !state.files.contains_key(&other_id) {
            return Ok(own);
        }
        let name = proof.filter(|_| !self.trust).map_or(content, |proof| proof.content);
        if name != content {
            state.names.insert(content, name);
        }
        let key = (name, known.attributes);
        let file = match state.contents.get(&key) {
            Some(file) => Arc::clone(file),
            None if state.decided.contains_key(&other_id) => return Ok(own),
            None => {
                let groups = proof.map(|proof| proof.groups.clone());
                let file = Arc::new(SharedFile::new(node, name, attr, groups));
                file.add(&other.member, other_id.nid);
                state.decided.insert(other_id, node);
                state.contents.insert(key, Arc::clone(&file));
                state.nodes.insert(node, Arc::clone(&file));
                file
            }
        };
        file.add(&known.member, id.nid);
        state.decided.insert(id, file.node);
        // Its node is the kernel's now, whether or not anybody has asked for it by its own name.
        if let Some(other) = state.files.get_mut(&other_id) {
            other.given = true;
        }
        Ok(file.node)
    }

    /// Forgets an image that nobody uses any more. What others share with it stays theirs.
    pub(crate) fn remove(&self, slot: u16) {
        self.stash.forget(slot);
        let mut state = self.lock();
        let State { alike, files, decided, contents, names, nodes, places, listed, .. } =
            &mut *state;
        files.retain(|id, _| id.slot != slot);
        places.retain(|_, id| id.slot != slot);
        listed.retain(|node| FileId::of(*node).is_some_and(|id| id.slot != slot));
        decided.retain(|id, _| id.slot != slot);
        alike.retain(|_, ids| {
            ids.retain(|id| id.slot != slot);
            !ids.is_empty()
        });
        contents.retain(|_, file| {
            let is_over = file.remove(slot);
            if is_over {
                nodes.remove(&file.node);
            }
            !is_over
        });
        let left: HashSet<_> = contents.keys().map(|(content, _)| *content).collect();
        names.retain(|_, name| left.contains(name));
    }

    /// What one image shares. What is hashed and what differs is not counted.
    pub(crate) fn stats_of(&self, slot: u16) -> SharingStats {
        let mut stats = SharingStats::default();
        for file in self.lock().nodes.values() {
            let (users, first) = file.users_of(slot);
            let bytes = file.content.size.next_multiple_of(4096);
            stats.contents += u64::from(users > 0);
            stats.files += users as u64;
            let mapped = bytes.saturating_mul(users as u64);
            stats.mapped_bytes = stats.mapped_bytes.saturating_add(mapped);
            let spared = users.saturating_sub(usize::from(first)) as u64;
            stats.saved_bytes = stats.saved_bytes.saturating_add(bytes.saturating_mul(spared));
        }
        stats
    }

    pub(crate) fn stats(&self) -> SharingStats {
        let state = self.lock();
        let mut stats = SharingStats {
            hashed_bytes: self.hashed_bytes.load(Ordering::Relaxed),
            ..SharingStats::default()
        };
        for file in state.nodes.values() {
            let users = file.users() as u64;
            let bytes = file.content.size.next_multiple_of(4096);
            stats.contents += 1;
            stats.files += users;
            stats.mapped_bytes = stats.mapped_bytes.saturating_add(bytes.saturating_mul(users));
            let spared = users.saturating_sub(1);
            stats.saved_bytes = stats.saved_bytes.saturating_add(bytes.saturating_mul(spared));
        }
        let mut variants: HashMap<Content, HashSet<Attributes>> = HashMap::new();
        for known in state.files.values() {
            if let Some(claim) = known.claim {
                variants.entry(claim).or_default().insert(known.attributes);
            }
        }
        for (content, variants) in variants {
            let bytes = content.size.next_multiple_of(4096);
            let more = bytes.saturating_mul(variants.len().saturating_sub(1) as u64);
            stats.differing_bytes = stats.differing_bytes.saturating_add(more);
        }
        stats
    }
}

/// Files that may be equal to `id`: alike, and not said to be other. One whose bytes are here is compared
/// with those only that the kernel has been given: any other is compared with it when it is its turn.
fn candidates(state: &State, id: FileId, size: u64) -> impl Iterator<Item = FileId> {
    let own = state.files.get(&id);
    let alike = own.and_then(|own| state.alike.get(&(size, own.attributes)));
    let claim = own.and_then(|own| own.claim);
    let on_demand = own.is_some_and(|own| !own.member.blobs.is_empty());
    alike.map(Vec::as_slice).unwrap_or_default().iter().copied().filter(move |other_id| {
        let Some(other) = state.files.get(other_id) else { return false };
        *other_id != id
            && (on_demand || other.given)
            && (claim.is_none() || other.claim.is_none_or(|said| claim == Some(said)))
    })
}

fn attributes(member: &Member, inode: &Inode) -> ferrofs_image::Result<Attributes> {
    let mut hasher = blake3::Hasher::new();
    let mut xattrs = member.image().xattrs(inode)?;
    xattrs.retain(|xattr| xattr.visible);
    xattrs.sort_by(|one, other| one.name.cmp(&other.name));
    for xattr in &xattrs {
        for part in [&xattr.name, &xattr.value] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    Ok(Attributes {
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        nlink: inode.nlink,
        mtime: (inode.mtime, inode.mtime_nsec),
        xattrs: hasher.finalize().into(),
    })
}
