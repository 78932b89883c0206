//! A thread pool for regions of a few microseconds.
//!
//! One [`Pool::run`] is one parallel region: the calling thread and the workers claim ranges of units until none is
//! left. Workers spin for a moment after a region, so that the next one starts within about a microsecond, then park.
//! A worker that is late (parked, or its core busy with something else) simply misses the region: the others take its
//! share, so a region never waits for a thread to wake up.
//!
//! Who computes a unit is a matter of chance, what it computes is not: kernels in this crate compute every unit the
//! same way wherever it runs, hence results do not depend on the number of threads.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a worker looks for the next region before it parks: longer than the serial stretches between the regions
/// of one token, shorter than anything a user would notice as load.
const SPIN: Duration = Duration::from_micros(100);

/// The gate counts the workers inside the region in its low bits ...
const INSIDE: u64 = (1 << 16) - 1;
/// ... then has one bit that says nobody may enter any more ...
const CLOSED: u64 = 1 << 16;
/// ... and above it the number of the region.
const REGION: u64 = 1 << 17;

thread_local! {
    /// Whether this thread is inside a region (of any pool): a nested one then runs inline.
    static INSIDE_REGION: Cell<bool> = const { Cell::new(false) };
}

/// A region's work: what to call and how to cut it.
#[derive(Clone, Copy)]
struct Job {
    f: *const (dyn Fn(Range<usize>) + Sync),
    units: usize,
    grain: usize,
}

struct Shared {
    gate: AtomicU64,
    /// The first unit nobody has claimed yet.
    next: AtomicUsize,
    /// Written by the caller while the gate is closed and nobody is inside, read only by threads inside.
    job: UnsafeCell<Option<Job>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
    parked: Vec<AtomicBool>,
    threads: usize,
    /// Whether each thread can have a core of its own; if not, waiting threads give their core away.
    cores_suffice: bool,
}

// SAFETY: `job` is the only field that is not Sync by itself. The gate orders its accesses: the caller writes it only
// when the gate is closed with nobody inside (and callers are serialised by a lock), threads read it only between
// entering and leaving. The closure behind the pointer is Sync and outlives the region, because `run` does not return
// before the gate is closed and empty.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer inside `job` is dereferenced only within a region.
unsafe impl Send for Shared {}

