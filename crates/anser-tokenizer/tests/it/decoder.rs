use anser_tokenizer::{Tokenizer, Utf8Stream};
use proptest::prelude::*;

/// Bytes that are often nearly UTF-8: characters, parts of characters, noise.
fn nearly_text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "\\PC".prop_map(String::into_bytes),
        "[中文字😀é]".prop_map(|s: String| s.into_bytes()[..1].to_vec()),
        "[中文字😀]".prop_map(|s: String| s.into_bytes()[..2].to_vec()),
        prop::collection::vec(any::<u8>(), 1..3),
        Just(vec![0xf0, 0x9f, 0xa6]),
        Just(vec![0xed, 0xa0, 0x80]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_split_gives_the_lossy_text_of_the_whole(bytes in nearly_text(), cuts in prop::collection::vec(0usize..200, 0..12)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut stream = Utf8Stream::default();
        let mut text = String::new();
        for cut in cuts.windows(2) {
            text += &stream.push(&bytes[cut[0]..cut[1]]);
            prop_assert!(stream.pending().len() < 4);
        }
        text += &stream.finish();
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn text_comes_out_as_it_is_token_by_token(text in "[a-z 中文😀👨‍👩é\\n]{0,40}") {
        for tokenizer in [Tokenizer::world(), Tokenizer::byte()] {
            let mut decoder = tokenizer.decoder();
            let ids = tokenizer.encode(text.as_bytes()).unwrap();
            let pieces: String = ids.iter().map(|&id| decoder.push(id)).collect();
            prop_assert_eq!(&pieces, &text);
            prop_assert_eq!(decoder.finish(), "");
        }
    }
}

#[test]
fn half_a_character_waits() {
    let tokenizer = Tokenizer::byte();
    let mut decoder = tokenizer.decoder();
    let goose = "🦢".as_bytes();
    assert_eq!(goose[..3].iter().map(|&b| decoder.push(b.into())).collect::<String>(), "");
    assert_eq!(decoder.push(goose[3].into()), "🦢");
    assert_eq!(decoder.push(goose[0].into()), "");
    // An ASCII byte shows that the character cannot be completed.
    assert_eq!(decoder.push(b'a'.into()), "\u{fffd}a");
    assert_eq!(decoder.push(300), "");
    assert_eq!(decoder.push_bytes(&goose[..2]), "");
    assert_eq!(decoder.finish(), "\u{fffd}");
    assert_eq!(decoder.finish(), "");
}
