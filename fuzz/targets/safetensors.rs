//! A safetensors header, followed by as many zeros as it asks for.
#![no_main]

use serde_json::Value;

/// Length of the file that the header describes, if it is a header and the file would be small.
fn described(data: &[u8]) -> Option<u64> {
    let (length, rest) = data.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    let header: Value = serde_json::from_slice(rest.get(..usize::try_from(length).ok()?)?).ok()?;
    let ends = header.as_object()?.values().filter_map(|tensor| tensor["data_offsets"][1].as_u64());
    let end = ends.max()?;
    (end < 4 << 20).then_some(8 + length + end)
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    anser_fuzz::open_and_read(&anser_fuzz::file("model.safetensors", data, described(data).unwrap_or(0)));
});