/// A fixed set of threads that run parallel regions one after the other. The caller of [`Pool::run`] is one of them.
pub struct Pool {
    shared: Arc<Shared>,
    callers: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// A pool of `threads` threads, the caller of a region included: `threads - 1` are started (0 counts as 1). If the
    /// system refuses to start that many, the pool is smaller; see [`Pool::threads`].
    pub fn new(threads: usize) -> Pool {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = threads.clamp(1, INSIDE as usize);
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(CLOSED),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
            parked: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            threads,
            cores_suffice: threads <= cores,
        });
        let mut workers = Vec::with_capacity(threads - 1);
        for id in 0..threads - 1 {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("anser-{}", id + 1));
            match thread.spawn(move || work(&shared, id)) {
                Ok(handle) => workers.push(handle),
                Err(_) => break,
            }
        }
        let handles = workers.iter().map(|w| w.thread().clone()).collect();
        Pool { shared, callers: Mutex::new(()), workers, handles }
    }

    /// The number of threads a region may use, its caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Binds every thread to a core of its own among those the calling thread may use: the caller, which is to call
    /// [`Pool::run`] too, to the first, the workers to the next ones. Threads that the caller starts later inherit its
    /// core, so this comes last. Returns whether it was done: only Linux can, and only if there are cores enough.
    pub fn pin(&self) -> bool {
        #[cfg(target_os = "linux")]
        return affinity::bind(&self.workers);
        #[cfg(not(target_os = "linux"))]
        false
    }

    /// Calls `f` with disjoint ranges that together cover `0..units`, on all threads, and returns when all are done.
    ///
    /// `grain` is the smallest number of units worth handing to a thread; a region that does not exceed it runs inline
    /// in one call. A thread may get several ranges: large ones first, then smaller ones, so that threads finish
    /// together. Inside a region, `run` of this or another pool executes inline. Two threads that call `run` at once
    /// take turns.
    ///
    /// # Panics
    /// If `f` panics: the remaining ranges are dropped, and the first panic continues in the caller once every thread
    /// has left the region. The pool stays usable.
    pub fn run(&self, units: usize, grain: usize, f: impl Fn(Range<usize>) + Sync) {
        if units == 0 {
            return;
        }
        let grain = grain.max(1);
        if units <= grain || self.workers.is_empty() || INSIDE_REGION.get() {
            return f(0..units);
        }
        let turn = lock(&self.callers);
        let f: &(dyn Fn(Range<usize>) + Sync) = &f;
        // SAFETY: only the lifetime is changed; the region is over (gate closed, nobody inside) before `f` goes away.
        let f =
            unsafe { std::mem::transmute::<&(dyn Fn(Range<usize>) + Sync), &'static (dyn Fn(Range<usize>) + Sync)>(f) };
        let job = Job { f, units, grain };
        let shared = &*self.shared;
        // SAFETY: the gate is closed and nobody is inside (state between regions), and `turn` excludes other callers.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Relaxed);
        let region = (shared.gate.load(Relaxed) & !(REGION - 1)).wrapping_add(REGION);
        shared.gate.store(region, SeqCst);
        let helpers = units.div_ceil(grain) - 1;
        for (parked, thread) in shared.parked.iter().zip(&self.handles).take(helpers) {
            if parked.load(SeqCst) && parked.swap(false, SeqCst) {
                thread.unpark();
            }
        }
        take_part(shared, job);
        shared.gate.fetch_or(CLOSED, AcqRel);
        let mut wait = Wait::new(shared.cores_suffice);
        while shared.gate.load(Acquire) & INSIDE != 0 {
            wait.once();
        }
        let panic = lock(&shared.panic).take();
        drop(turn);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Calls `f(row, values)` for every row of `data`, a row-major matrix of rows of `width` elements, each row on one
    /// thread. `grain` is the smallest number of rows worth handing to a thread.
    ///
    /// # Panics
    /// If `width` is 0 while `data` is not empty, or does not divide `data.len()`; or as [`Pool::run`], if `f` panics.
    pub fn run_rows<T: Send>(&self, data: &mut [T], width: usize, grain: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        if data.is_empty() {
            return;
        }
        assert!(
            width > 0 && data.len().is_multiple_of(width),
            "run_rows: {} elements are not whole rows of {width}",
            data.len()
        );
        let rows = data.len() / width;
        let data = SharedMut::new(data);
        self.run(rows, grain, |range| {
            for row in range {
                // SAFETY: `run` hands out disjoint ranges, so each row is borrowed once.
                f(row, unsafe { data.range(row * width..(row + 1) * width) });
            }
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of regions, so joining cannot fail in a way anybody could act upon.
            let _ = worker.join();
        }
    }
}

#[cfg(target_os = "linux")]
mod affinity {
    use std::mem::{MaybeUninit, size_of};
    use std::os::unix::thread::JoinHandleExt;
    use std::thread::JoinHandle;

    use libc::{CPU_ISSET, CPU_SET, CPU_SETSIZE, cpu_set_t};

    /// See [`super::Pool::pin`].
    pub(super) fn bind(workers: &[JoinHandle<()>]) -> bool {
        // SAFETY: a set of cores is an array of bits, of which none is set.
        let none: cpu_set_t = unsafe { MaybeUninit::zeroed().assume_init() };
        let mut allowed = none;
        // SAFETY: the handles are those of threads that run or were not joined, the sets are as large as is said, and the
        // macros are given bits within a set.
        unsafe {
            let caller = libc::pthread_self();
            if libc::pthread_getaffinity_np(caller, size_of::<cpu_set_t>(), &raw mut allowed) != 0 {
                return false;
            }
            let cores: Vec<usize> = (0..CPU_SETSIZE as usize).filter(|&core| CPU_ISSET(core, &allowed)).collect();
            let threads = std::iter::once(caller).chain(workers.iter().map(|worker| worker.as_pthread_t()));
            cores.len() > workers.len()
                && threads.zip(cores).all(|(thread, core)| {
                    let mut one = none;
                    CPU_SET(core, &mut one);
                    libc::pthread_setaffinity_np(thread, size_of::<cpu_set_t>(), &raw const one) == 0
                })
        }
    }
}

/// A poisoned lock is fine here: what it protects is valid at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Claims ranges until none is left. The pieces shrink with what remains, down to the grain.
fn take_part(shared: &Shared, job: Job) {
    INSIDE_REGION.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: this thread is inside the region (or its caller), so the closure is alive.
        let f = unsafe { &*job.f };
        let mut start = shared.next.load(Relaxed);
        while start < job.units {
            let left = job.units - start;
            let length = (left / (2 * shared.threads)).max(job.grain).min(left);
            match shared.next.compare_exchange_weak(start, start + length, Relaxed, Relaxed) {
                Ok(_) => {
                    f(start..start + length);
                    start = shared.next.load(Relaxed);
                }
                Err(now) => start = now,
            }
        }
    }));
    INSIDE_REGION.set(false);
    if let Err(panic) = result {
        shared.next.store(job.units, Relaxed);
        lock(&shared.panic).get_or_insert(panic);
    }
}

