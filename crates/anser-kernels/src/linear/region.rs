//! One parallel region for several products: cutting them into pieces of work.
#![allow(unsafe_code)]

use std::ops::Range;

use super::quant::reference;
use super::stream::{ABREAST, FEW, stream};
use super::tile::{CHUNK, tiles};
use super::{Epilogue, Float, Kind, Matrix, PANEL, Product};
use crate::activation::{relu2_1, sigmoid1, silu1, tanh1};
use crate::pool::Pool;
use crate::simd::{Isa, Level, level};

/// Products that share a region; more are computed in several.
const TOGETHER: usize = 32;

/// The smallest piece worth handing to a thread, in columns of a panel: a few microseconds.
const GRAIN: usize = 1024;

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
    pub(super) x: *const f32,
    pub(super) y: *mut f32,
    pub(super) rows: usize,
    pub(super) then: Epilogue,
}

/// Applies the function of the epilogue to the piece's part of y. Element by element, so that it does not matter how
/// the product was cut.
#[inline(always)]
pub(super) fn finish<I: Isa>(piece: &Piece) {
    match piece.then {
        Epilogue::Store | Epilogue::Add => {}
        Epilogue::Relu2 => map(piece, relu2_1),
        Epilogue::Tanh => map(piece, tanh1::<I>),
        Epilogue::Sigmoid => map(piece, sigmoid1::<I>),
        Epilogue::Silu => map(piece, silu1::<I>),
    }
}

#[inline(always)]
fn map(piece: &Piece, f: impl Fn(f32) -> f32) {
    let columns = piece.panels.start * PANEL..piece.outputs.min(piece.panels.end * PANEL);
    for row in 0..piece.rows {
        // SAFETY: the piece's part of y, which this thread alone writes.
        let y =
            unsafe { std::slice::from_raw_parts_mut(piece.y.add(row * piece.outputs + columns.start), columns.len()) };
        y.iter_mut().for_each(|y| *y = f(*y));
    }
}

/// A product, cut into units of equal cost: chunks of rows, and within a chunk groups of panels.
#[derive(Clone, Copy)]
struct Task<'a> {
    w: &'a Matrix,
    x: *const f32,
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
        for product in products.iter_mut().filter(|product| matches!(product.w.storage().kind(), Kind::Codes(_))) {
            slowly(level, pool, product);
        }
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
        // The whole struct, not its field, so that the closure is Sync.
        let tasks = &tasks;
        pool.run(total, grain, |costs| {
            for task in tasks.0.iter().flatten() {
                compute(level, task, &costs);
            }
        });
    }
}

/// A product of codes by the reference.
fn slowly(level: Level, pool: &Pool, product: &mut Product<'_>) {
    let w = product.w;
    let then = product.then;
    let x = product.x;
    pool.run_rows(product.y, w.rows(), 1, |row, y| {
        let x = &x[row * w.cols()..][..w.cols()];
        reference(level, w, x, y, if then == Epilogue::Add { then } else { Epilogue::Store });
        match then {
            Epilogue::Store | Epilogue::Add => {}
            Epilogue::Relu2 => crate::activation::relu2(y),
            Epilogue::Tanh => crate::activation::tanh(y),
            Epilogue::Sigmoid => crate::activation::sigmoid(y),
            Epilogue::Silu => crate::activation::silu(y),
        }
    });
}

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
    let (chunk_rows, group) = if rows <= FEW { (rows.max(1), 1) } else { (rows.div_ceil(rows.div_ceil(CHUNK)), 2) };
    let groups = panels.div_ceil(group);
    Task {
        w,
        x: x.as_ptr(),
        y: y.as_mut_ptr(),
        rows,
        then: *then,
        chunk_rows,
        group,
        groups,
        start,
        unit_cost: w.cols() * group * chunk_rows.div_ceil(ABREAST),
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
        // SAFETY: the row is less than T, so both pointers stay inside x and y.
        let (x, y) = unsafe { (task.x.add(row * task.w.cols()), task.y.add(row * task.w.rows())) };
        let Kind::Float(storage) = task.w.storage().kind() else { return };
        let piece = Piece {
            storage,
            w: task.w.start(),
            cols: task.w.cols(),
            outputs: task.w.rows(),
            panels: first * task.group..(last * task.group).min(task.w.rows().div_ceil(PANEL)),
            x,
            y,
            rows: task.chunk_rows.min(task.rows - row),
            then: task.then,
        };
        // SAFETY: `plan` checked the shapes, and no other thread gets these rows of these panels.
        unsafe { if task.rows <= FEW { stream(level, &piece) } else { tiles(level, &piece) } }
        from = end;
    }
}
