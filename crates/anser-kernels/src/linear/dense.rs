//! Products of plain row-major matrices, neither of which is kept packed: what training multiplies.
//!
//! The order of summation is that of [`super`]: blocks of 256 terms added in order, within a block one chain of fused
//! multiply-adds. It depends on the shape alone, not on how the product is cut between threads.
//!
//! The right operand is packed once, into panels of sixteen columns, by all threads. Then every thread takes rows of
//! the result: it copies their block of the left operand into its second-level cache, and so many panels of a block
//! come there with it. The rows of one tile stay in the first-level cache while those panels pass.
//!
//! A transposed left operand means a weight's gradient, a sum over tokens: both operands are as large as an activation,
//! and what a tile needs of a token lies together in either. Nothing is copied then but what fills no tile or is not
//! taken as it lies (transposed, squared); panels of that are packed where they are used, so chunks are high.
//!
//! What is read and written in place costs least where rows begin on cache lines: see [`crate::alloc`].
//!
//! Products that do not wait for each other are computed together ([`matmuls`]): threads then wait for the last of them
//! once. What surrounds a product in a model is done to its operands as they are copied, or to its result while it is in
//! the cache, rather than in passes of its own over memory.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use smallvec::SmallVec;

use super::lanes::{Lanes, load, store};
use super::{BLOCK, PANEL};
use crate::activation::relu2_1;
use crate::pool::{Pool, SharedMut};
use crate::simd::{Level, dispatch, level};
use crate::transpose::transpose;

/// The most rows of the left operand that are copied together: a multiple of the height of every tile. Few, so that
/// threads finish together; but while the tiles of a chunk pass over some panels, they fetch the next ones.
const CHUNK: usize = 48;

/// The same of a left operand that is transposed: higher, since every chunk meets all of the right operand.
const HIGH_CHUNK: usize = 132;

/// A multiple of the height of every tile.
const TALLEST: usize = 12;

/// The height of the lowest tile.
const SHORTEST: usize = 4;

/// Lines of the rows of a chunk, tile after tile.
const ROOM: usize = HIGH_CHUNK * BLOCK / PANEL + HIGH_CHUNK / SHORTEST;

/// The smallest part of a product worth handing to a thread, in multiply-adds of a panel's width.
const GRAIN: usize = 16 * 1024;

/// Panels that are packed together: their rows lie together in the right operand.
const ABREAST: usize = 4;

/// Panels of a unit of work: as many as the widest tile has.
const GROUP: usize = 2;

/// Panels that the rows of one tile pass over in turn: a block of them fits in the second-level cache.
const WIDE: usize = 16;

/// The most groups of a unit whose left operand is transposed.
const MOST_GROUPS: usize = 4;

/// A row-major matrix, or the transpose of one.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    /// Whether a column lies together in memory, rather than a row.
    transposed: bool,
    /// Whether each value x stands for `max(x, 0)^2`.
    relu2: bool,
}

impl<'a> Mat<'a> {
    /// The matrix [rows, cols] of row-major values.
    ///
    /// # Panics
    /// If there are not rows * cols values.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        assert_eq!(values.len(), rows * cols, "a matrix of {rows} x {cols}");
        Mat { values, rows, cols, transposed: false, relu2: false }
    }

    /// The transpose, a view.
    #[must_use]
    pub fn t(self) -> Mat<'a> {
        Mat { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// The matrix of `max(x, 0)^2`, for each x of this one.
    #[must_use]
    pub fn relu2(self) -> Mat<'a> {
        Mat { relu2: true, ..self }
    }

    /// Element (row, col), and the elements from one to the next of those that do not lie together.
    fn at(&self, row: usize, col: usize) -> (*const f32, usize) {
        let (major, minor, stride) = if self.transposed { (col, row, self.rows) } else { (row, col, self.cols) };
        (self.values.as_ptr().wrapping_add(major * stride + minor), stride)
    }
}

/// A cache line of f32.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "used through a pointer")] [f32; PANEL]);

