//! Which container a path is, folders and shards.

use std::path::Path;

use crate::error::Error;
use crate::raw::{MappedFile, RawModel};

/// Reads the container or containers at `path`.
pub(crate) fn read(path: &Path) -> Result<RawModel, Error> {
    let file = MappedFile::open(path)?;
    if file.bytes().starts_with(b"GGUF") {
        return crate::gguf::read(file);
    }
    Err(Error::UnknownFormat { file: path.to_path_buf(), found: "nothing known".into() })
}
