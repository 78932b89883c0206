use serde::{Deserialize, Serialize};

use super::push;
use crate::data::Batch;
use crate::random::Random;

/// A group of permutations of five things. Neither is solvable: no fixed depth of threshold circuits is known to
/// multiply in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// All 120 permutations.
    S5,
    /// The 60 even ones.
    A5,
}

/// Where each of five things goes.
type Element = [u8; 5];

impl Group {
    /// How many elements it has.
    pub fn order(self) -> usize {
        match self {
            Group::S5 => 120,
            Group::A5 => 60,
        }
    }

    /// Element number `i`, below [`order`](Group::order): where it sends 0, 1, 2, 3 and 4.
    pub fn element(self, i: usize) -> Element {
        match self {
            Group::S5 => unrank(i),
            // Permutations 2i and 2i + 1 differ by an exchange of their last two values, so one of them is even.
            Group::A5 => {
                let element = unrank(2 * i);
                if is_even(element) { element } else { unrank(2 * i + 1) }
            }
        }
    }

    /// The number of an element.
    pub fn number(self, element: Element) -> usize {
        match self {
            Group::S5 => rank(element),
            Group::A5 => rank(element) / 2,
        }
    }
}

/// First `a`, then `b`.
fn then(a: Element, b: Element) -> Element {
    a.map(|x| b[usize::from(x)])
}

/// The `i`th permutation in lexicographic order.
fn unrank(i: usize) -> Element {
    let mut left = vec![0, 1, 2, 3, 4];
    let mut rest = i % 120;
    [24, 6, 2, 1, 1].map(|ways| {
        let choice = rest / ways;
        rest %= ways;
        left.remove(choice)
    })
}

fn rank(element: Element) -> usize {
    let smaller_after = |i: usize| element[i + 1..].iter().filter(|&&x| x < element[i]).count();
    [24, 6, 2, 1].iter().enumerate().map(|(i, ways)| ways * smaller_after(i)).sum()
}

fn is_even(element: Element) -> bool {
    let inversions = (0..5).map(|i| element[i + 1..].iter().filter(|&&x| x < element[i]).count()).sum::<usize>();
    inversions % 2 == 0
}

pub(super) fn example(group: Group, length: usize, random: &mut Random, batch: &mut Batch) {
    let mut product = group.element(0);
    for _ in 0..length {
        let token = random.below(group.order() as u64);
        product = then(product, group.element(token as usize));
        push(batch, token, Some(group.number(product) as u64));
    }
}
