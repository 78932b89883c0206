//! Where codes and scales of a panel lie, and rows of them in plain form.

use half::f16;

use super::super::{BLOCK, InputBits, PANEL};
use super::GROUP;

/// How the codes of a panel are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Codes {
    /// Signed bytes. Eight columns after eight columns: 64 bytes of four columns, row after row, then those of the other
    /// four: 0, 4, 1, 5, then 2, 6, 3, 7. Where
    /// groups have minima only 0 to 31 mean something: instruction sets may take others as signed or not.
    Bytes,
    /// 0 to 15. Eight columns after eight columns: 64 bytes, row after row; their low nibbles are four columns, their
    /// high nibbles the others, as with bytes. So nibble `n` of the 16-bit word `c` of a row is column `2 n + c`.
    Nibbles,
}

/// What gives codes their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Scales {
    /// An f16 for a group: `w = d (q - offset)`. A group takes sixteen f16, one a row.
    Half {
        /// 0 or 8.
        offset: i8,
    },
    /// Two f16 for a block and two bytes for a group: `w = (d s) q - (dmin m)`. A block takes sixteen d, sixteen dmin,
    /// then, group by group, sixteen s and sixteen m.
    Affine,
    /// An f16 for a block and a signed byte for half a group: `w = (d s) q`. A block takes sixteen d, then, half group
    /// by half group, sixteen s.
    Sixteen,
}

impl Scales {
    /// Whether groups have minima.
    pub(super) fn has_minima(self) -> bool {
        self == Scales::Affine
    }

    /// Columns that share a scale.
    pub(in super::super) fn columns(self) -> usize {
        if self == Scales::Sixteen { GROUP / 2 } else { GROUP }
    }

    /// The columns of a group, parted where another scale begins.
    pub(super) fn parts(self, first: usize, end: usize) -> impl Iterator<Item = (usize, usize)> {
        let length = self.columns();
        (first..end).step_by(length).map(move |from| (from, from + length))
    }
}

/// What the integers of a row of x are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Steps {
    /// 16 bits, a step for a block.
    Sixteen,
    /// 8 bits, a step for a group.
    OfGroups,
    /// 8 bits, a step for a block.
    OfBlocks,
}

/// A quantised storage: every combination of codes and scales is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Layout {
    pub(in super::super) codes: Codes,
    pub(in super::super) scales: Scales,
}

impl Layout {
    /// What becomes of x beside these codes.
    pub(in super::super) fn steps(self, inputs: InputBits) -> Steps {
        match (inputs, self.codes) {
            (InputBits::ThirtyTwo | InputBits::Sixteen, _) => Steps::Sixteen,
            (InputBits::Eight, Codes::Bytes) => Steps::OfGroups,
            (InputBits::Eight, Codes::Nibbles) => Steps::OfBlocks,
        }
    }

    /// Bytes of the codes of a panel of `cols` columns.
    pub(in super::super) fn code_bytes(self, cols: usize) -> usize {
        let cols = cols.next_multiple_of(GROUP);
        match self.codes {
            Codes::Bytes => PANEL * cols,
            Codes::Nibbles => PANEL * cols / 2,
        }
    }

    /// Bytes of the scales of a panel of `cols` columns.
    pub(in super::super) fn scale_bytes(self, cols: usize) -> usize {
        let (blocks, groups) = (cols.div_ceil(BLOCK), cols.div_ceil(GROUP));
        PANEL
            * match self.scales {
                Scales::Half { .. } => 2 * groups,
                Scales::Affine => 4 * blocks + 2 * groups,
                Scales::Sixteen => 2 * blocks + 2 * groups,
            }
    }

    /// Bytes of a panel.
    pub(in super::super) fn panel_bytes(self, cols: usize) -> usize {
        self.code_bytes(cols) + self.scale_bytes(cols)
    }

