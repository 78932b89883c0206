//! Forecasts after every row, at a cost that does not depend on how many rows there were.
//!
//! A patch ends with every row, but for a model a series is cut into patches only one way. So P states are carried, one
//! for each way to cut: every row completes one patch, and feeds it to one of them. Mean and deviation of a window must
//! stay as they are while a state grows, and age. So a second set of states follows, with mean and deviation of younger
//! rows: it begins L rows back, is fed four rows for every new one until it has caught up, and takes over.

use std::collections::VecDeque;

use super::forecast::Norm;
use crate::error::Error;
use crate::gradients::values;
use crate::model::series::{Patches, SeriesModel, SeriesState};

/// Rows that the following set of states is fed for every new row.
const PACE: usize = 4;

/// A series of M columns as it grows.
pub struct Stream {
    model: SeriesModel,
    width: usize,
    look_back: usize,
    /// The last 2 L rows.
    recent: VecDeque<Vec<f32>>,
    /// Rows seen.
    rows: u64,
    current: Option<Generation>,
    next: Option<Generation>,
}

/// States under one mean and deviation.
struct Generation {
    /// By column.
    norms: Vec<Norm>,
    /// The row that its first patch begins with.
    began: u64,
    /// Rows fed.
    fed: u64,
    /// By the row, counted from `began` and modulo P, that patches begin with; and what was predicted last, [M, Q].
    ways: Vec<(SeriesState, Vec<f32>)>,
}

impl Stream {
    /// A stream of `width` columns, whose forecasts begin when `look_back` rows were seen.
    ///
    /// # Errors
    /// [`Error::NoState`] for a model that remembers by looking at everything again; [`Error::LookBack`] for a look-back
    /// that is no multiple of the patch, or predictions that are none.
    pub fn new(model: &SeriesModel, width: usize, look_back: usize) -> Result<Stream, Error> {
        let s = model.sizes();
        if !s.has_state() {
            return Err(Error::NoState { backbone: s.backbone.to_string() });
        }
        if look_back == 0 || !look_back.is_multiple_of(s.patch) || !s.output.is_multiple_of(s.patch) {
            return Err(Error::LookBack { look_back, patch: s.patch, output: s.output });
        }
        let (recent, model) = (VecDeque::with_capacity(2 * look_back), model.without_graph());
        Ok(Stream { model, width, look_back, recent, rows: 0, current: None, next: None })
    }

    /// Rows seen.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Rows that are still missing before there are forecasts.
    pub fn missing(&self) -> usize {
        self.look_back - self.look_back.min(self.recent.len())
    }

    /// Takes a row of M values.
    ///
    /// # Panics
    /// When there are not M.
    pub fn push(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.width, "a value a column");
        if self.recent.len() == 2 * self.look_back {
            self.recent.pop_front();
        }
        self.recent.push_back(row.to_vec());
        self.rows += 1;
        if self.recent.len() < self.look_back {
            return;
        }
        let Some(mut current) = self.current.take() else {
            // The first forecast is that of the window alone.
            let mut first = self.generation();
            self.feed(&mut first, self.look_back);
            self.current = Some(first);
            return;
        };
        self.feed(&mut current, 1);
        let mut next = self.next.take().unwrap_or_else(|| self.generation());
        self.feed(&mut next, PACE);
        match next.fed == self.rows {
            true => self.current = Some(next),
            false => (self.current, self.next) = (Some(current), Some(next)),
        }
    }

    /// A set of states that have seen nothing, for the last L rows and those that follow.
    fn generation(&self) -> Generation {
        let began = self.rows - self.look_back as u64;
        let column = |m: usize| self.recent.range(self.recent.len() - self.look_back..).map(move |row| row[m]);
        let norms = (0..self.width).map(|m| Norm::of(&column(m).collect::<Vec<f32>>())).collect();
        let ways = (0..self.model.sizes().patch).map(|_| (self.model.initial_state(self.width), Vec::new())).collect();
        Generation { norms, began, fed: began, ways }
    }

    /// Feeds at most `count` of the rows that a set of states has not seen.
    fn feed(&self, to: &mut Generation, count: usize) {
        let patch = self.model.sizes().patch as u64;
        for _ in 0..count {
            if to.fed == self.rows {
                return;
            }
            to.fed += 1;
            if to.fed < to.began + patch {
                continue;
            }
            let first = (self.recent.len() as u64 - (self.rows - to.fed) - patch) as usize;
            let rows = self.recent.range(first..first + patch as usize);
            let values = (0..self.width).flat_map(|m| rows.clone().map(move |row| (m, row[m])));
            let input = values.map(|(m, x)| to.norms[m].apply(x)).collect();
            let way = ((to.fed - to.began) % patch) as usize;
            let (state, said) = &mut to.ways[way];
            *said = self.step(input, state);
        }
    }

    /// A patch or more of every column [M, ..] goes in, predictions [M, Q] come out.
    fn step(&self, input: Vec<f32>, state: &mut SeriesState) -> Vec<f32> {
        let patches = input.len() / self.width / self.model.sizes().patch;
        let cu_seqlens: Vec<usize> = (0..=self.width).map(|m| m * patches).collect();
        let asked = Some(Patches::last(&cu_seqlens));
        values(self.model.forward(&Patches { values: input, cu_seqlens: cu_seqlens.into(), asked }, state))
    }

    /// The `horizon` rows that follow, [`horizon`, M]; none before there were enough rows. Beyond what the model says at
    /// once, what it said is fed to a copy of the state, and so on.
    pub fn forecast(&self, horizon: usize) -> Option<Vec<f32>> {
        let (current, s) = (self.current.as_ref()?, self.model.sizes());
        let way = ((current.fed - current.began) % s.patch as u64) as usize;
        let (state, said) = &current.ways[way];
        let mut columns: Vec<Vec<f32>> = said.chunks_exact(s.output).map(<[f32]>::to_vec).collect();
        let (mut state, mut said) = (state.clone(), said.clone());
        while columns.first().is_some_and(|column| column.len() < horizon) {
            said = self.step(said, &mut state);
            columns.iter_mut().zip(said.chunks_exact(s.output)).for_each(|(column, said)| column.extend(said));
        }
        let row = |h: usize| (0..self.width).map(move |m| (m, h));
        let value = |(m, h): (usize, usize)| current.norms[m].undo(columns[m][h]);
        Some((0..horizon).flat_map(row).map(value).collect())
    }
}