thread_local! {
    /// The packed right operand of the product that this thread called for.
    static PACKED: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    /// What is copied of a block: rows of the left operand, tile after tile, and panels packed where they are used.
    static ROWS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub enum Plus<'a> {
    /// Nothing.
    Nothing,
    /// What is in its place.
    Out,
    /// A matrix of its shape.
    Rows(&'a [f32]),
    /// One row, to each of its rows.
    Row(&'a [f32]),
}

/// `plus + a b`: a [M, K], b [K, N].
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    a: Mat<'a>,
    b: Mat<'a>,
    plus: Plus<'a>,
    /// Where the derivative of `max(x, 0)^2` is taken, [M, N], that the result is multiplied by.
    slope: Option<&'a [f32]>,
}

impl<'a> Product<'a> {
    /// `a b`.
    pub fn new(a: Mat<'a>, b: Mat<'a>) -> Product<'a> {
        Product { a, b, plus: Plus::Nothing, slope: None }
    }

    /// The product added to something.
    #[must_use]
    pub fn plus(self, plus: Plus<'a>) -> Product<'a> {
        Product { plus, ..self }
    }

    /// The result multiplied by the derivative of `max(x, 0)^2` at each x of a row-major matrix of its shape.
    #[must_use]
    pub fn relu2_slope(self, x: &'a [f32]) -> Product<'a> {
        Product { slope: Some(x), ..self }
    }

    /// How many elements the result has.
    pub fn outputs(&self) -> usize {
        self.a.rows * self.b.cols
    }

    fn check(&self, out: &[f32]) {
        let (m, n, k) = (self.a.rows, self.b.cols, self.a.cols);
        let fits = match self.plus {
            Plus::Nothing | Plus::Out => true,
            Plus::Rows(rows) => rows.len() == m * n,
            Plus::Row(row) => row.len() == n,
        };
        let fits = fits && self.slope.is_none_or(|x| x.len() == m * n);
        assert!(
            self.b.rows == k && out.len() == m * n && fits,
            "product of {m} x {k} and {} x {n} into {}",
            self.b.rows,
            out.len()
        );
    }
}

/// A product on its way.
struct Task<'a> {
    product: Product<'a>,
    w: Packed,
    /// The result, which threads write at disjoint places.
    out: SharedMut<'a, f32>,
    /// Rows of a chunk, and panels of a unit.
    chunk: usize,
    group: usize,
    /// Its share of the units of the first region, and of the second.
    shares: [Range<usize>; 2],
}

impl Task<'_> {
    /// Whether panels are taken as they lie, or packed where they are used.
    fn in_passing(&self) -> bool {
        self.product.a.transposed
    }

    /// Units in the two regions: of packing and of multiplication, or of both together.
    fn units(&self) -> [usize; 2] {
        let (a, panels) = (&self.product.a, self.w.panels);
        let units = a.rows.div_ceil(self.chunk) * panels.div_ceil(self.group);
        if self.in_passing() { [units, 0] } else { [panels.div_ceil(ABREAST) * a.cols.div_ceil(BLOCK), units] }
    }

    /// The smallest number of those units worth handing to a thread.
    fn grain(&self) -> usize {
        let a = &self.product.a;
        GRAIN.div_ceil((a.rows.min(self.chunk) * a.cols * self.group).max(1))
    }
}

/// `out = a b`, or `out += a b` if `add`: a [M, K], b [K, N], `out` [M, N], row-major.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn matmul(pool: &Pool, a: Mat<'_>, b: Mat<'_>, out: &mut [f32], add: bool) {
    let plus = if add { Plus::Out } else { Plus::Nothing };
    matmuls(pool, &mut [(Product::new(a, b).plus(plus), out)]);
}

