//! The files beside the weights of a Hugging Face folder. The first byte tells which one the input is.
#![no_main]

use std::path::Path;
use std::sync::Once;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/hf/native_v7_sharded");
const SIDE_FILES: [&str; 4] =
    ["model.safetensors.index.json", "config.json", "tokenizer_config.json", "chat_template.jinja"];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    static COPY: Once = Once::new();
    COPY.call_once(|| {
        for entry in std::fs::read_dir(GOLDEN).expect("the golden folder") {
            let entry = entry.expect("an entry of the golden folder");
            std::fs::copy(entry.path(), anser_fuzz::folder().join(entry.file_name())).expect("a copy");
        }
    });
    let Some((which, data)) = data.split_first() else { return };
    let name = SIDE_FILES[*which as usize % SIDE_FILES.len()];
    let path = anser_fuzz::file(name, data, 0);
    anser_fuzz::open_and_read(&anser_fuzz::folder());
    // Leave the folder as it was for the next input.
    let original = Path::new(GOLDEN).join(name);
    if original.is_file() { std::fs::copy(original, path).map(drop) } else { std::fs::remove_file(path) }
        .expect("the folder can be put back");
});