    /// Byte of a panel's codes, and the shift in it, that hold the code of row `j` and column `k`.
    fn place(self, j: usize, k: usize) -> (usize, u32) {
        // Which four columns, and which of them.
        let (half, quarter) = (k / 2 % 2, 2 * (k % 2) + k % 8 / 4);
        match self.codes {
            Codes::Bytes => (k / 8 * 8 * PANEL + half * 4 * PANEL + 4 * j + quarter, 0),
            Codes::Nibbles => (k / 8 * 4 * PANEL + 4 * j + quarter, 4 * half as u32),
        }
    }

    /// Writes `row` as row `j` of a panel; where there are nibbles, over zeros.
    pub(in super::super) fn write(self, row: &Row, j: usize, codes: &mut [u8], scales: &mut [u8]) {
        for (k, &code) in row.codes.iter().enumerate() {
            let (at, shift) = self.place(j, k);
            match self.codes {
                Codes::Bytes => codes[at] = code as u8,
                Codes::Nibbles => codes[at] |= (code as u8 & 15) << shift,
            }
        }
        let mut half = |at: usize, value: f16| scales[at + 2 * j..][..2].copy_from_slice(&value.to_le_bytes());
        match self.scales {
            Scales::Half { .. } => row.d.iter().enumerate().for_each(|(g, &d)| half(g * 2 * PANEL, d)),
            Scales::Affine => {
                for (b, (&d, &dmin)) in row.d.iter().zip(&row.dmin).enumerate() {
                    half(b * BLOCK_OF_AFFINE, d);
                    half(b * BLOCK_OF_AFFINE + 2 * PANEL, dmin);
                }
                for (g, (&s, &m)) in row.s.iter().zip(&row.m).enumerate() {
                    let at = affine_group(g) + j;
                    (scales[at], scales[at + PANEL]) = (s, m);
                }
            }
            Scales::Sixteen => {
                row.d.iter().enumerate().for_each(|(b, &d)| half(b * BLOCK_OF_SIXTEEN, d));
                row.s.iter().enumerate().for_each(|(h, &s)| scales[half_group(h) + j] = s);
            }
        }
    }

    /// Reads row `j` of a panel of `cols` columns.
    pub(in super::super) fn read(self, j: usize, cols: usize, codes: &[u8], scales: &[u8]) -> Row {
        let mut row = Row::new(self, cols);
        for (k, code) in row.codes.iter_mut().enumerate() {
            let (at, shift) = self.place(j, k);
            *code = match self.codes {
                Codes::Bytes => codes[at] as i8,
                Codes::Nibbles => (codes[at] >> shift & 15) as i8,
            };
        }
        let half = |at: usize| f16::from_le_bytes([scales[at + 2 * j], scales[at + 2 * j + 1]]);
        match self.scales {
            Scales::Half { .. } => row.d.iter_mut().enumerate().for_each(|(g, d)| *d = half(g * 2 * PANEL)),
            Scales::Affine => {
                for (b, (d, dmin)) in row.d.iter_mut().zip(&mut row.dmin).enumerate() {
                    (*d, *dmin) = (half(b * BLOCK_OF_AFFINE), half(b * BLOCK_OF_AFFINE + 2 * PANEL));
                }
                for (g, (s, m)) in row.s.iter_mut().zip(&mut row.m).enumerate() {
                    let at = affine_group(g) + j;
                    (*s, *m) = (scales[at], scales[at + PANEL]);
                }
            }
            Scales::Sixteen => {
                row.d.iter_mut().enumerate().for_each(|(b, d)| *d = half(b * BLOCK_OF_SIXTEEN));
                row.s.iter_mut().enumerate().for_each(|(h, s)| *s = scales[half_group(h) + j]);
            }
        }
        row
    }

