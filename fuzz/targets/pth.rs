//! A .pth file, zip or legacy, as it is.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    anser_fuzz::open_and_read(&anser_fuzz::file("model.pth", data, 0));
});
