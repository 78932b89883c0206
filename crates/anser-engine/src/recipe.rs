//! Which storage each matrix of a model gets.

use std::fmt;
use std::str::FromStr;

use anser_kernels::linear::Storage;

/// A storage for every matrix, by what it does in the model. What is small stays in f32 whatever the recipe: norms,
/// token shifts, decays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// What it is called on command lines and in packed files.
    pub name: &'static str,
    /// The projections of time mix and channel mix.
    pub body: Storage,
    /// The head.
    pub head: Storage,
    /// The embedding; `None` keeps what the checkpoint has, in its file.
    pub embedding: Option<Storage>,
    /// The factors of low-rank maps.
    pub factors: Storage,
}

impl Recipe {
    /// Everything in f32.
    pub const F32: Recipe = Recipe::uniform("f32", Storage::F32);
    /// Everything in bf16.
    pub const BF16: Recipe = Recipe::uniform("bf16", Storage::Bf16);
    /// Everything in f16.
    pub const F16: Recipe = Recipe::uniform("f16", Storage::F16);
    /// 8-bit codes everywhere.
    pub const INT8: Recipe = Recipe {
        name: "int8",
        body: Storage::Int8,
        head: Storage::Int8,
        embedding: Some(Storage::Int8),
        factors: Storage::Int8,
    };
    /// 4-bit codes, but for the factors of low-rank maps, which are small and narrow.
    pub const INT4: Recipe = Recipe {
        name: "int4",
        body: Storage::Int4,
        head: Storage::Int4,
        embedding: Some(Storage::Int4),
        factors: Storage::Int8,
    };

    /// Every recipe, largest files first.
    pub const ALL: [Recipe; 5] = [Recipe::F32, Recipe::BF16, Recipe::F16, Recipe::INT8, Recipe::INT4];

    const fn uniform(name: &'static str, storage: Storage) -> Recipe {
        Recipe { name, body: storage, head: storage, embedding: None, factors: storage }
    }

    /// Whether it rounds weights to integer codes.
    pub fn quantises(&self) -> bool {
        self.embedding.is_some()
    }

    /// The storage of a matrix, by its official name.
    pub(crate) fn storage(&self, tensor: &str) -> Storage {
        match tensor {
            "head.weight" => self.head,
            "emb.weight" => self.embedding.unwrap_or(self.body),
            _ if tensor.ends_with(".weight") => self.body,
            _ => self.factors,
        }
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
