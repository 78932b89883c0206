//! Which storage each matrix of a model gets.

use std::fmt;
use std::str::FromStr;

use anser_kernels::linear::Storage;

/// A storage for every matrix, by its official name. What is small stays in f32 whatever the recipe: norms, token
/// shifts, decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What it is called on command lines and in packed files.
    pub name: &'static str,
    /// Endings of official names; the first that fits decides, the last fits all.
    pub rules: &'static [(&'static str, Storage)],
    /// Whether the embedding follows the rules too; else it stays as the checkpoint has it, in its file.
    pub embedding: bool,
}

impl Recipe {
    /// Everything in f32.
    pub const F32: Recipe = Recipe { name: "f32", rules: &[("", Storage::F32)], embedding: false };
    /// Everything in bf16.
    pub const BF16: Recipe = Recipe { name: "bf16", rules: &[("", Storage::Bf16)], embedding: false };
    /// Everything in f16.
    pub const F16: Recipe = Recipe { name: "f16", rules: &[("", Storage::F16)], embedding: false };
    /// 8-bit codes, and bf16, which most checkpoints have, for the factors of low-rank maps: small, and worth more to the
    /// precision than their size.
    pub const INT8: Recipe =
        Recipe { name: "int8", rules: &[(".weight", Storage::Int8), ("", Storage::Bf16)], embedding: true };
    /// 4-bit codes, and 8 bits where they buy most for their size: the time mix's values and outputs, whose errors reach
    /// the residual stream as they are, and the factors of low-rank maps, which are small and narrow. (Head and embedding
    /// would buy as much, but are half of a small model.)
    pub const INT4: Recipe = Recipe {
        name: "int4",
        rules: &[
            ("att.value.weight", Storage::Int8),
            ("att.output.weight", Storage::Int8),
            (".weight", Storage::Int4),
            ("", Storage::Int8),
        ],
        embedding: true,
    };

    /// Every recipe, largest files first.
    pub const ALL: [Recipe; 5] = [Recipe::F32, Recipe::BF16, Recipe::F16, Recipe::INT8, Recipe::INT4];

    /// Whether it rounds weights to integer codes.
    pub fn quantises(&self) -> bool {
        self.embedding
    }

    /// The storage of a matrix, by its official name.
    pub(crate) fn storage(&self, tensor: &str) -> Storage {
        let rule = self.rules.iter().find(|(ending, _)| tensor.ends_with(ending));
        rule.map_or(Storage::F32, |&(_, storage)| storage)
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name)
    }
}

/// A name that is none of the recipes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownRecipe(pub String);

impl fmt::Display for UnknownRecipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Recipe::ALL.map(|recipe| recipe.name).join(", ");
        write!(f, "unknown weight format {:?}; expected one of {names}", self.0)
    }
}

impl std::error::Error for UnknownRecipe {}

impl FromStr for Recipe {
    type Err = UnknownRecipe;

    fn from_str(name: &str) -> Result<Recipe, UnknownRecipe> {
        Recipe::ALL.into_iter().find(|recipe| recipe.name == name).ok_or_else(|| UnknownRecipe(name.to_string()))
    }
}
