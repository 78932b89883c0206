//! A file of named tensors that is no language model: names and values as they are stored.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::layout::view::View;
use crate::names::Take;
use crate::open;
use crate::raw::{Encoding, RawModel};

/// A safetensors file or a `.pth` of tensors, opened; no name means anything yet.
pub struct TensorFile {
    path: PathBuf,
    raw: RawModel,
    by_name: HashMap<String, usize>,
}

impl TensorFile {
    /// Opens a file; its weights are mapped, not read.
    ///
    /// # Errors
    /// If the file is unreadable, damaged or of another format.
    pub fn open(path: &Path) -> Result<TensorFile, Error> {
        let raw = open::read(path)?;
        let by_name = raw.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(TensorFile { path: path.to_path_buf(), raw, by_name })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A free-form string of a safetensors header.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.raw.hints.strings.get(key).map(String::as_str)
    }

    /// Names as they stand in the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.raw.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// Shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.raw.tensors[*self.by_name.get(name)?].shape)
    }

    /// The values of a tensor of this shape, row-major; axes of length 1 may be missing or added in the file.
    ///
    /// # Errors
    /// [`Error::Absent`], [`Error::Shape`].
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let Some(&at) = self.by_name.get(name) else {
            return Err(Error::Absent { file: self.path.clone(), tensor: name.to_string() });
        };
        let raw = &self.raw.tensors[at];
        let view = View::new(Take::Whole, shape, raw).map_err(|expected| Error::Shape {
            file: self.path.clone(),
            tensor: name.to_string(),
            expected,
            found: raw.shape.clone(),
        })?;
        let stored = &self.raw.files[raw.file].bytes()[raw.range.clone()];
        let mut out = vec![0.0; raw.elements()];
        match raw.encoding {
            Encoding::Plain(dtype) => dtype.widen(&view.take(Cow::Borrowed(stored), dtype.bytes()), &mut out),
            // Blocks are row-major: nothing to turn.
            Encoding::Blocks(format) => (format.decode)(stored, &mut out),
        }
        Ok(out)
    }
}