    /// The first f16 of a panel's scales that is not finite, as its row in the panel and its column.
    pub(in super::super) fn bad_scale(self, cols: usize, scales: &[u8]) -> Option<(usize, usize)> {
        let bad = |at: usize| {
            let mut halves = scales[at..at + 2 * PANEL].as_chunks::<2>().0.iter();
            halves.position(|&half| !f16::from_le_bytes(half).is_finite())
        };
        match self.scales {
            Scales::Half { .. } => (0..cols.div_ceil(GROUP)).find_map(|g| Some((bad(g * 2 * PANEL)?, g * GROUP))),
            Scales::Affine => (0..cols.div_ceil(BLOCK)).find_map(|b| {
                let d = bad(b * BLOCK_OF_AFFINE).or_else(|| bad(b * BLOCK_OF_AFFINE + 2 * PANEL));
                Some((d?, b * BLOCK))
            }),
            Scales::Sixteen => (0..cols.div_ceil(BLOCK)).find_map(|b| Some((bad(b * BLOCK_OF_SIXTEEN)?, b * BLOCK))),
        }
    }
}

/// Bytes of the scales of a whole block.
pub(super) const BLOCK_OF_AFFINE: usize = PANEL * (4 + 2 * (BLOCK / GROUP));
pub(super) const BLOCK_OF_SIXTEEN: usize = PANEL * (2 + 2 * (BLOCK / GROUP));

fn affine_group(g: usize) -> usize {
    let groups = BLOCK / GROUP;
    g / groups * BLOCK_OF_AFFINE + PANEL * (4 + g % groups * 2)
}

fn half_group(h: usize) -> usize {
    let halves = 2 * BLOCK / GROUP;
    h / halves * BLOCK_OF_SIXTEEN + PANEL * (2 + h % halves)
}

/// One row of a matrix in plain form. What a layout does not have stays empty.
#[derive(Clone, Debug)]
pub(in super::super) struct Row {
    /// Codes, to a whole group.
    pub(super) codes: Vec<i8>,
    /// Of a group ([`Scales::Half`]) or a block.
    pub(super) d: Vec<f16>,
    /// Of a block.
    pub(super) dmin: Vec<f16>,
    /// Of a group, or, signed, of half a group.
    pub(super) s: Vec<u8>,
    /// Of a group.
    pub(super) m: Vec<u8>,
}

impl Row {
    /// All zero.
    pub(super) fn new(layout: Layout, cols: usize) -> Row {
        let (blocks, groups) = (cols.div_ceil(BLOCK), cols.div_ceil(GROUP));
        let (d, dmin, s, m) = match layout.scales {
            Scales::Half { .. } => (groups, 0, 0, 0),
            Scales::Affine => (blocks, blocks, groups, groups),
            Scales::Sixteen => (blocks, 0, 2 * groups, 0),
        };
        Row {
            codes: vec![0; groups * GROUP],
            d: vec![f16::ZERO; d],
            dmin: vec![f16::ZERO; dmin],
            s: vec![0; s],
            m: vec![0; m],
        }
    }

    /// Scale and minimum of column `k`, and what is taken off its code: `w = scale (q - offset) - minimum`.
    pub(super) fn scale(&self, layout: Layout, k: usize) -> (f32, f32, i8) {
        match layout.scales {
            Scales::Half { offset } => (self.d[k / GROUP].to_f32(), 0.0, offset),
            Scales::Affine => {
                let (d, dmin) = (self.d[k / BLOCK].to_f32(), self.dmin[k / BLOCK].to_f32());
                (d * f32::from(self.s[k / GROUP]), dmin * f32::from(self.m[k / GROUP]), 0)
            }
            Scales::Sixteen => (self.d[k / BLOCK].to_f32() * f32::from(self.s[2 * k / GROUP] as i8), 0.0, 0),
        }
    }

    /// The weights, as stored.
    pub(in super::super) fn values(&self, layout: Layout, out: &mut [f32]) {
        for (k, out) in out.iter_mut().enumerate() {
            let (scale, minimum, offset) = self.scale(layout, k);
            *out = scale * f32::from(self.codes[k] - offset) - minimum;
        }
    }
}
