// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who is followed, and where threads end up.

use super::*;

const ASLEEP: Option<Sight> = Some(Sight { asleep: true, cpu: 1 });
const RUNNING: Option<Sight> = Some(Sight { asleep: false, cpu: 1 });

fn after(state: &mut State, len: u32, sight: Option<Sight>) -> Move {
    let mut requests = 1;
    while !state.is_time(Pause::default()) {
        state.answered(len);
        requests += 1;
    }
    assert!((LOOK_FIRST..=LOOK_EVERY).contains(&requests));
    state.decide(sight)
}

#[test]
fn a_reader_that_sleeps_is_followed() {
    let mut state = State::default();
    assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay);
    assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
    // Woken before it slept.
    assert_eq!(after(&mut state, 0, RUNNING), Move::Stay);
    let other = Some(Sight { asleep: true, cpu: 0 });
    let waited = Pause { asked: WAITED, answered: WAITED };
    assert!(!state.is_time(waited) && !state.is_time(waited) && !state.is_time(waited));
    assert!(state.is_time(waited), "it must be elsewhere");
    assert_eq!(state.decide(other), Move::To(0));
    assert_eq!(after(&mut state, 0, RUNNING), Move::Home);
    assert_eq!(after(&mut state, 0, RUNNING), Move::Stay);
}

#[test]
fn readers_of_large_files_and_unknown_ones_are_not() {
    let mut state = State::default();
    for _ in 0..5 {
        after(&mut state, 1 << 20, None);
    }
    for _ in 0..5 {
        assert_eq!(after(&mut state, 1 << 20, ASLEEP), Move::Stay);
    }
    let mut state = State::default();
    after(&mut state, 0, ASLEEP);
    assert_eq!(after(&mut state, 0, None), Move::Stay);
    after(&mut state, 0, ASLEEP);
    assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
    // A large file among small ones is nothing.
    state.answered(1 << 20);
    assert_eq!(after(&mut state, 20 << 10, ASLEEP), Move::Stay);
    assert_eq!(after(&mut state, 256 << 10, ASLEEP), Move::Home);
}

#[test]
fn one_that_moves_all_the_time_is_not() {
    let mut state = State::default();
    let mut moves = 0;
    for look in 0_usize.. {
        let sight = Some(Sight { asleep: true, cpu: look / 2 % 2 });
        for _ in 0..LOOK_AT_MOST_EVERY {
            state.is_time(Pause { asked: WAITED, answered: WAITED });
        }
        match state.decide(sight) {
            Move::To(_) => moves += 1,
            Move::Stay => {}
            Move::Home => break,
        }
    }
    assert_eq!((moves, state.rest), (MOVES_MAX, REST));
    // But rarely it may.
    let mut state = State::default();
    for look in 0..200 {
        let sight = Some(Sight { asleep: true, cpu: look / 10 % 2 });
        assert_ne!(after(&mut state, 0, sight), Move::Home);
    }
}

#[test]
fn who_gets_late_requests_stops_and_rests_longer_each_time() {
    let mut state = State::default();
    let mut longest = 0;
    for _ in 0..3 {
        after(&mut state, 0, ASLEEP);
        assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
        state.is_time(Pause { asked: LATE, answered: LATE });
        assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay, "one is nothing");
        for _ in 0..LATE_MAX {
            state.is_time(Pause { asked: Duration::ZERO, answered: LATE });
        }
        assert_eq!(after(&mut state, 0, ASLEEP), Move::Home);
        assert!(state.rest > longest);
        longest = state.rest;
        for _ in 0..longest {
            assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay);
        }
    }
}

#[test]
fn threads_that_want_to_run_are_counted() {
    assert_eq!(runnable(b"0.41 2.26 4.69 3/411 4711\n"), Some(3));
    assert_eq!(runnable(b""), None);
    assert!(runnable(&std::fs::read("/proc/loadavg").unwrap()).unwrap() > 0);
}

#[test]
fn who_starved_rests() {
    let mut state = State::default();
    for (why, rest) in [(Freed::Quiet, 0), (Freed::Starved, REST)] {
        after(&mut state, 0, ASLEEP);
        assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
        state.freed(why);
        for _ in 0..=rest {
            assert_eq!(after(&mut state, 0, ASLEEP), Move::Stay);
        }
        assert_eq!(after(&mut state, 0, ASLEEP), Move::To(1));
        state = State::default();
    }
}

#[test]
fn a_thread_is_seen_where_it_is() {
    let me = std::fs::read("/proc/thread-self/stat").unwrap();
    assert!(!parse(&me).unwrap().asleep);
    let mut fields = vec![b"7 (a) b) S".to_vec()];
    fields.extend((4..=52).map(|number| format!("{number}").into_bytes()));
    assert_eq!(parse(&fields.join(&b' ')), Some(Sight { asleep: true, cpu: 39 }));
    for bad in [&b""[..], b"1 (x", b"1 (x) S", b"1 (x) S 1 2"] {
        assert_eq!(parse(bad), None);
    }
}

#[test]
fn a_policy_that_somebody_chose_is_kept() {
    std::thread::spawn(|| {
        set_policy(gettid(), Policy::Idle).unwrap();
        assert!(Follow::new().is_none());
    })
    .join()
    .unwrap();
}

/// In a thread that is lost if it does not come back.
#[test]
fn threads_go_where_they_are_told_and_come_home() {
    let Some(follow) = Follow::new() else {
        return eprintln!("skipped: one processor, or no right to change the policy back");
    };
    let idle = || {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // proc(5): the policy is the 41st field; 5 is SCHED_IDLE.
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(38).unwrap() == "5"
    };
    let cpu = (0..CpuSet::MAX_CPU).find(|cpu| follow.home.is_set(*cpu)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut follower = Follower::new(&follow);
            assert!(follow.confine(cpu) && follow.is_on());
            follower.state.at = Some(cpu);
            assert!(idle() && sched_getaffinity(None).unwrap().count() == 1);
            let mut others = follow.home;
            others.unset(cpu);
            let (tell, told) = std::sync::mpsc::channel();
            let follow_too = &follow;
            scope.spawn(move || {
                let follow = follow_too;
                follow.join();
                tell.send(gettid()).unwrap();
                while follow.is_on() {
                    std::thread::yield_now();
                }
                follow.part();
                assert!(follow.state().companions.is_empty());
            });
            let companion = told.recv().unwrap();
            assert!(follow.confine(cpu), "again, now that there is one");
            assert_eq!(sched_getaffinity(Some(companion)).unwrap(), others);
            follower.request(0, Pause::default(), false);
            assert!(!follow.is_on() && !idle());
            assert_eq!(sched_getaffinity(None).unwrap(), follow.home);

            assert!(follow.confine(cpu));
            follower.state.at = Some(cpu);
            std::thread::scope(|scope| {
                scope.spawn(|| follow.free(Freed::Starved));
            });
            assert!(!idle() && sched_getaffinity(None).unwrap() == follow.home);
            follower.state.requests = LOOK_EVERY;
            follower.request(0, Pause::default(), true);
            assert_eq!((follower.state.at, follower.state.rest), (None, REST - 1));

            assert!(follow.confine(cpu));
            follower.state.at = Some(cpu);
            drop(follower);
            assert!(!idle() && !follow.is_on());

            assert!(follow.confine(cpu));
            follow.stop();
            assert!(!idle() && sched_getaffinity(None).unwrap() == follow.home);
            let again = follow.confine(cpu);
            // An idle thread may take for ever to say what is wrong.
            follow.leave();
            assert!(!again && !idle() && !follow.is_on());
        });
    });
}
