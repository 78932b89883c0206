//! Products of plain row-major matrices, neither of which is kept packed: what training multiplies.
//!
//! The order of summation is that of [`super`]: blocks of 256 terms added in order, within a block one chain of fused
//! multiply-adds. It depends on the shape alone, not on how the product is cut between threads.
//!
//! The right operand is packed once, into panels of sixteen columns, by all threads. Then every thread takes rows of
//! the result: it copies their block of the left operand into its second-level cache, and passes all of them over a
//! block of a panel, which stays in the first-level cache.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use super::lanes::{Lanes, load, store};
use super::{BLOCK, PANEL};
use crate::pool::{Pool, SharedMut};
use crate::simd::{Level, dispatch, level};

/// The most rows of the left operand that are copied together: a multiple of the height of every tile. With a block of
/// columns each, half of a second-level cache of 512 KiB.
const CHUNK: usize = 252;

/// A multiple of the height of every tile.
const TALLEST: usize = 12;

/// The height of the lowest tile.
const SHORTEST: usize = 4;

/// The smallest part of a product worth handing to a thread, in multiply-adds of a panel's width.
const GRAIN: usize = 16 * 1024;

/// Panels that are packed together: their rows lie together in the right operand.
const ABREAST: usize = 4;

/// Panels whose work pays for copying the rows they are multiplied with.
const PANELS_A_COPY: usize = 8;

/// A row-major matrix, or the transpose of one.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    /// Whether a column lies together in memory, rather than a row.
    transposed: bool,
}

impl<'a> Mat<'a> {
    /// The matrix [rows, cols] of row-major values.
    ///
    /// # Panics
    /// If there are not rows * cols values.
    pub fn new(values: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        assert_eq!(values.len(), rows * cols, "a matrix of {rows} x {cols}");
        Mat { values, rows, cols, transposed: false }
    }

    /// The transpose, a view.
    #[must_use]
    pub fn t(self) -> Mat<'a> {
        Mat { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
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
    /// A block of [`CHUNK`] rows of the left operand, tile after tile.
    static ROWS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// The result, which threads write at disjoint places.
struct Out<'a> {
    values: SharedMut<'a, f32>,
    add: bool,
    /// Rows of a chunk.
    chunk: usize,
}

/// `out = a b`, or `out += a b` if `add`: a [M, K], b [K, N], `out` [M, N], row-major.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn matmul(pool: &Pool, a: Mat<'_>, b: Mat<'_>, out: &mut [f32], add: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k && out.len() == m * n, "product of {m} x {k} and {} x {n} into {}", b.rows, out.len());
    if k == 0 && !add {
        out.fill(0.0);
    }
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    let (level, panels) = (level(), n.div_ceil(PANEL));
    PACKED.with_borrow_mut(|packed| {
        packed.clear();
        packed.reserve(panels * k);
        let w = SharedMut::new(packed.spare_capacity_mut());
        // SAFETY: `panels * k` lines are there, and only written until all of them are.
        let w: *mut f32 = unsafe { w.range(0..panels * k) }.as_mut_ptr().cast();
        let w = Packed { start: w, panels, outputs: n };
        let (w, blocks) = (&w, k.div_ceil(BLOCK));
        pool.run(panels.div_ceil(ABREAST) * blocks, 1, |units| pack(level, &b, w, units));

        // Chunks of about the same height, of whole tiles.
        let chunk = m.div_ceil(m.div_ceil(CHUNK)).next_multiple_of(TALLEST);
        let out = Out { values: SharedMut::new(out), add, chunk };
        let (units, grain) = (m.div_ceil(chunk) * panels, GRAIN.div_ceil(m.min(chunk) * k));
        pool.run(units, grain.max(PANELS_A_COPY.min(units / (4 * pool.threads()))), |units| {
            ROWS.with_borrow_mut(|rows| {
                rows.resize(CHUNK * BLOCK / PANEL + CHUNK / SHORTEST, Line([0.0; PANEL]));
                multiply(level, &a, w, rows, &out, units);
            });
        });
    });
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
    /// Packs units of b: a unit is [`ABREAST`] panels of a block, block after block. Only `matmul` calls this: the units
    /// are this thread's.
    fn pack(b: &Mat<'_>, w: &Packed, units: Range<usize>) = pack_body;
    /// Computes units of the product: unit i is panel `i % panels` of chunk `i / panels`. Only `matmul` calls this: the
    /// units are this thread's, and w is packed.
    fn multiply(a: &Mat<'_>, w: &Packed, rows: &mut [Line], out: &Out<'_>, units: Range<usize>) = multiply_body;
}

#[inline(always)]
fn pack_body<I: Lanes>(b: &Mat<'_>, w: &Packed, units: Range<usize>) {
    let groups = w.panels.div_ceil(ABREAST);
    for unit in units {
        let (start, first) = (unit / groups * BLOCK, unit % groups * ABREAST);
        let (length, count) = (BLOCK.min(b.rows - start), ABREAST.min(w.panels - first));
        let (from, stride) = b.at(start, first * PANEL);
        // SAFETY: rows and columns of the blocks are within b, and the blocks are this thread's to write.
        unsafe {
            if !b.transposed && (first + count) * PANEL <= b.cols {
                let to = w.block(start, first, length);
                for k in 0..length {
                    fetch::<I>(from.wrapping_add((k + ROWS_AHEAD) * stride), count * PANEL);
                    for p in 0..count {
                        let row = I::load_f32(from.add(k * stride + p * PANEL).cast());
                        I::store(row, to.add((p * length + k) * PANEL));
                    }
                }
                continue;
            }
            for panel in first..first + count {
                let (width, to) = (PANEL.min(b.cols - panel * PANEL), w.block(start, panel, length));
                let (from, stride) = b.at(start, panel * PANEL);
                if width < PANEL {
                    to.write_bytes(0, length * PANEL);
                }
                if b.transposed {
                    transpose(from, stride, to, length, width);
                    continue;
                }
                for k in 0..length {
                    std::ptr::copy_nonoverlapping(from.add(k * stride), to.add(k * PANEL), width);
                }
            }
        }
    }
}

/// Writes `to[k][j] = from[j][k]` for k below `length` and j below `width`, with rows a panel and `stride` apart.
#[inline(always)]
unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, length: usize, width: usize) {
    const SIDE: usize = 8;
    let (whole_k, whole_j) = (length - length % SIDE, width - width % SIDE);
    // SAFETY: the caller's pointers are valid for these rows and columns.
    unsafe {
        for j in (0..whole_j).step_by(SIDE) {
            for k in (0..whole_k).step_by(SIDE) {
                let mut block = [[0.0f32; SIDE]; SIDE];
                for row in 0..SIDE {
                    let from = from.add((j + row) * stride + k).cast::<[f32; SIDE]>().read_unaligned();
                    for column in 0..SIDE {
                        block[column][row] = from[column];
                    }
                }
                for column in 0..SIDE {
                    to.add((k + column) * PANEL + j).cast::<[f32; SIDE]>().write_unaligned(block[column]);
                }
            }
        }
        for k in 0..length {
            for j in (if k < whole_k { whole_j } else { 0 })..width {
                *to.add(k * PANEL + j) = *from.add(j * stride + k);
            }
        }
    }
}

