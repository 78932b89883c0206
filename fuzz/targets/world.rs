//! The World vocabulary: any bytes survive the round trip, and streaming gives what decoding at once gives.
#![no_main]

use std::sync::LazyLock;

use anser_tokenizer::Tokenizer;

static WORLD: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::world);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let ids = WORLD.encode(data).expect("any bytes have World tokens");
    assert_eq!(WORLD.decode(&ids), data);
    let mut decoder = WORLD.decoder();
    let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
    text += &decoder.finish();
    assert_eq!(text, String::from_utf8_lossy(data));

    // Arbitrary ids, most of them not what encoding would choose.
    let ids: Vec<u32> = data.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]).into()).collect();
    let bytes = WORLD.decode(&ids);
    assert_eq!(WORLD.decode(&WORLD.encode(&bytes).expect("any bytes have World tokens")), bytes);
});
