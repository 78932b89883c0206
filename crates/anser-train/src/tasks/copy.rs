use super::push;
use crate::data::Batch;
use crate::random::Random;

pub(super) fn example(symbols: usize, count: usize, random: &mut Random, batch: &mut Batch) {
    let text = (0..count).map(|_| random.below(symbols as u64)).collect::<Vec<_>>();
    text.iter().for_each(|&symbol| push(batch, symbol, None));
    let mark = symbols as u64;
    let read = std::iter::once(mark).chain(text.iter().copied());
    read.zip(&text).for_each(|(token, &target)| push(batch, token, Some(target)));
}
