//! Threads and scratch memory of a forward pass.

use anser_kernels::pool::Pool;

/// A look at the values inside a forward pass, handed to the observer of an [`Executor`].
#[derive(Debug, Clone, Copy)]
pub struct Tap<'a> {
    /// The layer (0-based); the number of layers for what comes after the last one.
    pub layer: usize,
    /// The place: `"embedding"`, `"time mix"` and `"channel mix"` (the residual stream after each), `"head"`.
    pub point: &'static str,
    /// Values a row.
    pub width: usize,
    /// The values `[rows, width]`.
    pub values: &'a [f32],
}

/// Called at every [`Tap`] of a pass.
pub type Observer = Box<dyn FnMut(&Tap<'_>) + Send>;

/// The threads and the scratch memory that a forward pass runs with.
///
/// One executor serves one pass at a time; after the first pass of a given size nothing is allocated any more.
pub struct Executor {
    pub(crate) pool: Pool,
    /// The residual stream `[rows, C]`.
    pub(crate) stream: Vec<f32>,
    /// RWKV-7's values of the first layer `[rows, C]`.
    pub(crate) v_first: Vec<f32>,
    /// Everything that lives no longer than one mixer.
    pub(crate) arena: Arena,
    /// For every row the sequence that begins with it, or `NOT_FIRST`.
    pub(crate) starts: Vec<u32>,
    pub(crate) observer: Option<Observer>,
    /// Fail with [`crate::Error::NonFinite`] at the first value of a pass that is NaN or infinite.
    pub check_numerics: bool,
}

impl Executor {
    /// An executor with `threads` threads, the calling thread included; 0 means one for every available core.
    pub fn new(threads: usize) -> Executor {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        Executor {
            pool: Pool::new(threads),
            stream: Vec::new(),
            v_first: Vec::new(),
            arena: Arena::default(),
            starts: Vec::new(),
            observer: None,
            check_numerics: false,
        }
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Binds every thread to a core of its own, the calling one included, which is to run the passes. Threads that it
    /// starts later inherit its core, so this comes last. Returns whether it was done: only Linux can, and only if there
    /// are cores enough.
    ///
    /// It keeps the system from moving threads between cores. On a machine that others use as well it does harm: a pass
    /// then waits for the core that is taken.
    pub fn pin_threads(&self) -> bool {
        self.pool.pin()
    }

    /// Calls `observer` at every [`Tap`] of the following passes; `None` ends it.
    pub fn observe(&mut self, observer: Option<Observer>) {
        self.observer = observer;
    }
}

/// One growing block of memory that a mixer cuts into its buffers.
#[derive(Default)]
pub(crate) struct Arena {
    memory: Vec<f32>,
}

impl Arena {
    /// Buffers of the given lengths, with whatever they held before.
    pub(crate) fn cut<const K: usize>(&mut self, lengths: [usize; K]) -> [&mut [f32]; K] {
        let total = lengths.iter().sum();
        if self.memory.len() < total {
            self.memory.resize(total, 0.0);
        }
        let mut rest = self.memory.as_mut_slice();
        lengths.map(|n| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(n);
            rest = tail;
            head
        })
    }
}
