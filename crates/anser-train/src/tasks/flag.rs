use super::push;
use crate::data::Batch;
use crate::random::Random;

pub(super) fn example(values: usize, noise: usize, distance: usize, random: &mut Random, batch: &mut Batch) {
    let (values, noise) = (values as u64, noise as u64);
    let flag = random.below(values);
    push(batch, flag, None);
    for _ in 0..distance {
        push(batch, values + random.below(noise), None);
    }
    push(batch, values + noise, Some(flag));
}
