//! Files that appear whole or not at all.

use std::path::Path;

use crate::Error;

/// Writes a file beside its place and renames it into it.
///
/// # Errors
/// [`Error::Io`]; what was at `path` before is still there then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.part"));
    let written = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside); // the first error is the one to report
    }
    written.map_err(Error::io(path))
}
