// SPDX-License-Identifier: MIT OR Apache-2.0
use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};

type Numbers = Registry<u32, usize, &'static str>;

fn need(bytes: usize) -> Need {
    Need { bytes, exact: false }
}

fn none() -> Option<()> {
    None
}

#[test]
fn a_claim_is_exclusive_until_it_ends() {
    let registry = Numbers::default();
    let Claim::Mine(owned) = registry.claim(0, need(10), none) else { panic!("free") };
    assert!(matches!(registry.claim(0, need(10), none), Claim::Theirs(_)));
    assert!(matches!(registry.claim(1, need(10), none), Claim::Mine(_)));
    drop(owned);
    assert!(matches!(registry.claim(0, need(10), || Some(())), Claim::Found(())));
    assert!(matches!(registry.claim(0, need(10), none), Claim::Mine(_)));
    assert!(registry.is_empty(), "dropped claims leave nothing");
}

#[test]
fn waiters_get_values_errors_or_another_try() {
    let registry = Numbers::default();
    let wait = |wanted, end: &dyn Fn(Owned<'_, u32, usize, &'static str>)| {
        let Claim::Mine(owned) = registry.claim(0, need(10), none) else { panic!("free") };
        owned.begin();
        let Claim::Theirs(joined) = registry.claim(0, need(wanted), none) else { panic!("taken") };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| joined.wait(|| false));
            end(owned);
            waiter.join().unwrap()
        })
    };
    assert!(matches!(wait(5, &|owned| owned.finish(10, || 7)), Outcome::Done(7)));
    assert!(matches!(
        wait(20, &|owned| owned.finish(10, || unreachable!("nobody whom it serves"))),
        Outcome::Retry
    ));
    assert!(matches!(wait(10, &|owned| owned.fail("no", None)), Outcome::Failed("no")));
    assert!(matches!(wait(10, &|owned| owned.fail("no", Some(need(10)))), Outcome::Failed("no")));
    assert!(matches!(wait(9, &|owned| owned.fail("no", Some(need(10)))), Outcome::Retry));
    assert!(matches!(wait(10, &|owned| drop(owned)), Outcome::Retry));
    assert!(registry.is_empty());
}

#[test]
fn who_joins_in_time_is_served_along() {
    let registry = Numbers::default();
    let Claim::Mine(owned) = registry.claim(0, need(10), none) else { panic!("free") };
    let Claim::Theirs(long) = registry.claim(0, need(30), none) else { panic!("taken") };
    let Claim::Theirs(short) = registry.claim(0, need(5), none) else { panic!("taken") };
    let exact = Need { bytes: 30, exact: true };
    let Claim::Theirs(checked) = registry.claim(0, exact, none) else { panic!("taken") };
    assert_eq!(owned.begin(), exact);
    let Claim::Theirs(late) = registry.claim(0, need(31), none) else { panic!("taken") };
    owned.finish(30, || 1);
    for joined in [long, short, checked] {
        assert!(matches!(joined.wait(|| false), Outcome::Done(1)));
    }
    assert!(matches!(late.wait(|| false), Outcome::Retry));
}

#[test]
fn waiting_helps_first() {
    let registry = Numbers::default();
    let Claim::Mine(owned) = registry.claim(0, need(10), none) else { panic!("free") };
    let Claim::Theirs(joined) = registry.claim(0, need(10), none) else { panic!("taken") };
    let mut owned = Some(owned);
    let mut helped = 0;
    let outcome = joined.wait(|| {
        helped += 1;
        if helped == 3 {
            owned.take().unwrap().finish(10, || 1);
        }
        true
    });
    assert!(matches!(outcome, Outcome::Done(1)));
    assert_eq!(helped, 3);
}

/// Readers with overlapping sets of pclusters in every order: each finishes its claims before it
/// waits, so all end, and every round of a pcluster is decoded by one of them at a time.
#[test]
fn overlapping_chains_in_any_order_end() {
    let registry = Numbers::default();
    let busy: Vec<AtomicUsize> = (0..8).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (registry, busy) = (&registry, &busy);
            scope.spawn(move || {
                for round in 0..200 {
                    let mut claims = vec![];
                    let mut waits = vec![];
                    for step in 0..4 {
                        let index = (reader * 3 + round + step * (reader % 3 + 1)) % 8;
                        match registry.claim(index, need(10), none) {
                            Claim::Mine(owned) => {
                                let others = busy[index as usize].fetch_add(1, Ordering::SeqCst);
                                assert_eq!(others, 0, "two decode the same");
                                claims.push((index, owned));
                            }
                            Claim::Theirs(joined) => waits.push((index, joined)),
                            Claim::Found(()) => unreachable!("nothing is kept"),
                        }
                    }
                    for (index, owned) in claims {
                        busy[index as usize].fetch_sub(1, Ordering::SeqCst);
                        owned.finish(10, || index as usize);
                    }
                    for (index, joined) in waits {
                        let outcome = joined.wait(|| false);
                        assert!(matches!(outcome, Outcome::Done(value) if value == index as usize));
                    }
                }
            });
        }
    });
    assert!(registry.is_empty());
}
