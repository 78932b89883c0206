//! One parallel region for several products: cutting them into pieces of work.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use smallvec::SmallVec;

use super::quant::{Activations, GROUP, kernel, quantise_at};
use super::rounded::{self, round_at};
pub(super) use super::stream::FEW;
use super::stream::{ABREAST, stream};
use super::tile::{CHUNK, tiles};
use super::{BLOCK, Epilogue, Float, InputBits, Kind, Matrix, PANEL, Product};
use crate::activation::{relu2_1, sigmoid1, silu1, tanh1};
use crate::pool::{Pool, SharedMut};
use crate::simd::{Isa, Level, level};

/// Products that share a region; more are computed in several.
const TOGETHER: usize = 32;

/// The smallest piece worth handing to a thread, in columns of a panel: a few microseconds.
const GRAIN: usize = 1024;

/// The most rows of x that are multiplied with codes in one piece: those of a pass of prefill, so that the codes are
/// widened once for all of them.
const CHUNK_OF_CODES: usize = 256;

/// Panels whose work pays for copying the rows of x they are multiplied with.
const PANELS_A_COPY: usize = 8;

/// The part of a product that one thread computes in one go.
pub(super) struct Piece {
    pub(super) storage: Float,
    /// The packed matrix and its columns.
    pub(super) w: *const u8,
    pub(super) cols: usize,
    /// Outputs of the matrix, which is the distance of two rows of y.
    pub(super) outputs: usize,
    /// Panels to compute.
    pub(super) panels: Range<usize>,
    /// The first row of x and of y, and how many.
    pub(super) x: Input,
    pub(super) y: *mut f32,
    pub(super) rows: usize,
    pub(super) then: Epilogue,
}

/// Rows of x beside floats.
#[derive(Clone, Copy)]
pub(super) enum Input {
    /// In f32, as the caller has them.
    Plain(*const f32),
    /// In bf16, block after block, in it row after row: block 0 of the first row, and how many rows x has.
    Rounded { first: *const rounded::Block, rows: usize },
}

impl Input {
    /// The first value of block `b` of a row of `cols` columns.
    #[inline(always)]
    pub(super) fn block(self, row: usize, b: usize, cols: usize) -> *const u8 {
        match self {
            Input::Plain(x) => x.wrapping_add(row * cols + b * BLOCK).cast(),
            Input::Rounded { first, rows } => first.wrapping_add(b * rows + row).cast(),
        }
    }
}

/// A part of y: some rows of some panels.
pub(super) struct Part {
    /// The first row.
    pub(super) y: *mut f32,
    pub(super) outputs: usize,
    pub(super) panels: Range<usize>,
    pub(super) rows: usize,
    pub(super) then: Epilogue,
}

impl Part {
    /// The first output of a row of a panel.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, panel: usize) -> *mut f32 {
        self.y.wrapping_add(row * self.outputs + panel * PANEL)
    }

    /// The outputs of a panel.
    #[inline(always)]
    pub(super) fn width(&self, panel: usize) -> usize {
        (self.outputs - panel * PANEL).min(PANEL)
    }
}

/// Sums of some panels between one block of columns and the next: panel after panel, in it row after row, sixteen
/// lanes. In y itself rows may lie a power of two apart, and would fall into a few sets of the caches.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    first: *mut f32,
    stride: usize,
}

impl Sums {
    /// f32 for so many panels of a piece.
    pub(super) const fn room(panels: usize) -> usize {
        panels * (CHUNK_OF_CODES + 1) * PANEL
    }

    /// Sums at `first`, which has [`Sums::room`]. Panels are an odd number of lines apart, or y's trouble would return.
    #[inline(always)]
    pub(super) fn new(first: *mut f32, rows: usize) -> Sums {
        Sums { first, stride: (rows | 1) * PANEL }
    }

    /// A row of the `panel`-th panel.
    #[inline(always)]
    pub(super) fn at(&self, row: usize, panel: usize) -> *mut f32 {
        self.first.wrapping_add(panel * self.stride + row * PANEL)
    }

    /// Takes over what y holds.
    ///
    /// # Safety
    /// The part is valid, and there is room for it.
    #[inline(always)]
    pub(super) unsafe fn take(&self, part: &Part) {
        for row in 0..part.rows {
            for (i, panel) in part.panels.clone().enumerate() {
                // SAFETY: by the contract above.
                unsafe { copy(part.at(row, panel), self.at(row, i), part.width(panel)) }
            }
        }
    }

