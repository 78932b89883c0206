//! The state file: safetensors, one f32 tensor a slot, and string metadata.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{Orientation, Owner, Slot, SlotKind, StateFile, StateHeader};
use crate::error::Error;
use crate::raw::{Encoding, MappedFile, RawTensor};
use crate::tensor::Dtype;
use crate::{pth, safetensors};

/// Metadata `format`, what tells a state from any other safetensors file.
const FORMAT: &str = "anser-state";
/// Values turned into bytes at a time.
const CHUNK: usize = 1024;

/// A slot in the metadata; its shape is its tensor's.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotEntry {
    name: String,
    kind: SlotKind,
    orientation: Orientation,
}

impl StateFile {
    /// Writes the state so that `path` holds either all of it or what it held before, whatever happens in between: into
    /// a temporary file in the same folder, flushed to disk, then renamed.
    ///
    /// # Errors
    /// [`Error::Io`] with the path and the operating system's reason (a full disk, no permission, no such folder).
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        write_atomically(path, |out| self.write(out))
    }

    /// Writes the file's bytes. The same state gives the same bytes.
    ///
    /// # Errors
    /// As `out`'s; [`io::ErrorKind::InvalidInput`] when a slot's values do not fill its shape.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut hash = Sha256::new();
        let mut slots = Vec::new();
        for (slot, values) in &self.slots {
            if values.len() != slot.elements() {
                let problem =
                    format!("slot {slot} holds {} values, its shape asks for {}", values.len(), slot.elements());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
            }
            slots.push(SlotEntry { name: slot.to_string(), kind: slot.kind, orientation: slot.orientation.clone() });
            for chunk in values.chunks(CHUNK) {
                hash.update(little_endian(chunk, &mut [0; 4 * CHUNK]));
            }
        }
        let metadata = json!({
            "format": FORMAT,
            "format_version": self.header.format_version.to_string(),
            "architecture": self.header.architecture,
            "fingerprint": self.header.fingerprint,
            "tokens": self.header.tokens.to_string(),
            "last_tokens": serde_json::to_string(&self.header.last_tokens)?,
            "created_by": self.header.created_by,
            "checksum": hex(&hash.finalize()),
            "slots": serde_json::to_string(&slots)?,
        });
        let entries = self.slots.iter().map(|(slot, _)| (slot.to_string(), Dtype::F32, &slot.shape[..]));
        out.write_all(&safetensors::header(entries, Some(metadata)))?;
        for (_, values) in &self.slots {
            for chunk in values.chunks(CHUNK) {
                out.write_all(little_endian(chunk, &mut [0; 4 * CHUNK]))?;
            }
        }
        Ok(())
    }

    /// Reads a state file. Whether it fits a model is [`StateFile::check`]'s question; values that are not finite are
    /// read as they are and shown by [`StateFile::summary`].
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for anything but a whole, undamaged state file; [`Error::Unsupported`] for a
    /// format version of the future and for states in PyTorch files, which are converted
    /// ([`StateFile::from_time_state`]); [`Error::Dtype`] for slots that are not f32.
    pub fn load(path: &Path) -> Result<StateFile, Error> {
        let file = MappedFile::open(path)?;
        let bytes = file.bytes();
        if bytes.starts_with(pth::ZIP_MAGIC) || bytes.starts_with(pth::LEGACY_MAGIC) {
            let hint = "convert it once: a .pth with time_state tensors has no header and must be told its model";
            let what = "a PyTorch file as a state".to_string();
            return Err(Error::Unsupported { file: path.to_path_buf(), what, hint: hint.to_string() });
        }
        let bad = |what: String| file.malformed(what);
        if !safetensors::recognises(bytes) {
            return Err(bad("expected a state file, which begins as safetensors do".to_string()));
        }
        let Some(metadata) = metadata(&file)?.filter(|m| m.get("format").is_some_and(|f| f == FORMAT)) else {
            return Err(bad(format!(
                "expected a state file (metadata format = {FORMAT}), found other safetensors data"
            )));
        };
        let field = |name: &str| {
            metadata.get(name).ok_or_else(|| bad(format!("metadata `{name}` is missing from the state's header")))
        };
        let number = |name: &str| -> Result<u64, Error> {
            let text = field(name)?;
            text.parse().map_err(|_| bad(format!("metadata `{name}` is {text:?}, expected a whole number")))
        };
        let format_version = number("format_version")?;
        if format_version != StateHeader::FORMAT_VERSION as u64 {
            let what = format!("state format version {format_version} (versions up to 1 are read)");
            let hint = "use the release of anser that wrote it, or a newer one".to_string();
            return Err(Error::Unsupported { file: path.to_path_buf(), what, hint });
        }
        let json_error = |name: &str, e: serde_json::Error| bad(format!("metadata `{name}`: {e}"));
        let entries: Vec<SlotEntry> = serde_json::from_str(field("slots")?).map_err(|e| json_error("slots", e))?;
        let last_tokens = match metadata.get("last_tokens") {
            Some(text) => serde_json::from_str(text).map_err(|e| json_error("last_tokens", e))?,
            None => Vec::new(),
        };
        let state_header = StateHeader {
            format_version: StateHeader::FORMAT_VERSION,
            fingerprint: field("fingerprint")?.clone(),
            architecture: field("architecture")?.clone(),
            tokens: number("tokens")?,
            last_tokens,
            created_by: metadata.get("created_by").cloned().unwrap_or_default(),
        };

        // Checks that the tensors lie in the file, fill it and do not overlap.
        let tensors = safetensors::read(file.clone())?.tensors;
        if tensors.len() != entries.len() {
            return Err(bad(format!(
                "the header lists {} slots, the file holds {} tensors",
                entries.len(),
                tensors.len()
            )));
        }
        let mut by_name: HashMap<String, RawTensor> = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
        let (mut hash, mut slots) = (Sha256::new(), Vec::with_capacity(entries.len()));
        for SlotEntry { name: full, kind, orientation } in entries {
            let Some(tensor) = by_name.remove(&full) else {
                return Err(bad(format!("slot `{full}` has no tensor of its own")));
            };
            if !matches!(tensor.encoding, Encoding::Plain(Dtype::F32)) {
                let (file, found) = (path.to_path_buf(), "a 16-bit type".to_string());
                return Err(Error::Dtype { file, tensor: full, expected: "F32", found });
            }
            let Some((owner, name)) = parse_name(&full) else {
                return Err(bad(format!("slot `{full}`: expected layers.<number>.<name> or model.<name>")));
            };
            let slot = Slot { owner, name: Cow::Owned(name), shape: tensor.shape, kind, orientation };
            check_axes(&slot).map_err(|what| bad(format!("slot `{full}`: {what}")))?;
            let stored = &bytes[tensor.range];
            hash.update(stored);
            let mut values = vec![0.0; slot.elements()];
            Dtype::F32.widen(stored, &mut values);
            slots.push((slot, values));
        }
        let checksum = hex(&hash.finalize());
        if metadata.get("checksum").is_some_and(|stated| *stated != checksum) {
            return Err(bad(
                "the slots' bytes do not match the checksum in the header: the file is damaged".to_string()
            ));
        }
        Ok(StateFile { header: state_header, slots })
    }
}

