use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;

/// What a data file was when a run read it. Kept with the run, so that a resumed run reads the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// The file.
    pub file: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last written: nanoseconds since 1970, 0 where the file system does not say.
    pub modified: u64,
    /// SHA-256 of what was read from it, in hexadecimal; none for a mapped file, which is never read as a whole.
    pub sha256: Option<String>,
}

impl Fingerprint {
    /// Fails if the file is gone or is not what it was.
    ///
    /// Size and time of writing decide; a file that was merely written anew with the same content passes, if its
    /// content was read.
    pub fn verify(&self) -> Result<(), Error> {
        let changed = |what: String| Err(Error::DataChanged { file: self.file.clone(), what });
        let now = match Fingerprint::stat(&self.file) {
            Ok(now) => now,
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return changed("it is gone".to_string());
            }
            Err(error) => return Err(error),
        };
        if now.bytes != self.bytes {
            return changed(format!("it had {} bytes, now {}", self.bytes, now.bytes));
        }
        if now.modified == self.modified {
            return Ok(());
        }
        let Some(sha256) = &self.sha256 else { return changed("it was written to".to_string()) };
        let mut reader = Hashing::open(&self.file)?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(Error::io(&self.file))?;
        if reader.finish().1 != *sha256 {
            return changed("its content is another".to_string());
        }
        Ok(())
    }

    /// The fingerprint of a file, which is read for it.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::DataChanged`].
    pub fn of(file: &Path) -> Result<Fingerprint, Error> {
        let before = Fingerprint::stat(file)?;
        let mut reader = Hashing::open(file)?;
        std::io::copy(&mut reader, &mut std::io::sink()).map_err(Error::io(file))?;
        before.with_content(reader)
    }

    /// The fingerprint of a file that is not read.
    pub(super) fn stat(file: &Path) -> Result<Fingerprint, Error> {
        let metadata = std::fs::metadata(file).map_err(Error::io(file))?;
        let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let modified = since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
        Ok(Fingerprint { file: file.to_path_buf(), bytes: metadata.len(), modified, sha256: None })
    }

    /// The fingerprint, begun before reading, of a file that has been read to its end.
    pub(super) fn with_content(mut self, reader: Hashing) -> Result<Fingerprint, Error> {
        let (bytes, sha256) = reader.finish();
        self.sha256 = Some(sha256);
        let now = Fingerprint::stat(&self.file)?;
        if bytes != self.bytes || (now.bytes, now.modified) != (self.bytes, self.modified) {
            let what = format!("it was written to while it was read ({} bytes, then {})", self.bytes, now.bytes);
            return Err(Error::DataChanged { file: self.file, what });
        }
        Ok(self)
    }
}

/// A file that is hashed while it is read.
pub(super) struct Hashing {
    file: File,
    hash: Sha256,
    bytes: u64,
}

impl Hashing {
    pub(super) fn open(path: &Path) -> Result<Hashing, Error> {
        Ok(Hashing { file: File::open(path).map_err(Error::io(path))?, hash: Sha256::new(), bytes: 0 })
    }

    /// Bytes read and their hash in hexadecimal.
    fn finish(self) -> (u64, String) {
        (self.bytes, self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}
