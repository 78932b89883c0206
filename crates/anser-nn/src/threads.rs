//! The threads that operations run on.
//!
//! One pool serves the whole process. A thread that computes a shard of a batch by itself runs its operations inline
//! instead ([`inline`]): shards are then the unit of parallelism.

use std::cell::Cell;
use std::sync::{Arc, OnceLock, RwLock};

use anser_kernels::pool::Pool;

thread_local! {
    static INLINE: Cell<bool> = const { Cell::new(false) };
}

fn shared() -> &'static RwLock<Arc<Pool>> {
    static POOL: OnceLock<RwLock<Arc<Pool>>> = OnceLock::new();
    POOL.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        RwLock::new(Arc::new(Pool::new(cores)))
    })
}

/// Uses `threads` threads for operations from now on. Without a call it is one a core. Results do not depend on it.
pub fn set_threads(threads: usize) {
    *shared().write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(Pool::new(threads));
}

/// Runs `f` with every operation of this thread on this thread alone.
pub fn inline<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            INLINE.set(self.0);
        }
    }
    let _restore = Restore(INLINE.replace(true));
    f()
}

/// The pool of the calling thread.
pub fn pool() -> Arc<Pool> {
    static ALONE: OnceLock<Arc<Pool>> = OnceLock::new();
    if INLINE.get() {
        return Arc::clone(ALONE.get_or_init(|| Arc::new(Pool::new(1))));
    }
    Arc::clone(&shared().read().unwrap_or_else(|poisoned| poisoned.into_inner()))
}
