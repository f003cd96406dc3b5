// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every interleaving (up to a bound of preemptions) of readers that share pclusters: all end, all
//! get what they want or an error that they should get, nothing is decoded by two at once.

use ferrofs_model::{End, World};
use loom::sync::Arc;
use loom::thread;

fn explore(check: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(check);
}

/// Two chains in opposite order: the shape that hung the kernel until chains were no longer hooked
/// to each other.
#[test]
fn chains_in_opposite_order_end() {
    explore(|| {
        let world = Arc::new(World::new(2));
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read(&[(1, 1), (0, 1)], End::Finish))
        };
        let mine = world.read(&[(0, 1), (1, 1)], End::Finish);
        let theirs = other.join().unwrap();
        assert!(mine.iter().chain(&theirs).all(Result::is_ok));
    });
}

#[test]
fn three_overlapping_chains_end() {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let world = Arc::new(World::new(3));
        let readers: Vec<_> = [[(1, 1), (2, 1)], [(2, 1), (0, 1)]]
            .into_iter()
            .map(|wants| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.read(&wants, End::Finish))
            })
            .collect();
        assert!(world.read(&[(0, 1), (1, 1)], End::Finish).iter().all(Result::is_ok));
        for reader in readers {
            assert!(reader.join().unwrap().iter().all(Result::is_ok));
        }
    });
}

#[test]
fn what_is_kept_is_decoded_once() {
    explore(|| {
        let world = Arc::new(World::new(1));
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read(&[(0, 1)], End::Keep))
        };
        assert!(world.read(&[(0, 1)], End::Keep)[0].is_ok());
        assert!(other.join().unwrap()[0].is_ok());
        assert_eq!(world.decodes(), [1]);
    });
}

/// A longer need that comes before decoding begins is served along; one that comes later is not
/// forgotten.
#[test]
fn the_longest_need_is_served() {
    explore(|| {
        let world = Arc::new(World::new(1));
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read(&[(0, 9)], End::Keep))
        };
        assert!(world.read(&[(0, 1)], End::Keep)[0].is_ok());
        assert!(other.join().unwrap()[0].is_ok_and(|found| found >= 9));
        assert!(world.decodes()[0] <= 2);
    });
}

/// The same pcluster twice in one request.
#[test]
fn a_reader_does_not_wait_for_itself() {
    explore(|| {
        let world = Arc::new(World::new(1));
        let other = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.read(&[(0, 2), (0, 3)], End::Finish))
        };
        assert!(world.read(&[(0, 3), (0, 1)], End::Finish).iter().all(Result::is_ok));
        assert!(other.join().unwrap().iter().all(Result::is_ok));
    });
}

#[test]
fn failures_and_panics_strand_nobody() {
    for end in [End::Fail, End::Drop] {
        explore(move || {
            let world = Arc::new(World::new(2));
            let other = {
                let world = Arc::clone(&world);
                thread::spawn(move || world.read(&[(0, 1), (1, 1)], end))
            };
            let mine = world.read(&[(1, 1), (0, 1)], End::Finish);
            other.join().unwrap();
            // A panic elsewhere costs nothing but another try.
            assert!(end == End::Fail || mine.iter().all(Result::is_ok));
        });
    }
}