#[inline(always)]
fn multiply_body<I: Lanes>(a: &Mat<'_>, w: &Packed, rows: &mut [Line], out: &Out<'_>, units: Range<usize>) {
    let rows: *mut f32 = rows.as_mut_ptr().cast();
    // SAFETY: the only caller is `multiply`, compiled for `I` and on a CPU that has it.
    unsafe {
        // The tile that fills the registers, as in `super::tile`.
        match I::LEVEL {
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => chunks::<I, 12, 2>(a, w, rows, out, units),
            Level::Avx2 | Level::Avx2Vnni => chunks::<I, 6, 1>(a, w, rows, out, units),
            Level::Portable | Level::Neon | Level::NeonDot => chunks::<I, 4, 1>(a, w, rows, out, units),
        }
    }
}

#[inline(always)]
unsafe fn chunks<I: Lanes, const R: usize, const P: usize>(
    a: &Mat<'_>,
    w: &Packed,
    rows: *mut f32,
    out: &Out<'_>,
    units: Range<usize>,
) {
    let mut unit = units.start;
    while unit < units.end {
        let chunk = unit / w.panels;
        let end = units.end.min((chunk + 1) * w.panels);
        let panels = unit - chunk * w.panels..end - chunk * w.panels;
        let span = chunk * out.chunk..((chunk + 1) * out.chunk).min(a.rows);
        // SAFETY: by the contract of `multiply`.
        unsafe {
            if a.transposed {
                blocks::<I, R, P, true>(a, w, rows, out, span, panels);
            } else {
                blocks::<I, R, P, false>(a, w, rows, out, span, panels);
            }
        }
        unit = end;
    }
}

