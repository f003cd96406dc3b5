// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use crate::cache::Cache;
use ferrofs_image::{Algorithm, DeviceAddress, Encoding, Location, Pcluster};
use std::sync::atomic::{AtomicUsize, Ordering};

fn key(offset: u64) -> Key {
    Key::new(&Pcluster {
        location: Location::Device(DeviceAddress { device: 0, offset }),
        len: 4096,
        encoding: Encoding::Compressed(Algorithm::Lz4),
        partial: false,
    })
}

#[test]
fn a_claim_is_exclusive_until_it_ends() {
    let registry = Registry::default();
    let Claim::Mine(owned) = registry.claim(key(0), 10, || None) else { panic!("free") };
    assert!(matches!(registry.claim(key(0), 10, || None), Claim::Theirs(_)));
    assert!(matches!(registry.claim(key(1), 10, || None), Claim::Mine(_)));
    drop(owned);
    assert!(matches!(registry.claim(key(0), 10, || None), Claim::Mine(_)));
    assert!(registry.is_empty(), "dropped claims leave nothing");
}

#[test]
fn waiters_get_bytes_errors_or_another_try() {
    let cache = Cache::new(1 << 20);
    let registry = Registry::default();
    let wait = |need, end: &dyn Fn(Owned<'_>)| {
        let Claim::Mine(owned) = registry.claim(key(0), 10, || None) else { panic!("free") };
        let Claim::Theirs(flight) = registry.claim(key(0), need, || None) else { panic!("taken") };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| flight.wait(need));
            // The waiter is counted before the owner looks.
            while need <= 10 && matches!(&*lock(&owned.flight.state), State::Running { waiters: 0 })
            {
                std::thread::yield_now();
            }
            end(owned);
            waiter.join().unwrap()
        })
    };
    let done = wait(5, &|owned| owned.finish_own(|| cache.buffer(10)));
    assert!(matches!(done, Outcome::Done(decoded) if decoded.len() == 10));
    let long = wait(20, &|owned| owned.finish(Arc::new(cache.buffer(10))));
    assert!(matches!(long, Outcome::Retry), "too short for this waiter");
    assert!(matches!(wait(10, &|owned| owned.fail(Error::NotFound)), Outcome::Failed(_)));
    assert!(matches!(wait(10, &|owned| drop(owned)), Outcome::Retry));
    assert!(registry.is_empty());
}

/// Readers with overlapping sets of pclusters in every order: each finishes its claims before it
/// waits, so all end, and every round of a pcluster is decoded by one of them at a time.
#[test]
fn overlapping_chains_in_any_order_end() {
    let cache = Cache::new(0);
    let registry = Registry::default();
    let busy: Vec<AtomicUsize> = (0..8).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for reader in 0..8u64 {
            let (cache, registry, busy) = (&cache, &registry, &busy);
            scope.spawn(move || {
                for round in 0..200u64 {
                    let mut claims = vec![];
                    let mut waits = vec![];
                    for step in 0..4 {
                        let index = (reader * 3 + round + step * (reader % 3 + 1)) % 8;
                        match registry.claim(key(index), 10, || None) {
                            Claim::Mine(owned) => {
                                let others = busy[index as usize].fetch_add(1, Ordering::SeqCst);
                                assert_eq!(others, 0, "two decode the same");
                                claims.push((index, owned));
                            }
                            Claim::Theirs(flight) => waits.push(flight),
                            Claim::Found(_) => unreachable!("nothing is kept"),
                        }
                    }
                    for (index, owned) in claims {
                        busy[index as usize].fetch_sub(1, Ordering::SeqCst);
                        owned.finish_own(|| cache.buffer(10));
                    }
                    for flight in waits {
                        let outcome = flight.wait(10);
                        assert!(matches!(outcome, Outcome::Done(_) | Outcome::Retry));
                    }
                }
            });
        }
    });
    assert!(registry.is_empty());
}