fn work(shared: &Shared, id: usize) {
    let mut seen = 0;
    let mut wait = Wait::new(shared.cores_suffice);
    loop {
        let gate = shared.gate.load(Acquire);
        if gate & !(REGION - 1) == seen || gate & CLOSED != 0 {
            if shared.stop.load(Acquire) {
                return;
            }
            if wait.once() < SPIN {
                continue;
            }
            // Either the caller sees the flag, or this thread sees the new region: both sides are sequentially
            // consistent, so one of the two must happen.
            shared.parked[id].store(true, SeqCst);
            let gate = shared.gate.load(SeqCst);
            if (gate & !(REGION - 1) == seen || gate & CLOSED != 0) && !shared.stop.load(SeqCst) {
                std::thread::park();
            }
            shared.parked[id].store(false, SeqCst);
            wait = Wait::new(shared.cores_suffice);
        } else if shared.gate.compare_exchange_weak(gate, gate + 1, Acquire, Relaxed).is_ok() {
            seen = gate & !(REGION - 1);
            // SAFETY: this thread is inside the region that the caller opened after writing the job.
            if let Some(job) = unsafe { *shared.job.get() } {
                take_part(shared, job);
            }
            shared.gate.fetch_sub(1, Release);
            wait = Wait::new(shared.cores_suffice);
        }
    }
}

/// Busy waiting that knows how long it has lasted.
struct Wait {
    since: Option<Instant>,
    rounds: u32,
    cores_suffice: bool,
}

impl Wait {
    fn new(cores_suffice: bool) -> Wait {
        Wait { since: None, rounds: 0, cores_suffice }
    }

    /// Waits a few nanoseconds; longer and longer waits give the core to others. Returns for how long it has waited.
    fn once(&mut self) -> Duration {
        self.rounds += 1;
        if !self.rounds.is_multiple_of(32) {
            std::hint::spin_loop();
            return Duration::ZERO;
        }
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        if !self.cores_suffice || waited > SPIN {
            std::thread::yield_now();
        }
        waited
    }
}

/// A mutable slice that several threads write at disjoint places.
pub struct SharedMut<'a, T> {
    start: *mut T,
    length: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: handing a `SharedMut` to another thread hands out `&mut T` at most, which needs T: Send; that the places are
// disjoint is the promise of the caller of `range`.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    /// Shares `slice` for as long as it is borrowed.
    pub fn new(slice: &'a mut [T]) -> SharedMut<'a, T> {
        SharedMut { start: slice.as_mut_ptr(), length: slice.len(), borrow: PhantomData }
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The first element, for writers of places that no range describes, such as columns.
    ///
    /// # Safety
    /// What is written through it must be inside the slice, and nobody else's.
    pub unsafe fn start(&self) -> *mut T {
        self.start
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the returned slice lives, nobody else may hold an overlapping one.
    ///
    /// # Panics
    /// If the range lies outside the slice.
    #[allow(clippy::mut_from_ref)] // that several threads hold disjoint parts is the point; see Safety
    pub unsafe fn range(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "range {range:?} outside a slice of {}",
            self.length
        );
        // SAFETY: in bounds by the assertion, exclusive by the caller's promise, alive for 'a by the constructor.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }
}
