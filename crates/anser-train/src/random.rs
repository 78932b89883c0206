//! Random numbers that are a pure function of (seed, purpose, index), so that a resumed run draws the same ones.

/// A stream of random numbers: SplitMix64, begun at a hash of (seed, purpose, index).
///
/// Streams of different purposes or indices have nothing to do with each other. Not for secrets.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

/// SplitMix64's increment: the golden ratio in 64 bits.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's output function, a bijection in which every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Random {
    /// The stream number `index` for `purpose` ("init blocks.0.att.key.weight", "epoch", ...) of a run with this seed.
    pub fn new(seed: u64, purpose: &str, index: u64) -> Random {
        let named = purpose.bytes().fold(mix(seed ^ GOLDEN), |h, byte| mix(h.wrapping_add(GOLDEN) ^ u64::from(byte)));
        Random { state: mix(named.wrapping_add(GOLDEN) ^ mix(index)) }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in `0..n`, every value equally likely; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // The high half of a product; the few low halves that would make some values likelier are drawn again.
        let mut wide = u128::from(self.bits()) * u128::from(n);
        if (wide as u64) < n {
            let unfair = n.wrapping_neg() % n;
            while (wide as u64) < unfair {
                wide = u128::from(self.bits()) * u128::from(n);
            }
        }
        (wide >> 64) as u64
    }

    /// Uniform in `[0, 1)`, in steps of 2^-53.
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1 (Box and Muller; the second value of the pair is not kept).
    pub fn normal(&mut self) -> f64 {
        // 1 - uniform is in (0, 1]: its logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Puts `items` in a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

/// A random permutation of `0..n` that needs no memory: element `i` is computed.
///
/// A Feistel network on the next even number of bits, walked until it is back inside `0..n`.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; 8],
}

impl Permutation {
    /// The permutation of `0..n` that `random` draws.
    pub fn new(n: u64, random: &mut Random) -> Permutation {
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Permutation { n, half: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| random.bits()) }
    }

    /// How many elements there are.
    pub fn len(&self) -> u64 {
        self.n
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Where `i` goes; `i` itself if it is not in `0..n`.
    pub fn get(&self, i: u64) -> u64 {
        if i >= self.n {
            return i;
        }
        let mask = (1u64 << self.half) - 1;
        let mut x = i;
        loop {
            let (mut left, mut right) = (x >> self.half, x & mask);
            for key in self.keys {
                (left, right) = (right, left ^ (mix(right.wrapping_add(key)) & mask));
            }
            x = left << self.half | right;
            // The network permutes a range at most four times as long, so the walk from i comes back to 0..n.
            if x < self.n {
                return x;
            }
        }
    }
}