    /// Writes y, with the function of the epilogue.
    ///
    /// # Safety
    /// As for [`Sums::take`].
    #[inline(always)]
    pub(super) unsafe fn give<I: Isa>(&self, part: &Part) {
        for row in 0..part.rows {
            for (i, panel) in part.panels.clone().enumerate() {
                // SAFETY: by the contract above.
                unsafe { copy(self.at(row, i), part.at(row, panel), part.width(panel)) }
            }
            // While the row is in the cache.
            finish_part::<I>(&Part { y: part.at(row, 0), panels: part.panels.clone(), rows: 1, ..*part });
        }
    }
}

/// A row of a panel.
///
/// # Safety
/// Both places are valid for `width` elements.
#[inline(always)]
unsafe fn copy(from: *const f32, to: *mut f32, width: usize) {
    // SAFETY: by the contract above.
    unsafe {
        if width == PANEL {
            // Two vectors, no call.
            to.cast::<[f32; PANEL]>().write_unaligned(from.cast::<[f32; PANEL]>().read_unaligned());
        } else {
            std::ptr::copy_nonoverlapping(from, to, width);
        }
    }
}

/// Applies the function of the epilogue to the piece's part of y.
#[inline(always)]
pub(super) fn finish<I: Isa>(piece: &Piece) {
    let Piece { y, outputs, rows, then, .. } = *piece;
    finish_part::<I>(&Part { y, outputs, panels: piece.panels.clone(), rows, then });
}

/// Applies the function of the epilogue, element by element, so that it does not matter how the product was cut.
#[inline(always)]
pub(super) fn finish_part<I: Isa>(part: &Part) {
    match part.then {
        Epilogue::Store | Epilogue::Add => {}
        Epilogue::Relu2 => map(part, relu2_1),
        Epilogue::Tanh => map(part, tanh1::<I>),
        Epilogue::Sigmoid => map(part, sigmoid1::<I>),
        Epilogue::Silu => map(part, silu1::<I>),
    }
}

#[inline(always)]
fn map(part: &Part, f: impl Fn(f32) -> f32) {
    let columns = part.panels.start * PANEL..part.outputs.min(part.panels.end * PANEL);
    for row in 0..part.rows {
        // SAFETY: the part of y that this thread alone writes.
        let y =
            unsafe { std::slice::from_raw_parts_mut(part.y.add(row * part.outputs + columns.start), columns.len()) };
        y.iter_mut().for_each(|y| *y = f(*y));
    }
}

/// A product, cut into units of equal cost: chunks of rows, and within a chunk groups of panels.
#[derive(Clone, Copy)]
struct Task<'a> {
    w: &'a Matrix,
    x: *const f32,
    /// x in integers, if W is: block after block, in it row after row.
    codes: *const Activations,
    /// x in bf16, if that is asked for, in the same order.
    rounded: *const rounded::Block,
    y: *mut f32,
    rows: usize,
    then: Epilogue,
    chunk_rows: usize,
    /// Panels of a unit, and units of a chunk.
    group: usize,
    groups: usize,
    /// Where this product begins among the costs of all, and what a unit costs.
    start: usize,
    unit_cost: usize,
    units: usize,
}

/// The tasks of a region, shared with its threads.
struct Tasks<'a>([Option<Task<'a>>; TOGETHER]);

// SAFETY: threads write through the pointers to y only the elements of the units they claimed, which are disjoint;
// everything else is read only. The pointers outlive the region.
unsafe impl Sync for Tasks<'_> {}

