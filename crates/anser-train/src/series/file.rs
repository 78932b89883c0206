//! Forecasters as files: safetensors of our own with a header in JSON, and the published files of Rimer and Timer.

use std::path::Path;

use anser_checkpoint::{Dtype, Ranks, Tensor, TensorFile, write_safetensors};
use anser_nn::model::rimer::{self, Taken};
use anser_nn::model::series::{Backbone, SeriesModel, SeriesSizes};
use anser_nn::model::timer;
use serde::{Deserialize, Serialize};

use super::fit::tensors;
use super::{Error, Forecaster};

/// The metadata string that makes a safetensors file a forecaster.
const KEY: &str = "anser.series";
/// Raised when the meaning of anything in the file changes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    sizes: SeriesSizes,
    look_back: usize,
    /// The columns and the step it was fitted on, for information.
    columns: Vec<String>,
    step: Option<String>,
}

impl Forecaster {
    /// Writes the model in f32.
    ///
    /// # Errors
    /// [`Error::Checkpoint`]; what was at `path` before is still there then.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        let header = Header {
            version: VERSION,
            sizes: self.model.sizes().clone(),
            look_back: self.look_back,
            columns: self.columns.clone(),
            step: self.step.clone(),
        };
        let malformed = |error: serde_json::Error| Error::Malformed { file: path.into(), what: error.to_string() };
        let header = serde_json::to_string(&header).map_err(malformed)?;
        let tensors = tensors(&self.model);
        let tensors: Vec<Tensor<'_>> = tensors
            .iter()
            .map(|(name, shape, values)| Tensor::from_f32(name, &shape[..], Dtype::F32, values))
            .collect();
        Ok(write_safetensors(path, &tensors, &[("format".into(), "pt".into()), (KEY.into(), header)])?)
    }

    /// Opens a forecaster of our own, or a published one of Rimer or Timer (safetensors or `.pth` of bare tensors), told
    /// by its names.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] for files that are unreadable, damaged, or lack a tensor; [`Error::Malformed`] for one that
    /// is no forecaster.
    pub fn open(path: &Path) -> Result<Forecaster, Error> {
        let file = TensorFile::open(path)?;
        match file.metadata(KEY) {
            Some(header) => own(&file, header),
            None => published(&file),
        }
    }
}

fn malformed(file: &TensorFile, what: String) -> Error {
    Error::Malformed { file: file.path().to_path_buf(), what }
}

fn own(file: &TensorFile, header: &str) -> Result<Forecaster, Error> {
    let version: Option<u64> =
        serde_json::from_str::<serde_json::Value>(header).ok().and_then(|header| header["version"].as_u64());
    if version.is_some_and(|version| version > u64::from(VERSION)) {
        let found = version.unwrap_or(0);
        return Err(malformed(file, format!("a forecaster of file version {found}, this program reads {VERSION}")));
    }
    let header: Header = serde_json::from_str(header)
        .map_err(|error| malformed(file, format!("the header of the forecaster cannot be read: {error}")))?;
    let stored: usize = file.names().filter_map(|name| file.shape(name)).map(|s| s.iter().product::<usize>()).sum();
    let model = model(&header.sizes, file, stored, |name, shape| file.f32(name, shape))?;
    let Header { look_back, columns, step, .. } = header;
    if look_back == 0 || !look_back.is_multiple_of(model.sizes().patch) {
        let what = format!("a look-back of {look_back} rows, no multiple of the patch of {}", model.sizes().patch);
        return Err(malformed(file, what));
    }
    Ok(Forecaster { model, look_back, columns, step })
}

/// Builds a model, none of whose tensors can be larger than what is stored.
fn model(
    sizes: &SeriesSizes,
    file: &TensorFile,
    stored: usize,
    read: impl Fn(&str, &[usize]) -> Result<Vec<f32>, anser_checkpoint::Error>,
) -> Result<SeriesModel, Error> {
    // Layers are counted in the header alone: a block has more than one value.
    if sizes.layers > stored {
        return Err(malformed(file, format!("{} layers, but {stored} values", sizes.layers)));
    }
    let model = SeriesModel::new(sizes, &anser_nn::cpu(), &mut |name, shape| Ok(read(name, shape)?));
    let model = model.map_err(|error| match error {
        anser_nn::Error::Checkpoint(error) => error.into(),
        error => malformed(file, error.to_string()),
    });
    Ok(model?.without_graph())
}