/// Computes products, each into its place [M, N], row-major.
///
/// # Panics
/// If the shapes of one do not fit each other.
pub fn matmuls(pool: &Pool, products: &mut [(Product<'_>, &mut [f32])]) {
    let level = level();
    PACKED.with_borrow_mut(|packed| {
        let lines = |x: &Product<'_>| if x.a.transposed { 0 } else { x.b.cols.div_ceil(PANEL) * x.a.cols };
        let needed = products.iter().map(|(x, _)| lines(x)).sum();
        packed.clear();
        packed.reserve(needed);
        let packed = SharedMut::new(packed.spare_capacity_mut());
        // SAFETY: so many lines are there, and only written until all of them are.
        let mut start: *mut f32 = unsafe { packed.range(0..needed) }.as_mut_ptr().cast();
        let mut tasks: SmallVec<[Task<'_>; 4]> = SmallVec::new();
        for (product, out) in products {
            product.check(out);
            let (m, n) = (product.a.rows, product.b.cols);
            if m == 0 || n == 0 {
                continue;
            }
            let w = Packed { start, panels: n.div_ceil(PANEL), outputs: n };
            start = start.wrapping_add(lines(product) * PANEL);
            // Chunks of about the same height, of whole tiles.
            let most = if product.a.transposed { HIGH_CHUNK } else { CHUNK };
            let chunk = m.div_ceil(m.div_ceil(most)).next_multiple_of(TALLEST);
            let group = if product.a.transposed {
                // Every unit copies the rows of its chunk: few large ones, but enough for all threads.
                let share = m.div_ceil(chunk) * w.panels / (2 * pool.threads());
                (share - share % GROUP).clamp(GROUP, MOST_GROUPS * GROUP)
            } else {
                GROUP
            };
            tasks.push(Task { product: *product, w, out: SharedMut::new(out), chunk, group, shares: [0..0, 0..0] });
        }
        // The pool hands out many units at a time at first and single ones in the end: the large ones come first.
        tasks.sort_by_key(|task| !task.in_passing());
        let (mut ends, mut grains) = ([0, 0], [1, 1]);
        for task in &mut tasks {
            for (region, units) in task.units().into_iter().enumerate() {
                task.shares[region] = ends[region]..ends[region] + units;
                ends[region] += units;
            }
            let multiplying = usize::from(!task.in_passing());
            grains[multiplying] = grains[multiplying].max(task.grain());
        }
        let tasks = &tasks[..];
        let multiply = |task: &Task<'_>, units: Range<usize>| {
            ROWS.with_borrow_mut(|rows| {
                rows.resize(ROOM + GROUP * BLOCK, Line([0.0; PANEL]));
                multiply(level, task, rows, units);
            });
        };
        pool.run(ends[0], grains[0], |units| {
            for task in tasks {
                let units = own(&units, &task.shares[0]);
                if task.in_passing() {
                    multiply(task, units);
                } else {
                    pack(level, &task.product.b, &task.w, units);
                }
            }
        });
        pool.run(ends[1], grains[1], |units| {
            for task in tasks.iter().filter(|task| !task.in_passing()) {
                multiply(task, own(&units, &task.shares[1]));
            }
        });
    });
}

/// What of `units` lies in `share`, counted from its beginning.
fn own(units: &Range<usize>, share: &Range<usize>) -> Range<usize> {
    let (start, end) = (units.start.max(share.start), units.end.min(share.end));
    start.saturating_sub(share.start)..end.saturating_sub(share.start)
}

/// The right operand, block of rows after block of rows; a block is its panels one after the other, [rows, 16] each.
struct Packed {
    start: *mut f32,
    panels: usize,
    /// Columns of the right operand.
    outputs: usize,
}

// SAFETY: threads write disjoint panels in one region, and only read in the next.
unsafe impl Sync for Packed {}

impl Packed {
    /// The block of a panel that begins at row `start` and has `length` rows.
    fn block(&self, start: usize, panel: usize, length: usize) -> *mut f32 {
        self.start.wrapping_add((start * self.panels + panel * length) * PANEL)
    }
}

dispatch! {
    /// Packs units of b: a unit is [`ABREAST`] panels of a block, block after block. Only `matmuls` calls this: the
    /// units are this thread's.
    fn pack(b: &Mat<'_>, w: &Packed, units: Range<usize>) = pack_body;
    /// Computes units of the product: unit i is group `i % groups` of panels of chunk `i / groups`. Only
    /// `matmuls` calls this: the units are this thread's, and w is packed.
    fn multiply(task: &Task<'_>, rows: &mut [Line], units: Range<usize>) = multiply_body;
}

#[inline(always)]
fn pack_body<I: Lanes>(b: &Mat<'_>, w: &Packed, units: Range<usize>) {
    let groups = w.panels.div_ceil(ABREAST);
    for unit in units {
        let (start, first) = (unit / groups * BLOCK, unit % groups * ABREAST);
        let (length, count) = (BLOCK.min(b.rows - start), ABREAST.min(w.panels - first));
        // SAFETY: rows and columns of the blocks are within b, and the blocks are this thread's to write.
        unsafe { pack_panels::<I>(b, start, length, first, count, w.block(start, first, length)) };
    }
}

/// Packs the block of so many panels that begins at row `start`, panel after panel.
#[inline(always)]
unsafe fn pack_panels<I: Lanes>(b: &Mat<'_>, start: usize, length: usize, first: usize, count: usize, to: *mut f32) {
    let (from, stride) = b.at(start, first * PANEL);
    // SAFETY: by the contract of the callers: what is read is within b, and there is room at `to`.
    unsafe {
        if !b.transposed && (first + count) * PANEL <= b.cols {
            for k in 0..length {
                fetch::<I>(from.wrapping_add((k + ROWS_AHEAD) * stride), count * PANEL);
                for p in 0..count {
                    let row = I::load_f32(from.add(k * stride + p * PANEL).cast());
                    I::store(row, to.add((p * length + k) * PANEL));
                }
            }
        } else {
            for panel in first..first + count {
                let (width, to) = (PANEL.min(b.cols - panel * PANEL), to.add((panel - first) * length * PANEL));
                let (from, stride) = b.at(start, panel * PANEL);
                if width < PANEL {
                    to.write_bytes(0, length * PANEL);
                }
                if b.transposed {
                    transpose::<I>(from, stride, to, PANEL, width, length);
                } else {
                    for k in 0..length {
                        std::ptr::copy_nonoverlapping(from.add(k * stride), to.add(k * PANEL), width);
                    }
                }
            }
        }
        if b.relu2 {
            relu2(to, count * length * PANEL);
        }
    }
}

/// `x = max(x, 0)^2` for so many elements.
#[inline(always)]
unsafe fn relu2(x: *mut f32, length: usize) {
    // SAFETY: the caller's pointer is valid for these elements, which nobody else touches.
    for x in unsafe { std::slice::from_raw_parts_mut(x, length) } {
        *x = relu2_1(*x);
    }
}

#[inline(always)]
fn multiply_body<I: Lanes>(task: &Task<'_>, rows: &mut [Line], units: Range<usize>) {
    let rows: *mut f32 = rows.as_mut_ptr().cast();
    // SAFETY: the only caller is `multiply`, compiled for `I` and on a CPU that has it.
    unsafe {
        // The tile that fills the registers, as in `super::tile`.
        match I::LEVEL {
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => chunks::<I, 12, 2>(task, rows, units),
            Level::Avx2 | Level::Avx2Vnni => chunks::<I, 6, 1>(task, rows, units),
            Level::Portable | Level::Neon | Level::NeonDot => chunks::<I, 4, 1>(task, rows, units),
        }
    }
}

#[inline(always)]
unsafe fn chunks<I: Lanes, const R: usize, const P: usize>(task: &Task<'_>, rows: *mut f32, units: Range<usize>) {
    let (a, panels) = (&task.product.a, task.w.panels);
    let group = task.group;
    let groups = panels.div_ceil(group);
    let mut unit = units.start;
    while unit < units.end {
        let chunk = unit / groups;
        let end = units.end.min((chunk + 1) * groups);
        let panels = (unit - chunk * groups) * group..((end - chunk * groups) * group).min(panels);
        let span = chunk * task.chunk..((chunk + 1) * task.chunk).min(a.rows);
        // SAFETY: by the contract of `multiply`.
        unsafe {
            if a.transposed {
                blocks::<I, R, P, true>(task, rows, span, panels);
            } else {
                blocks::<I, R, P, false>(task, rows, span, panels);
            }
        }
        unit = end;
    }
}

/// Some rows times some panels, block after block. T: whether a column of a lies together.
#[inline(always)]
unsafe fn blocks<I: Lanes, const R: usize, const P: usize, const T: bool>(
    task: &Task<'_>,
    rows: *mut f32,
    span: Range<usize>,
    panels: Range<usize>,
) {
    let (Product { a, b, plus, slope }, w) = (&task.product, &task.w);
    let n = w.outputs;
    // Where panels are packed that are not.
    let fresh = rows.wrapping_add(ROOM * PANEL);
    // SAFETY: the elements of these rows and panels are this thread's.
    let y = unsafe { task.out.start() };
    // A product without terms is one block of none.
    for start in (0..a.cols.max(1)).step_by(BLOCK) {
        let length = BLOCK.min(a.cols - start);
        // SAFETY: rows and columns are within a, b, w and the result, whose part is this thread's; `rows` has room for
        // a chunk's rows of a block, and for a block of panels behind them.
        unsafe {
            // Columns that lie together, and rows that are one block long, lie as a copy would: only what fills no tile
            // is copied.
            let in_place = (T || a.cols == BLOCK) && !a.relu2;
            let whole = if in_place { span.len() - span.len() % R } else { 0 };
            copy_rows::<I, R, T>(a, span.start + whole..span.end, start, length, rows);
            let (from, from_stride): (*const f32, usize) = match *plus {
                _ if start > 0 => (y, n),
                Plus::Nothing => (std::ptr::null(), 0),
                Plus::Out => (y, n),
                Plus::Rows(rows) => (rows.as_ptr(), n),
                Plus::Row(row) => (row.as_ptr(), 0),
            };
            // What is needed next: the rows after those of the first tile, if they are taken as they lie; else what is
            // copied next or, of columns, where they go on: another block of these rows, or the first one of the next
            // chunk's.
            let following = start + BLOCK;
            let (next_rows, next_start) = if !T && in_place {
                (span.start + R..span.end + R, 0)
            } else if following < a.cols {
                (span.clone(), following)
            } else {
                (span.end..span.end + span.len(), 0)
            };
            let (next_rows, next_stride) = a.at(next_rows.start, next_start);
            let (lines, line) = if T { (length, span.len()) } else { (span.len(), length) };
            let (mut fetched, share) = (0, lines.div_ceil(panels.len().div_ceil(P) * span.len().div_ceil(R)));
            // Nobody asked for where a unit begins.
            if in_place && start == 0 {
                let (rows, stride) = a.at(span.start, 0);
                for row in 0..if T { length } else { R.min(span.len()) } {
                    fetch_late::<I>(rows.wrapping_add(row * stride), line);
                }
            }
            let wide = if T { P } else { WIDE };
            for first_panel in panels.clone().step_by(wide) {
                let group = first_panel..(first_panel + wide).min(panels.end);
                let as_it_lies = T && !b.transposed && !b.relu2 && (first_panel + P) * PANEL <= b.cols;
                // The group's first panel, and the elements from one to the next and from row to row.
                let (first, panel_step, w_step) = if as_it_lies {
                    let (first, stride) = b.at(start, first_panel * PANEL);
                    (first, PANEL, stride)
                } else if T {
                    pack_panels::<I>(b, start, length, first_panel, group.len(), fresh);
                    (fresh.cast_const(), length * PANEL, PANEL)
                } else {
                    (w.block(start, first_panel, length).cast_const(), length * PANEL, PANEL)
                };
                // What comes next is fetched while these are computed, by the first tiles.
                let (mut next, next_step) = if !T {
                    (w.block(start, group.end, length).cast_const(), P * PANEL)
                } else if group.end < panels.end {
                    b.at(start, group.end * PANEL)
                } else {
                    b.at(following, panels.start * PANEL)
                };
                let end = next.wrapping_add(if T { length } else { wide / P * (length / UNROLLED) } * next_step);
                for row in span.clone().step_by(R) {
                    let done = row - span.start;
                    for panel in group.clone().step_by(P) {
                        // An odd last panel is computed twice rather than by a tile of its own.
                        let last = group.end - panel - 1;
                        let of = std::array::from_fn(|p| {
                            first.wrapping_add((panel - first_panel + p.min(last)) * panel_step)
                        });
                        for row in fetched..lines.min(fetched + share) {
                            fetch_late::<I>(next_rows.wrapping_add(row * next_stride), line);
                        }
                        fetched += share;
                        let (x, x_step) = if done < whole {
                            a.at(row, start)
                        } else {
                            (rows.cast_const().add((done - whole) / R * apart::<R>()), R)
                        };
                        let tile = Tile {
                            x,
                            x_step,
                            w: of,
                            w_step,
                            length,
                            y: y.add(row * n + panel * PANEL),
                            outputs: n,
                            from: if from.is_null() { from } else { from.add(row * from_stride + panel * PANEL) },
                            from_stride,
                            height: R.min(span.end - row),
                            width: (n.min(panels.end * PANEL) - panel * PANEL).min(P * PANEL),
                            next,
                            next_step,
                        };
                        if next < end {
                            next = next.wrapping_add(length / UNROLLED * next_step);
                        }
                        if tile.height <= SHORTEST {
                            multiply_tile::<I, R, SHORTEST, P, T>(&tile);
                        } else {
                            multiply_tile::<I, R, R, P, T>(&tile);
                        }
                    }
                }
            }
        }
    }
    if let Some(x) = slope {
        let columns = panels.start * PANEL..n.min(panels.end * PANEL);
        for row in span {
            let first = row * n + columns.start;
            // SAFETY: as above.
            let y = unsafe { std::slice::from_raw_parts_mut(y.add(first), columns.len()) };
            for (y, x) in y.iter_mut().zip(&x[first..first + columns.len()]) {
                *y *= 2.0 * x.max(0.0);
            }
        }
    }
}

/// From the `R` rows of one tile to those of the next: a cache line more than they need, so that a column of many
/// tiles does not fall into a few sets of the cache.
const fn apart<const R: usize>() -> usize {
    R * BLOCK + PANEL
}

/// Copies a block of some rows of a, tile after tile: [R, BLOCK] or, if T, [length, R].
#[inline(always)]
unsafe fn copy_rows<I: Lanes, const R: usize, const T: bool>(
    a: &Mat<'_>,
    span: Range<usize>,
    start: usize,
    length: usize,
    to: *mut f32,
) {
    let (from, stride) = a.at(span.start, start);
    let whole = span.len() - span.len() % R;
    // SAFETY: by the contract of `blocks`.
    unsafe {
        if !T {
            for row in 0..span.len() {
                fetch::<I>(from.wrapping_add((row + ROWS_AHEAD) * stride), length);
                let to = to.add(row / R * apart::<R>() + row % R * BLOCK);
                let from = from.add(row * stride);
                if a.relu2 {
                    for k in 0..length {
                        *to.add(k) = relu2_1(*from.add(k));
                    }
                } else {
                    std::ptr::copy_nonoverlapping(from, to, length);
                }
            }
            return;
        }
        for k in 0..length {
            fetch::<I>(from.wrapping_add((k + ROWS_AHEAD) * stride), span.len());
            let (from, to) = (from.add(k * stride), to.add(k * R));
            for tile in 0..whole / R {
                let (from, to) = (from.add(tile * R), to.add(tile * apart::<R>()));
                if tile * R + PANEL <= span.len() {
                    // What lies behind the tile's rows comes along: the next column overwrites it, and the last
                    // column of a block has room behind it.
                    I::store(I::load_f32(from.cast()), to);
                } else {
                    to.cast::<[f32; R]>().write_unaligned(from.cast::<[f32; R]>().read_unaligned());
                }
            }
            std::ptr::copy_nonoverlapping(from.add(whole), to.add(whole / R * apart::<R>()), span.len() - whole);
        }
        if a.relu2 {
            for tile in 0..span.len().div_ceil(R) {
                relu2(to.add(tile * apart::<R>()), length * R);
            }
        }
    }
}

/// How many rows ahead of its use a row is asked for: rows may be a page apart, which no hardware looks beyond.
const ROWS_AHEAD: usize = 8;

/// Asks for some elements, which need not exist.
#[inline(always)]
unsafe fn fetch<I: Lanes>(from: *const f32, length: usize) {
    for element in (0..length).step_by(PANEL) {
        // SAFETY: by the contract of `blocks`; a prefetch never faults.
        unsafe { I::prefetch(from.wrapping_add(element).cast()) };
    }
}

/// Asks for some elements that are needed only after the next few tiles; they need not exist.
#[inline(always)]
unsafe fn fetch_late<I: Lanes>(from: *const f32, length: usize) {
    for element in (0..length).step_by(PANEL) {
        // SAFETY: by the contract of `blocks`; a prefetch never faults.
        unsafe { I::prefetch_late(from.wrapping_add(element).cast()) };
    }
}

/// What a tile needs to know.
struct Tile<const P: usize> {
    x: *const f32,
    /// Elements from a column of x to the next, if columns lie together.
    x_step: usize,
    w: [*const f32; P],
    /// Elements from a row of a panel to the next, if x's columns lie together; else they are [`PANEL`] apart.
    w_step: usize,
    length: usize,
    y: *mut f32,
    /// The distance of rows of y.
    outputs: usize,
    /// What the sums are added to, null for nothing, and the distance of its rows.
    from: *const f32,
    from_stride: usize,
    /// Rows and columns of y that exist.
    height: usize,
    width: usize,
    /// What to fetch for later, and the elements from one turn's to the next one's.
    next: *const f32,
    next_step: usize,
}

/// Up to `H` of the `R` rows of a tile times a block of `P` panels: one chain of multiply-adds for each element.
#[inline(always)]
unsafe fn multiply_tile<I: Lanes, const R: usize, const H: usize, const P: usize, const T: bool>(t: &Tile<P>) {
    // SAFETY: by the contract of `blocks`; the room for rows holds whole tiles, so rows that do not exist are computed
    // from what lies there and not stored.
    unsafe {
        let add = !t.from.is_null();
        let mut sum = [[I::zero(); P]; H];
        let (mut k, mut next) = (0, t.next);
        let (mut y, mut from) = (t.y.cast_const(), t.from);
        while k + UNROLLED <= t.length {
            for p in 0..P {
                I::prefetch_late(next.wrapping_add(p * PANEL).cast());
            }
            // A row of the result a turn: all at once would take every line that the cache can wait for.
            if k < H * UNROLLED {
                for p in 0..P {
                    I::prefetch(y.wrapping_add(p * PANEL).cast());
                    if add {
                        I::prefetch(from.wrapping_add(p * PANEL).cast());
                    }
                }
                (y, from) = (y.wrapping_add(t.outputs), from.wrapping_add(t.from_stride));
            }
            next = next.wrapping_add(if T { t.next_step } else { P * PANEL });
            for i in 0..UNROLLED {
                column::<I, R, H, P, T>(t, k + i, &mut sum);
            }
            k += UNROLLED;
        }
        while k < t.length {
            column::<I, R, H, P, T>(t, k, &mut sum);
            k += 1;
        }
        if t.height == H && t.width == P * PANEL {
            for r in 0..H {
                for p in 0..P {
                    let from = t.from.wrapping_add(r * t.from_stride + p * PANEL);
                    let total = if add { I::add(I::load_f32(from.cast()), sum[r][p]) } else { sum[r][p] };
                    I::store(total, t.y.add(r * t.outputs + p * PANEL));
                }
            }
            return;
        }
        // A copy, so that only it has an address: the sums themselves stay in registers.
        let mut spilled = MaybeUninit::<[[I::Row; P]; H]>::uninit();
        let spilled: *mut I::Row = spilled.as_mut_ptr().cast();
        for r in 0..H {
            for p in 0..P {
                spilled.add(r * P + p).write(sum[r][p]);
            }
        }
        for r in 0..t.height {
            for p in 0..t.width.div_ceil(PANEL) {
                let width = (t.width - p * PANEL).min(PANEL);
                let (from, sum) = (t.from.wrapping_add(r * t.from_stride + p * PANEL), *spilled.add(r * P + p));
                let total = if add { I::add(load::<I>(from, width), sum) } else { sum };
                store::<I>(total, t.y.add(r * t.outputs + p * PANEL), width);
            }
        }
    }
}

/// Columns of a turn of the loop.
const UNROLLED: usize = 4;

/// Column `k` of a tile.
#[inline(always)]
unsafe fn column<I: Lanes, const R: usize, const H: usize, const P: usize, const T: bool>(
    t: &Tile<P>,
    k: usize,
    sum: &mut [[I::Row; P]; H],
) {
    // SAFETY: by the contract of `blocks`.
    unsafe {
        let mut weights = [I::zero(); P];
        for p in 0..P {
            weights[p] = I::load_f32(t.w[p].add(k * if T { t.w_step } else { PANEL }).cast());
        }
        for r in 0..H {
            let value = I::splat(*t.x.add(if T { k * t.x_step + r } else { r * BLOCK + k }));
            for p in 0..P {
                sum[r][p] = I::multiply_add(weights[p], value, sum[r][p]);
            }
        }
    }
}