/// Computes all products in one parallel region, the work shared out over all of them. T may differ from product to
/// product and may be 0.
///
/// A row of y depends on its row of x and on W alone: its bits do not change with T, with the other products or with
/// the number of threads.
///
/// # Panics
/// If x is not [T, in] or y is not [T, out] for one T.
pub fn products(pool: &Pool, products: &mut [Product<'_>]) {
    products_at(level(), pool, products);
}

/// [`products`] on an instruction set of choice, or on the best available if that is narrower: for tests and
/// comparisons.
///
/// # Panics
/// As [`products`].
pub fn products_at(level: Level, pool: &Pool, products: &mut [Product<'_>]) {
    for products in products.chunks_mut(TOGETHER) {
        let mut tasks = Tasks([None; TOGETHER]);
        let (mut total, mut grain) = (0, GRAIN);
        for (task, product) in tasks.0.iter_mut().zip(products) {
            let planned = plan(product, total);
            total += planned.units * planned.unit_cost;
            if planned.rows > FEW {
                grain = grain.max(planned.unit_cost * PANELS_A_COPY / planned.group);
            }
            *task = Some(planned);
        }
        let grain = grain.min(total / (4 * pool.threads())).max(GRAIN);
        INPUTS.with_borrow_mut(|(codes, rounded)| {
            let to_codes = |task: &Task<'_>| matches!(task.w.storage().kind(), Kind::Codes(_));
            let to_bf16 = |task: &Task<'_>| !to_codes(task) && task.w.inputs() == InputBits::Sixteen;
            prepare(
                pool,
                &mut tasks,
                codes,
                Activations::ZERO,
                to_codes,
                |w, x, to| quantise_at(level, w.steps(), x, to),
                |task, to| task.codes = to,
            );
            prepare(
                pool,
                &mut tasks,
                rounded,
                rounded::Block::ZERO,
                to_bf16,
                |_, x, to| round_at(level, x, to),
                |task, to| task.rounded = to,
            );
            // The whole struct, not its field, so that the closure is Sync.
            let tasks = &tasks;
            pool.run(total, grain, |costs| {
                for task in tasks.0.iter().flatten() {
                    compute(level, task, &costs);
                }
            });
        });
    }
}

thread_local! {
    /// The inputs of a region in integers and in bf16, those of the thread that called.
    static INPUTS: RefCell<(Vec<Activations>, Vec<rounded::Block>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Blocks of x worth handing to a thread.
const BLOCKS_A_THREAD: usize = 64;

/// Turns inputs into what the matrices they `concern` are multiplied with, every input once however many matrices it is
/// multiplied with: `make` turns at most a block of x, `place` tells a task where its first one is.
fn prepare<B: Copy + Send>(
    pool: &Pool,
    tasks: &mut Tasks<'_>,
    made: &mut Vec<B>,
    zero: B,
    concern: impl Fn(&Task<'_>) -> bool,
    make: impl Fn(&Matrix, &[f32], &mut B) + Sync,
    place: impl Fn(&mut Task<'_>, *const B),
) {
    let blocks = |task: &Task<'_>| task.w.cols().div_ceil(BLOCK) * task.rows;
    // The tasks that brought an input, and where it begins.
    let mut inputs: SmallVec<[(Task<'_>, usize); TOGETHER]> = SmallVec::new();
    let mut places = [0; TOGETHER];
    let mut total = 0;
    for (task, place) in tasks.0.iter().flatten().zip(&mut places) {
        if !concern(task) {
            continue;
        }
        let input = |task: &Task<'_>| (task.x, task.rows, task.w.cols(), task.w.steps());
        let same = |known: &Task<'_>| input(known) == input(task);
        *place = match inputs.iter().find(|(known, _)| same(known)) {
            Some((_, place)) => *place,
            None => {
                inputs.push((*task, total));
                total += blocks(task);
                total - blocks(task)
            }
        };
    }
    if total == 0 {
        return;
    }
    if made.len() < total {
        made.resize(total, zero);
    }
    let shared = SharedMut::new(&mut made[..total]);
    let inputs = Inputs(inputs);
    let inputs = &inputs;
    pool.run(total, BLOCKS_A_THREAD, |range| {
        // SAFETY: `run` hands out disjoint ranges.
        let made = unsafe { shared.range(range.clone()) };
        for (task, place) in &inputs.0 {
            let cols = task.w.cols();
            for at in range.start.max(*place)..range.end.min(place + blocks(task)) {
                let (b, row) = ((at - place) / task.rows, (at - place) % task.rows);
                // SAFETY: the block is within x, which `plan` checked.
                let x = unsafe {
                    let length = (cols - b * BLOCK).min(BLOCK);
                    std::slice::from_raw_parts(task.x.add(row * cols + b * BLOCK), length)
                };
                make(task.w, x, &mut made[at - range.start]);
            }
        }
    });
    for (task, at) in tasks.0.iter_mut().flatten().zip(places) {
        if concern(task) {
            place(task, made[at..].as_ptr());
        }
    }
}

/// Tasks and where their inputs begin, shared with the threads of a region.
struct Inputs<'a>(SmallVec<[(Task<'a>, usize); TOGETHER]>);

// SAFETY: threads read x through the pointers and nothing else.
unsafe impl Sync for Inputs<'_> {}

fn plan<'a>(product: &mut Product<'a>, start: usize) -> Task<'a> {
    let Product { w, x, y, then } = product;
    let rows = x.len() / w.cols();
    assert!(
        x.len() == rows * w.cols() && y.len() == rows * w.rows(),
        "{w:?}: x has {} elements and y {}, which are not [T, {}] and [T, {}]",
        x.len(),
        y.len(),
        w.cols(),
        w.rows()
    );
    let panels = w.rows().div_ceil(PANEL);
    let most = match w.storage().kind() {
        Kind::Float(_) => CHUNK,
        Kind::Codes(_) => CHUNK_OF_CODES,
    };
    let chunk_rows = if rows <= FEW { rows.max(1) } else { rows.div_ceil(rows.div_ceil(most)) };
    // As many panels as the kernels take together.
    let group = match w.storage().kind() {
        Kind::Float(_) if rows <= FEW => 1,
        Kind::Codes(_) if rows <= 2 => 4,
        _ => 2,
    };
    let groups = panels.div_ceil(group);
    // Of codes there are fewer bytes, and more fit into an instruction.
    let cost = match w.storage().kind() {
        Kind::Float(_) => w.cols(),
        Kind::Codes(_) => w.cols().div_ceil(2),
    };
    Task {
        w,
        x: x.as_ptr(),
        codes: std::ptr::null(),
        rounded: std::ptr::null(),
        y: y.as_mut_ptr(),
        rows,
        then: *then,
        chunk_rows,
        group,
        groups,
        start,
        unit_cost: cost * group * chunk_rows.div_ceil(ABREAST),
        units: rows.div_ceil(chunk_rows) * groups,
    }
}

/// Computes the units of `task` that begin within `costs`.
fn compute(level: Level, task: &Task<'_>, costs: &Range<usize>) {
    let unit = |cost: usize| cost.saturating_sub(task.start).div_ceil(task.unit_cost).min(task.units);
    let (mut from, to) = (unit(costs.start), unit(costs.end));
    while from < to {
        let chunk = from / task.groups;
        let end = to.min((chunk + 1) * task.groups);
        let (first, last) = (from - chunk * task.groups, end - chunk * task.groups);
        let row = chunk * task.chunk_rows;
        let rows = task.chunk_rows.min(task.rows - row);
        let (cols, outputs, then) = (task.w.cols(), task.w.rows(), task.then);
        let panels = first * task.group..(last * task.group).min(outputs.div_ceil(PANEL));
        // SAFETY: the row is less than T, so the pointers stay inside x and y. `plan` checked the shapes, and no other
        // thread gets these rows of these panels.
        unsafe {
            let y = task.y.add(row * outputs);
            match task.w.storage().kind() {
                Kind::Float(storage) => {
                    let w = task.w.start();
                    let x = match task.rounded.is_null() {
                        true => Input::Plain(task.x.add(row * cols)),
                        false => Input::Rounded { first: task.rounded.add(row), rows: task.rows },
                    };
                    let piece = Piece { storage, w, cols, outputs, panels, x, y, rows, then };
                    if task.rows <= FEW { stream(level, &piece) } else { tiles(level, &piece) }
                }
                Kind::Codes(layout) => kernel::compute(
                    level,
                    &kernel::Piece {
                        layout,
                        steps: task.w.steps(),
                        codes: task.w.start(),
                        scales: task.w.start().add(task.w.scales_at(layout)),
                        code_bytes: layout.code_bytes(cols),
                        scale_bytes: layout.scale_bytes(cols),
                        groups: cols.div_ceil(GROUP),
                        octets: layout.scales.columns() / 8,
                        x: task.codes.add(row),
                        x_rows: task.rows,
                        part: Part { y, outputs, panels, rows, then },
                    },
                ),
            }
        }
        from = end;
    }
}
