//! Vocabulary files: `tokenizer.json` and `rwkv_vocab*.txt`. Whatever loads encodes and decodes.
#![no_main]

use anser_tokenizer::Tokenizer;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(tokenizer) = Tokenizer::from_bytes(data, None) else { return };
    for text in ["", "a", "Hello, world!\n\n", "größer 漢字 🙂"] {
        if let Ok(ids) = tokenizer.encode(text.as_bytes()) {
            let bytes = tokenizer.decode(&ids);
            if let Tokenizer::World(_) = tokenizer {
                assert_eq!(bytes, text.as_bytes());
            }
            let mut decoder = tokenizer.decoder();
            let mut streamed: String = ids.iter().map(|&id| decoder.push(id)).collect();
            streamed += &decoder.finish();
            assert_eq!(streamed, String::from_utf8_lossy(&bytes));
        }
    }
    let _ = (tokenizer.name(), tokenizer.vocab_size(), tokenizer.end_of_document());
    let _ = tokenizer.token_bytes(u32::MAX);
});
