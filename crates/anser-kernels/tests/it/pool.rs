#![allow(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use anser_kernels::pool::{Pool, SharedMut};
use proptest::prelude::*;

/// Runs a region that counts how often each unit is visited, and returns the counts and the number of calls.
fn visits(pool: &Pool, units: usize, grain: usize) -> (Vec<usize>, usize) {
    let counts: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
    let calls = AtomicUsize::new(0);
    pool.run(units, grain, |range| {
        calls.fetch_add(1, Relaxed);
        assert!(!range.is_empty());
        range.for_each(|i| {
            counts[i].fetch_add(1, Relaxed);
        });
    });
    (counts.into_iter().map(AtomicUsize::into_inner).collect(), calls.into_inner())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_unit_runs_exactly_once(threads in 1usize..9, units in 0usize..700, grain in 0usize..80) {
        let pool = Pool::new(threads);
        for _ in 0..4 {
            let (counts, calls) = visits(&pool, units, grain);
            prop_assert!(counts.iter().all(|&n| n == 1));
            if units > 0 && (units <= grain || threads == 1) {
                prop_assert_eq!(calls, 1);
            }
            prop_assert!(calls <= units.div_ceil(grain.max(1)));
        }
    }
}

#[test]
fn rows_are_whole_and_in_place() {
    for threads in [1, 2, 5] {
        let pool = Pool::new(threads);
        let mut data = vec![0u32; 7 * 33];
        pool.run_rows(&mut data, 7, 2, |row, values| {
            assert_eq!(values.len(), 7);
            values.iter_mut().enumerate().for_each(|(i, v)| *v += (row * 7 + i) as u32);
        });
        assert!(data.iter().enumerate().all(|(i, &v)| v == i as u32));
        pool.run_rows(&mut [] as &mut [u32], 0, 1, |_, _| unreachable!());
    }
}

#[test]
fn many_quick_regions_on_more_threads_than_cores() {
    let pool = Pool::new(6);
    let total = AtomicUsize::new(0);
    let rounds = 20_000;
    for round in 0..rounds {
        // Now and then long enough a pause for the workers to park.
        if round % 5_000 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        pool.run(6, 1, |range| {
            total.fetch_add(range.len(), Relaxed);
        });
    }
    assert_eq!(total.into_inner(), 6 * rounds);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_survives() {
    for threads in [1, 2, 4] {
        let pool = Pool::new(threads);
        for bad in [0, 17, 63] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(64, 1, |range| {
                    std::thread::sleep(Duration::from_micros(20));
                    assert!(!range.contains(&bad), "unit {bad} is bad");
                });
            }));
            let message = *caught.expect_err("the panic continues").downcast::<String>().expect("a message");
            assert_eq!(message, format!("unit {bad} is bad"));
            assert!(visits(&pool, 64, 1).0.iter().all(|&n| n == 1));
        }
    }
}

#[test]
fn workers_do_take_part() {
    let pool = Pool::new(3);
    let seen = Mutex::new(std::collections::HashSet::new());
    // A loaded machine may be late with a thread: try until one other than the caller has been seen.
    for _ in 0..2_000 {
        pool.run(8, 1, |_| {
            std::thread::sleep(Duration::from_micros(50));
            seen.lock().unwrap().insert(std::thread::current().id());
        });
        if seen.lock().unwrap().len() > 1 {
            return;
        }
    }
    panic!("only the caller worked");
}

#[test]
fn nested_regions_run_inline() {
    let (pool, other) = (Pool::new(3), Pool::new(2));
    let total = AtomicUsize::new(0);
    pool.run(12, 1, |outer| {
        for pool in [&pool, &other] {
            let me = std::thread::current().id();
            pool.run(10, 1, |inner| {
                assert_eq!(std::thread::current().id(), me);
                total.fetch_add(outer.len() * inner.len(), Relaxed);
            });
        }
    });
    assert_eq!(total.into_inner(), 12 * 10 * 2);
}

#[test]
fn callers_take_turns() {
    let pool = Pool::new(3);
    let inside = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..300 {
                    let mut sum = vec![0usize; 50];
                    let shared = SharedMut::new(&mut sum);
                    pool.run(50, 3, |range| {
                        // SAFETY: ranges are disjoint.
                        unsafe { shared.range(range) }.iter_mut().for_each(|v| *v += 1);
                        inside.fetch_add(1, Relaxed);
                    });
                    assert!(sum.iter().all(|&v| v == 1));
                }
            });
        }
    });
    assert!(inside.into_inner() >= 4 * 300);
}

#[test]
fn shared_parts_are_checked() {
    let mut data = [1, 2, 3];
    let shared = SharedMut::new(&mut data);
    assert_eq!((shared.len(), shared.is_empty()), (3, false));
    // SAFETY: the only part handed out.
    assert_eq!(unsafe { shared.range(1..3) }, &[2, 3]);
    // SAFETY: panics instead of returning anything.
    assert!(catch_unwind(AssertUnwindSafe(|| unsafe { shared.range(2..4).len() })).is_err());
}

#[test]
fn bound_threads_do_take_part() {
    std::thread::scope(|scope| {
        // In a thread of its own, which the test leaves bound.
        scope.spawn(|| {
            let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
            assert!(!Pool::new(cores + 1).pin(), "more threads than cores");
            let pool = Pool::new(cores);
            assert_eq!(pool.pin(), cfg!(target_os = "linux"));
            let (counts, _) = visits(&pool, 1000, 1);
            assert!(counts.iter().all(|&count| count == 1));
        });
    });
}