/// The free-form part of a safetensors header.
fn metadata(file: &Arc<MappedFile>) -> Result<Option<HashMap<String, String>>, Error> {
    #[derive(Deserialize)]
    struct Header {
        #[serde(rename = "__metadata__")]
        metadata: Option<HashMap<String, String>>,
    }
    let (length, rest) = file.bytes().split_at(8); // there: the file was recognised
    let length = length.iter().rev().fold(0u64, |n, &byte| n << 8 | byte as u64);
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let Some(header) = header else {
        let (expected, found) = (length.saturating_add(8), file.bytes().len() as u64);
        return Err(Error::Truncated { file: file.path().to_path_buf(), what: "the header".into(), expected, found });
    };
    let parsed = serde_json::from_slice::<Header>(header);
    parsed.map(|header| header.metadata).map_err(|e| file.malformed(format!("the header is damaged: {e}")))
}

/// `layers.3.wkv` or `model.count`.
fn parse_name(full: &str) -> Option<(Owner, String)> {
    let (owner, name) = match full.strip_prefix("layers.") {
        Some(rest) => {
            let (layer, name) = rest.split_once('.')?;
            let number: usize = layer.parse().ok()?;
            // `+3` and `03` are other spellings of the same layer: one name a slot.
            (number.to_string() == layer).then_some((Owner::Layer(number), name))?
        }
        None => (Owner::Model, full.strip_prefix("model.")?),
    };
    (!name.is_empty()).then(|| (owner, name.to_string()))
}

