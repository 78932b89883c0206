//! A safetensors header, followed by as many zeros as it asks for.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let length = anser_fuzz::described(data).unwrap_or(0);
    anser_fuzz::open_and_read(&anser_fuzz::file("model.safetensors", data, length));
});
