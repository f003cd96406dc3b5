// SPDX-License-Identifier: MIT OR Apache-2.0
//! Inodes with several names: the first one to come is made, the others are linked to it.
//!
//! Nobody waits: names that come while the first is being made are kept with it, and whoever makes
//! it links them, too.

use crate::dirs::Dir;
use ferrofs_image::Nid;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A name in the target.
#[derive(Clone, Debug)]
pub(super) struct Name {
    pub(super) dir: Arc<Dir>,
    pub(super) name: Box<[u8]>,
}

#[derive(Debug)]
enum State {
    /// Somebody makes the first name; these are to be linked to it.
    Begun(Vec<Name>),
    Made(Name),
    Failed,
}

#[derive(Debug)]
struct Link {
    state: State,
    /// Names still to come, as the link count says.
    left: u32,
}

/// What to do with a name.
#[derive(Debug)]
pub(super) enum Turn {
    /// Make the inode under this name.
    Make,
    /// Link to that name.
    LinkTo(Name),
    /// Whoever makes the inode will do it.
    Later,
    /// The inode could not be made.
    Failed,
}

/// Inodes with several names.
#[derive(Debug, Default)]
pub(super) struct Links {
    known: Mutex<HashMap<Nid, Link>>,
}

impl Links {
    /// What to do with a name of `nid`. With [`Turn::Later`], `name`'s directory is held until then.
    pub(super) fn turn(&self, nid: Nid, nlink: u32, name: impl FnOnce() -> Name) -> Turn {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = known.get_mut(&nid) else {
            let state = State::Begun(vec![]);
            known.insert(nid, Link { state, left: nlink.saturating_sub(1) });
            return Turn::Make;
        };
        link.left = link.left.saturating_sub(1);
        let turn = match &mut link.state {
            State::Begun(waiting) => {
                let name = name();
                name.dir.hold();
                waiting.push(name);
                return Turn::Later;
            }
            State::Made(name) => Turn::LinkTo(name.clone()),
            State::Failed => Turn::Failed,
        };
        if link.left == 0 {
            known.remove(&nid);
        }
        turn
    }

    /// The inode was made under `name`, or could not be. Gives the names to link to it.
    pub(super) fn made(&self, nid: Nid, name: Option<Name>) -> Vec<Name> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(link) = known.get_mut(&nid) else { return vec![] };
        let next = name.map_or(State::Failed, State::Made);
        let State::Begun(waiting) = std::mem::replace(&mut link.state, next) else {
            return vec![];
        };
        if link.left == 0 {
            known.remove(&nid);
        }
        waiting
    }
}
