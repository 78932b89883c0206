//! A GGUF header, followed by zeros as its data.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    anser_fuzz::open_and_read(&anser_fuzz::file("model.gguf", data, 160 << 10));
});
