//! Model files made for a test.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use anser_checkpoint::{Checkpoint, Error};
use anser_testkit::golden_dir;
use safetensors::SafeTensors;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

/// A tensor to be stored: dtype as safetensors spells it.
#[derive(Clone)]
pub(crate) struct Stored {
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<u8>,
}

impl Stored {
    pub(crate) fn f32(shape: &[usize], value: f32) -> Stored {
        let data = value.to_le_bytes().repeat(shape.iter().product());
        Stored { dtype: "F32".into(), shape: shape.to_vec(), data }
    }
}

pub(crate) type Tensors = BTreeMap<String, Stored>;

/// The weights of a golden file, without inputs, results and gradients.
pub(crate) fn weights(golden: &str) -> Tensors {
    let bytes = std::fs::read(golden_dir().join(format!("{golden}.safetensors"))).unwrap();
    let is_weight = |name: &str| ["emb.", "blocks.", "ln_out.", "head."].iter().any(|start| name.starts_with(start));
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .filter(|(name, _)| is_weight(name))
        .map(|(name, view)| {
            let dtype = format!("{:?}", view.dtype());
            (name, Stored { dtype, shape: view.shape().to_vec(), data: view.data().to_vec() })
        })
        .collect()
}

/// The bytes of a safetensors file.
pub(crate) fn safetensors(tensors: &Tensors) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.data);
        let entry = serde_json::json!({
            "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()],
        });
        header.insert(name.clone(), entry);
    }
    with_header(&serde_json::to_string(&header).unwrap(), &data)
}

/// A safetensors file of this header and data.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A zip as torch.save makes it, of this pickle and these storages.
pub(crate) fn pth(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", stored).unwrap();
    zip.write_all(pickle).unwrap();
    for (key, bytes) in storages {
        zip.start_file(format!("archive/data/{key}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A file of these bytes in a folder of its own.
pub(crate) struct File {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
}

impl File {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> File {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        File { folder, path }
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, Error> {
        Checkpoint::open(&self.path)
    }
}

/// Opens a file of these bytes; mapped files outlive their name.
pub(crate) fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, Error> {
    File::new("model", bytes).open()
}

/// Opens the model that these tensors make.
pub(crate) fn open_tensors(tensors: &Tensors) -> Result<Checkpoint, Error> {
    open_bytes(&safetensors(tensors))
}

/// Opens the weights of a golden file.
pub(crate) fn open_golden(golden: &str) -> Checkpoint {
    open_tensors(&weights(golden)).unwrap_or_else(|e| panic!("{golden}: {e}"))
}
