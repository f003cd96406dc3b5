// SPDX-License-Identifier: MIT OR Apache-2.0
//! A disk that loses power: whatever was not synced may be there or not, in any order.

use super::{DiskFile, Folder, Open};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Len(usize),
    Punch(Range<usize>),
}

/// A file: what is durable, what was done since.
#[derive(Clone, Debug, Default)]
struct Node {
    durable: Vec<u8>,
    pending: Vec<Change>,
    now: Vec<u8>,
}

impl Node {
    fn apply(bytes: &mut Vec<u8>, change: &Change, keep: &mut dyn FnMut() -> bool) {
        match change {
            Change::Len(len) => {
                if keep() {
                    bytes.resize(*len, 0);
                }
            }
            Change::Punch(range) => {
                for at in range.clone().step_by(SECTOR) {
                    let end = (at + SECTOR).min(range.end).min(bytes.len());
                    if at < end && keep() {
                        bytes[at..end].fill(0);
                    }
                }
            }
            Change::Write { offset, bytes: new } => {
                let mut at = 0;
                while at < new.len() {
                    let end = (((offset + at) / SECTOR + 1) * SECTOR - offset).min(new.len());
                    if keep() {
                        if bytes.len() < offset + end {
                            bytes.resize(offset + end, 0);
                        }
                        bytes[offset + at..offset + end].copy_from_slice(&new[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

type Names = BTreeMap<String, usize>;

#[derive(Clone, Debug)]
enum Rename {
    Make(String, usize),
    Move(String, String),
    Remove(String),
}

#[derive(Clone, Debug, Default)]
struct State {
    nodes: Vec<Node>,
    names: Names,
    durable: Names,
    pending: Vec<Rename>,
    /// Operations until power is lost; then all fail.
    fuse: Option<u32>,
}

/// A folder on such a disk. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelDir(Arc<Mutex<State>>);

#[derive(Clone, Debug)]
pub(crate) struct ModelFile(ModelDir, usize);

impl State {
    fn tick(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn rename(names: &mut Names, change: &Rename) {
    match change {
        Rename::Make(name, node) => {
            names.insert(name.clone(), *node);
        }
        Rename::Move(from, to) => {
            if let Some(node) = names.remove(from) {
                names.insert(to.clone(), node);
            }
        }
        Rename::Remove(name) => {
            names.remove(name);
        }
    }
}

impl ModelDir {
    /// Power is lost after so many more operations.
    pub(crate) fn fuse(&self, operations: u32) {
        self.0.lock().unwrap().fuse = Some(operations);
    }

    /// What may be found after power was lost now.
    pub(crate) fn crash(&self, random: &mut fastrand::Rng) -> Self {
        let mut state = self.0.lock().unwrap().clone();
        // From "almost nothing" to "almost everything" of what was pending.
        let share = random.f64();
        for node in &mut state.nodes {
            let mut bytes = std::mem::take(&mut node.durable);
            let share = if random.bool() { share } else { random.f64() };
            for change in std::mem::take(&mut node.pending) {
                Node::apply(&mut bytes, &change, &mut || random.f64() < share);
            }
            node.durable.clone_from(&bytes);
            node.now = bytes;
        }
        let mut names = std::mem::take(&mut state.durable);
        for change in std::mem::take(&mut state.pending) {
            if random.f64() < share {
                rename(&mut names, &change);
            }
        }
        state.names = names.clone();
        state.durable = names;
        state.fuse = None;
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Folder for ModelDir {
    type File = ModelFile;

    fn open(&self, name: &str, how: Open) -> io::Result<ModelFile> {
        let mut state = self.0.lock().unwrap();
        state.tick()?;
        let node = match state.names.get(name) {
            Some(node) => *node,
            None if how == Open::Existing => return Err(io::ErrorKind::NotFound.into()),
            None => {
                state.nodes.push(Node::default());
                let node = state.nodes.len() - 1;
                let change = Rename::Make(name.to_owned(), node);
                rename(&mut state.names, &change);
                state.pending.push(change);
                node
            }
        };
        if how == Open::Empty {
            let node = &mut state.nodes[node];
            node.now.clear();
            node.pending.push(Change::Len(0));
        }
        Ok(ModelFile(self.clone(), node))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.tick()?;
        let change = Rename::Move(from.to_owned(), to.to_owned());
        rename(&mut state.names, &change);
        state.pending.push(change);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.tick()?;
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = Rename::Remove(name.to_owned());
        rename(&mut state.names, &change);
        state.pending.push(change);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.tick()?;
        state.durable = state.names.clone();
        state.pending.clear();
        Ok(())
    }
}

impl ModelFile {
    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        state.tick()?;
        let node = &mut state.nodes[self.1];
        Node::apply(&mut node.now, &change, &mut || true);
        node.pending.push(change);
        Ok(())
    }
}

impl DiskFile for ModelFile {
    fn read_up_to(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.0.0.lock().unwrap();
        let now = &state.nodes[self.1].now;
        let from = now.get(offset as usize..).unwrap_or_default();
        let len = from.len().min(bytes.len());
        bytes[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_all(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write { offset: offset as usize, bytes: bytes.to_vec() })
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.0.lock().unwrap().nodes[self.1].now.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Len(len as usize))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.0.lock().unwrap();
        state.tick()?;
        let node = &mut state.nodes[self.1];
        node.durable = node.now.clone();
        node.pending.clear();
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.change(Change::Punch(range.start as usize..range.end as usize))
    }
}