/// Some rows times some panels, block after block. T: whether a column of a lies together.
#[inline(always)]
unsafe fn blocks<I: Lanes, const R: usize, const P: usize, const T: bool>(
    a: &Mat<'_>,
    w: &Packed,
    rows: *mut f32,
    out: &Out<'_>,
    span: Range<usize>,
    panels: Range<usize>,
) {
    for start in (0..a.cols).step_by(BLOCK) {
        let length = BLOCK.min(a.cols - start);
        // SAFETY: rows and columns are within a, w and the result, whose part is this thread's; `rows` has room for
        // CHUNK rows of a block.
        unsafe {
            copy_rows::<I, R, T>(a, span.clone(), start, length, rows);
            let y = out.values.start();
            for panel in panels.clone().step_by(P) {
                // An odd last panel is computed twice rather than by a tile of its own.
                let mut of = [w.block(start, panel, length).cast_const(); P];
                for p in 1..P {
                    of[p] = w.block(start, (panel + p).min(panels.end - 1), length);
                }
                let columns = (w.outputs.min(panels.end * PANEL) - panel * PANEL).min(P * PANEL);
                // The block that comes next is fetched while this one is computed, by the first tiles.
                let mut next: *const u8 = w.block(start, panel + P, length).cast();
                let end = next.wrapping_add(P * length * PANEL * size_of::<f32>());
                for row in span.clone().step_by(R) {
                    tile::<I, R, P, T>(&Tile {
                        x: rows.add((row - span.start) / R * apart::<R>()),
                        w: of,
                        length,
                        y: y.add(row * w.outputs + panel * PANEL),
                        outputs: w.outputs,
                        height: R.min(span.end - row),
                        width: columns,
                        add: out.add || start > 0,
                        next,
                    });
                    if next < end {
                        next = next.wrapping_add(length / UNROLLED * P * size_of::<Line>());
                    }
                }
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
                std::ptr::copy_nonoverlapping(from.add(row * stride), to, length);
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

/// What a tile needs to know.
struct Tile<const P: usize> {
    x: *const f32,
    w: [*const f32; P],
    length: usize,
    y: *mut f32,
    /// The distance of rows of y.
    outputs: usize,
    /// Rows and columns of y that exist.
    height: usize,
    width: usize,
    add: bool,
    /// What to fetch for later.
    next: *const u8,
}

/// `R` rows of x times a block of `P` panels: one chain of multiply-adds for each element.
#[inline(always)]
unsafe fn tile<I: Lanes, const R: usize, const P: usize, const T: bool>(t: &Tile<P>) {
    // SAFETY: by the contract of `blocks`; the room for rows holds whole tiles, so rows that do not exist are computed
    // from what lies there and not stored.
    unsafe {
        for r in 0..R {
            I::prefetch(t.y.wrapping_add(r * t.outputs).cast());
        }
        let mut sum = [[I::zero(); P]; R];
        let (mut k, mut next) = (0, t.next);
        while k + UNROLLED <= t.length {
            for _ in 0..P {
                I::prefetch_late(next);
                next = next.wrapping_add(size_of::<Line>());
            }
            for i in 0..UNROLLED {
                column::<I, R, P, T>(t, k + i, &mut sum);
            }
            k += UNROLLED;
        }
        while k < t.length {
            column::<I, R, P, T>(t, k, &mut sum);
            k += 1;
        }
        if t.height == R && t.width == P * PANEL {
            for r in 0..R {
                for p in 0..P {
                    let y = t.y.add(r * t.outputs + p * PANEL);
                    I::store(if t.add { I::add(I::load_f32(y.cast()), sum[r][p]) } else { sum[r][p] }, y);
                }
            }
            return;
        }
        // A copy, so that only it has an address: the sums themselves stay in registers.
        let mut spilled = MaybeUninit::<[[I::Row; P]; R]>::uninit();
        let spilled: *mut I::Row = spilled.as_mut_ptr().cast();
        for r in 0..R {
            for p in 0..P {
                spilled.add(r * P + p).write(sum[r][p]);
            }
        }
        for r in 0..t.height {
            for p in 0..t.width.div_ceil(PANEL) {
                let width = (t.width - p * PANEL).min(PANEL);
                let (y, sum) = (t.y.add(r * t.outputs + p * PANEL), *spilled.add(r * P + p));
                let total = if t.add { I::add(load::<I>(y, width), sum) } else { sum };
                store::<I>(total, y, width);
            }
        }
    }
}

/// Columns of a turn of the loop, for each of which it fetches a cache line a panel.
const UNROLLED: usize = 4;

/// Column `k` of a tile.
#[inline(always)]
unsafe fn column<I: Lanes, const R: usize, const P: usize, const T: bool>(
    t: &Tile<P>,
    k: usize,
    sum: &mut [[I::Row; P]; R],
) {
    // SAFETY: by the contract of `blocks`.
    unsafe {
        let mut weights = [I::zero(); P];
        for p in 0..P {
            weights[p] = I::load_f32(t.w[p].add(k * PANEL).cast());
        }
        for r in 0..R {
            let value = I::splat(*t.x.add(if T { k * R + r } else { r * BLOCK + k }));
            for p in 0..P {
                sum[r][p] = I::multiply_add(weights[p], value, sum[r][p]);
            }
        }
    }
}
