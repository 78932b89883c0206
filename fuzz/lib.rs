//! What the targets share: an input as a file, and everything one does with a checkpoint.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anser_checkpoint::Checkpoint;
use serde_json::Value;

/// A folder of this process in which a target writes its inputs. libFuzzer runs one input at a time.
pub fn folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("anser-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// Writes `data` as the file `name`, followed by zeros up to `len` bytes, and gives its path.
pub fn file(name: &str, data: &[u8], len: u64) -> PathBuf {
    let path = folder().join(name);
    let mut file = File::create(&path).expect("a temporary file");
    file.write_all(data).and_then(|()| file.set_len(len.max(data.len() as u64))).expect("space for a temporary file");
    path
}

/// Length of the file that a safetensors header describes, if it is a header and the file would be small.
pub fn described(data: &[u8]) -> Option<u64> {
    let (length, rest) = data.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let header: Value = serde_json::from_slice(rest.get(..usize::try_from(length).ok()?)?).ok()?;
    let ends = header.as_object()?.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    let end = ends.max()?;
    (end < 4 << 20).then_some(8 + length + end)
}

/// Opens a checkpoint and reads all that is in it.
pub fn open_and_read(path: &Path) {
    let Ok(checkpoint) = Checkpoint::open(path) else { return };
    let _ = checkpoint.config().parameters();
    let _ = checkpoint.config().state_slots();
    let _ = (checkpoint.format().to_string(), checkpoint.tokenizer(), checkpoint.chat_template());
    for name in checkpoint.names() {
        if let Some(matrix) = checkpoint.packed(&name) {
            let _ = matrix.bytes.as_ref().iter().map(|&byte| u64::from(byte)).sum::<u64>();
            continue;
        }
        let tensor = checkpoint.tensor(&name).expect("a tensor that is listed can be read");
        assert_eq!(tensor.elements(), tensor.shape.iter().product::<usize>(), "{name}");
        let _ = tensor.to_f32();
    }
    let _ = checkpoint.fingerprint();
}
