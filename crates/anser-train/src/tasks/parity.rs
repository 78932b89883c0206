use super::push;
use crate::data::Batch;
use crate::random::Random;

pub(super) fn example(length: usize, random: &mut Random, batch: &mut Batch) {
    let mut parity = 0;
    for _ in 0..length {
        let bit = random.below(2);
        parity ^= bit;
        push(batch, bit, Some(parity));
    }
}
