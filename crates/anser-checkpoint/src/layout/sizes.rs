//! Sizes from shapes.

use super::{Found, Stored};
use crate::config::{Config, Ranks, Version};
use crate::error::Error;
use crate::names::{Dim, Take};

/// Reads every size off the first tensor that shows it; that the rest fit is checked when they are located.
pub(super) fn infer(stored: &Stored<'_>, found: &[Found], version: Version, layers: usize) -> Result<Config, Error> {
    let mut config = Config {
        version,
        vocab: 0,
        width: 0,
        layers,
        heads: 0,
        head_size: 0,
        ffn: 0,
        ranks: Ranks::default(),
        layer_norm_eps: Config::LAYER_NORM_EPS,
        group_norm_eps: Config::GROUP_NORM_EPS,
    };
    // Block 0's value residual is never trained nor used: any other block knows its rank better.
    let (first, later): (Vec<&Found>, Vec<&Found>) =
        found.iter().partition(|found| found.block == 0 && !found.entry.shape.contains(&Dim::VRank));
    let (last, later): (Vec<&Found>, Vec<&Found>) = later.into_iter().partition(|found| found.block == 0);
    for found in first.into_iter().chain(later).chain(last) {
        let pattern = stored_axes(found.source.take, found.entry.shape);
        let shape = without_ones(&stored.raw.tensors[found.raw].shape, pattern.len());
        if shape.len() == pattern.len() {
            for (dim, length) in pattern.iter().zip(shape) {
                learn(&mut config, *dim, length);
            }
        }
    }

    let file = stored.raw.files[0].path().to_path_buf();
    let fail = |what: String, expected: String, found: String| {
        Err(Error::Config { file: file.clone(), what, expected, found })
    };
    for found in found.iter().filter(|found| found.source.take != Take::Flat) {
        if found.entry.shape.iter().any(|dim| dim.length(&config) == 0) {
            let (tensor, axes) =
                (&stored.raw.tensors[found.raw], stored_axes(found.source.take, found.entry.shape).len());
            let plural = if axes == 1 { "axis" } else { "axes" };
            let expected = format!("{axes} {plural} of at least 1");
            return fail(format!("shape of tensor `{}`", tensor.name), expected, format!("{:?}", tensor.shape));
        }
    }
    let width = config.width;
    if version == Version::V4 {
        (config.heads, config.head_size) = (1, width);
        return Ok(config);
    }
    if let Some(head_size) = stored.raw.hints.head_size.filter(|_| config.head_size == 0) {
        config.head_size = head_size;
    }
    let divisor = format!("a divisor of the width {width}");
    match (config.heads, config.head_size) {
        (0, 0) => return fail("number of heads".into(), divisor, "nothing that tells".into()),
        (0, n) if width.is_multiple_of(n) => config.heads = width / n,
        (0, n) => return fail("head size".into(), divisor, n.to_string()),
        (h, 0) if width.is_multiple_of(h) => config.head_size = width / h,
        (h, 0) => return fail("number of heads".into(), divisor, h.to_string()),
        (h, n) if h.checked_mul(n) == Some(width) => {}
        (h, n) => return fail("heads times head size".into(), format!("the width {width}"), format!("{h} times {n}")),
    }
    Ok(config)
}

/// The axes of the stored tensor; `None` stands for one that tells no size.
fn stored_axes(take: Take, official: &[Dim]) -> Vec<Option<Dim>> {
    let mut axes: Vec<Option<Dim>> = official.iter().copied().map(Some).collect();
    match take {
        Take::Whole | Take::Rescaled => {}
        Take::Part { .. } => axes.insert(0, None),
        Take::Flat => axes = vec![None],
        Take::Transposed | Take::TransposedParts(_) => {
            let last = axes.len() - 1;
            axes.swap(last - 1, last);
        }
        Take::JoinedParts(_) => axes = vec![Some(Dim::Width), Some(Dim::FiveMixRanks)],
    }
    axes
}

/// The shape with its first axes of length 1 left out until `axes` are left.
fn without_ones(shape: &[usize], axes: usize) -> Vec<usize> {
    let mut surplus = shape.len().saturating_sub(axes);
    let keep = |length: &usize| {
        let drop = *length == 1 && surplus > 0;
        surplus -= usize::from(drop);
        !drop
    };
    shape.iter().copied().filter(keep).collect()
}

fn learn(config: &mut Config, dim: Option<Dim>, length: usize) {
    let (size, length) = match dim {
        Some(Dim::Vocab) => (&mut config.vocab, length),
        Some(Dim::Width) => (&mut config.width, length),
        Some(Dim::Ffn) => (&mut config.ffn, length),
        Some(Dim::Heads) => (&mut config.heads, length),
        Some(Dim::HeadSize) => (&mut config.head_size, length),
        Some(Dim::MixRank) => (&mut config.ranks.mix, length),
        Some(Dim::FiveMixRanks) => (&mut config.ranks.mix, length / 5),
        Some(Dim::DecayRank) => (&mut config.ranks.decay, length),
        Some(Dim::ARank) => (&mut config.ranks.a, length),
        Some(Dim::VRank) => (&mut config.ranks.v, length),
        Some(Dim::GRank) => (&mut config.ranks.g, length),
        Some(Dim::Five) | None => return,
    };
    if *size == 0 {
        *size = length;
    }
}