/// The published tensor behind one of ours.
type Names = fn(&str) -> Option<(String, Taken)>;

/// Rimer and Timer under the names of their authors.
fn published(file: &TensorFile) -> Result<Forecaster, Error> {
    // Lightning writes another word before every name.
    let has = |name: &str| file.shape(name).is_some();
    let prefix = if has("model.backbone.proj.weight") { "model." } else { "" };
    let shape = |name: &str| file.shape(&format!("{prefix}{name}"));
    let rows = |name: &str| shape(name).and_then(|shape| shape.first().copied());
    let no_forecaster = || {
        let first: Vec<&str> = file.names().take(3).collect();
        let what = format!(
            "no forecaster: neither the header `{KEY}` nor the names of Rimer or Timer (its tensors begin with {})",
            first.join(", ")
        );
        malformed(file, what)
    };
    let Some(&[width, patch]) = shape("backbone.patch_embedding.value_embedding.weight") else {
        return Err(no_forecaster());
    };
    let lora = |part: &str| rows(&format!("backbone.decoder.attn.rwkv7.{part}.lora.0.weight"));
    let (sizes, name_of): (SeriesSizes, Names) =
        if let Some(&[heads, head_size]) = shape("backbone.decoder.attn.rwkv7.r_k") {
            let rank = |part| lora(part).ok_or_else(no_forecaster);
            let ranks = Ranks { mix: 0, decay: rank("w_lora")?, a: rank("a_lora")?, v: 0, g: rank("g_lora")? };
            let backbone = Backbone::RimerReleased;
            let (output, skip, layers, ffn) = (patch, 0, 1, width);
            let sizes = SeriesSizes { backbone, patch, output, skip, width, layers, heads, head_size, ffn, ranks };
            (sizes, rimer::published)
        } else if let Some(inner) = rows("backbone.decoder.attn_layers.0.attention.query_projection.weight") {
            let layer = |i: &usize| rows(&format!("backbone.decoder.attn_layers.{i}.conv1.weight"));
            let (layers, ffn) = ((0..).take_while(|i| layer(i).is_some()).count(), layer(&0).unwrap_or(0));
            // Nothing in the file tells the heads: the scripts take 8.
            let heads = 8;
            if !inner.is_multiple_of(heads) {
                return Err(malformed(file, format!("a Timer of {inner} inner channels, which are no {heads} heads")));
            }
            let (backbone, output, skip, head_size) = (Backbone::Timer, patch, 0, inner / heads);
            let ranks = Ranks::default();
            let sizes = SeriesSizes { backbone, patch, output, skip, width, layers, heads, head_size, ffn, ranks };
            (sizes, timer::published)
        } else {
            return Err(no_forecaster());
        };
    let read = |name: &str, shape: &[usize]| {
        let Some((stored, taken)) = name_of(name) else {
            return Err(anser_checkpoint::Error::Absent { file: file.path().into(), tensor: name.into() });
        };
        let stored = format!("{prefix}{stored}");
        match taken {
            Taken::AsItIs => file.f32(&stored, shape),
            Taken::Row(row) => {
                let values = file.f32(&stored, &[6, shape[0]])?;
                Ok(values[row * shape[0]..(row + 1) * shape[0]].to_vec())
            }
            Taken::Turned => {
                let values = file.f32(&stored, &[shape[1], shape[0]])?;
                let turned = |i: usize| values.iter().skip(i).step_by(shape[0]).copied();
                Ok((0..shape[0]).flat_map(turned).collect())
            }
        }
    };
    let stored: usize = file.names().filter_map(|name| file.shape(name)).map(|s| s.iter().product::<usize>()).sum();
    let model = model(&sizes, file, stored, read)?;
    // The windows their scripts cut: one patch for Rimer, seven for Timer.
    let look_back = if sizes.backbone == Backbone::RimerReleased { patch } else { 7 * patch };
    Ok(Forecaster { model, look_back, columns: Vec::new(), step: None })
}