/// Whether a slot's shape has the axes that its kind and orientation speak of.
fn check_axes(slot: &Slot) -> Result<(), String> {
    let axes = match &slot.orientation {
        Orientation::Vector => 1,
        Orientation::Rows(_) => 2,
        Orientation::KeyValue | Orientation::ValueKey => 3,
    };
    let leading = match slot.kind {
        SlotKind::Ring { .. } | SlotKind::Growing => 1,
        SlotKind::Fixed | SlotKind::Counter => 0,
    };
    if slot.shape.len() != axes + leading {
        return Err(format!("shape {:?}, expected {} axes", slot.shape, axes + leading));
    }
    if let Orientation::Rows(names) = &slot.orientation
        && names.split(',').count() != slot.shape[leading]
    {
        return Err(format!("shape {:?} does not have the rows {names}", slot.shape));
    }
    match slot.kind {
        SlotKind::Ring { position } if position >= slot.shape[0].max(1) => {
            Err(format!("ring position {position} of {}", slot.shape[0]))
        }
        _ => Ok(()),
    }
}

/// The bytes of up to [`CHUNK`] values.
fn little_endian<'a>(values: &[f32], buffer: &'a mut [u8; 4 * CHUNK]) -> &'a [u8] {
    for (bytes, value) in buffer.chunks_exact_mut(4).zip(values) {
        bytes.copy_from_slice(&value.to_le_bytes());
    }
    &buffer[..4 * values.len()]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Replaces or makes the file `path` by what `write` writes, wholly or not at all: a temporary file in the same folder,
/// flushed to disk and renamed over `path`, or removed when anything fails.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut fs::File>) -> io::Result<()>,
) -> Result<(), Error> {
    // Errors of this crate that passed through a writer come out as they went in.
    let io_error = |source: io::Error| match source.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::Io { file: path.to_path_buf(), source },
    };
    // Through a link to the file it names: renaming would replace the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if fs::metadata(&target).is_ok_and(|m| !m.is_file()) {
        let problem = "exists and is not an ordinary file";
        return Err(io_error(io::Error::new(io::ErrorKind::InvalidInput, problem)));
    }
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    builder.prefix(".anser-").suffix(".part");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666)); // less the umask, as any new file
    }
    let mut file = builder.tempfile_in(folder).map_err(|e| io_error(without_path(e)))?;
    let mut out = BufWriter::new(file.as_file_mut());
    write(&mut out).and_then(|()| out.flush()).map_err(io_error)?;
    drop(out);
    file.as_file().sync_all().map_err(io_error)?;
    file.persist(&target).map_err(|e| io_error(e.error))?;
    #[cfg(unix)]
    if let Ok(folder) = fs::File::open(folder) {
        // The new name is safe only once the folder is; some file systems cannot, and the data is safe already.
        let _ = folder.sync_all();
    }
    Ok(())
}

/// The operating system's reason without the temporary file's name, which says nothing to the reader.
fn without_path(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.kind().to_string()),
    }
}
