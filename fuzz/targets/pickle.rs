//! The pickle inside a .pth: the zip around it is sound, so that mutations reach the pickle machine.
#![no_main]

use std::io::{Cursor, Write};

use anser_checkpoint::state::StateFile;
use anser_checkpoint::{Config, Ranks, Version};
use zip::write::SimpleFileOptions;

/// Enough storages, large enough, for the seeds.
const STORAGES: usize = 80;
const STORAGE_BYTES: usize = 4 << 10;

fn archive(pickle: &[u8]) -> zip::result::ZipResult<Vec<u8>> {
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("model/data.pkl", options)?;
    zip.write_all(pickle)?;
    for storage in 0..STORAGES {
        zip.start_file(format!("model/data/{storage}"), options)?;
        zip.write_all(&[0; STORAGE_BYTES])?;
    }
    Ok(zip.finish()?.into_inner())
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let archive = archive(data).expect("writing to memory");
    let path = anser_fuzz::file("model.pth", &archive, 0);
    anser_fuzz::open_and_read(&path);
    let config = Config {
        version: Version::V6,
        vocab: 8,
        width: 16,
        layers: 2,
        heads: 2,
        head_size: 8,
        ffn: 32,
        ranks: Ranks::default(),
        layer_norm_eps: 1e-5,
        group_norm_eps: 64e-5,
    };
    let _ = StateFile::from_time_state(&path, &config, "");
});
