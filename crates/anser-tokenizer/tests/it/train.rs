use std::sync::OnceLock;

use anser_tokenizer::{END_OF_DOCUMENT, Error, SMALLEST_BPE, Tokenizer, train_bpe};
use proptest::prelude::*;

const TEXT: [&str; 4] = [
    "Once upon a time there was a goose, and the goose lived by the river; the river ran past the mill, and the miller \
     had a daughter who talked to the goose.\n\n\"Where do you go in winter?\" asked the miller's daughter.\n",
    "The goose answered: \"I go where the river goes, and the river goes to the sea. Come with me to the sea!\"\n\nSo \
     they went, the goose in the water and the daughter on the bank, day after day, until the river was as wide as a \
     town is long and the other bank was only a line.\n",
    "Die Gans geht an den Fluss, und die anderen Gänse folgen der Gans über den Fluss. Der Müller aber wartete.\n",
    "大雁飞过河,河边的人看大雁。大雁飞过河,河边的人看大雁。",
];

fn train(documents: &[&str], vocab_size: usize) -> Vec<u8> {
    train_bpe(documents.iter(), vocab_size, |_| ()).unwrap()
}

fn tokenizer() -> &'static Tokenizer {
    static TRAINED: OnceLock<Tokenizer> = OnceLock::new();
    TRAINED.get_or_init(|| {
        let golden = |name| std::fs::read_to_string(anser_testkit::golden_dir().join(name)).unwrap();
        let long = [golden("lm/eval_text.txt"), golden("lm/eval_mcq.jsonl")];
        let texts = [&TEXT[..], &[&long[0], &long[1]]].concat();
        let documents: Vec<&str> = texts.iter().copied().cycle().take(4 * texts.len()).collect();
        let mut seen = Vec::new();
        let file = train_bpe(documents.iter(), 600, |bytes| seen.push(bytes)).unwrap();
        assert_eq!(seen.len(), documents.len());
        assert!(seen.is_sorted());
        assert_eq!(seen.last().copied(), Some(documents.iter().map(|text| text.len() as u64).sum()));
        Tokenizer::from_bytes(&file, None).unwrap()
    })
}

#[test]
fn six_hundred_tokens_of_a_small_text() {
    let tokenizer = tokenizer();
    assert_eq!(tokenizer.vocab_size(), 600);
    assert_eq!(tokenizer.end_of_document(), Some(0));
    assert_eq!(tokenizer.token_bytes(0).as_deref(), Some(END_OF_DOCUMENT.as_bytes()));
    // Every byte is a token of its own, all others are longer.
    let mut singles: Vec<u8> = (1..257).map(|id| tokenizer.token_bytes(id).unwrap()[0]).collect();
    singles.sort_unstable();
    assert_eq!(singles, (0..=255).collect::<Vec<u8>>());
    assert!((257..600).all(|id| tokenizer.token_bytes(id).unwrap().len() > 1));
    // A space belongs to the word after it, and common words became one token.
    assert_eq!(tokenizer.encode(b" goose the river").unwrap().len(), 3);
    // A document's end in the text is the token, as everywhere.
    assert_eq!(tokenizer.encode(END_OF_DOCUMENT.as_bytes()).unwrap(), [0]);
}

#[test]
fn training_is_deterministic_and_needs_no_order() {
    let mut documents: Vec<&str> = TEXT.iter().copied().cycle().take(12).collect();
    let file = train(&documents, 400);
    assert_eq!(train(&documents, 400), file);
    documents.reverse();
    assert_eq!(train(&documents, 400), file);
}

#[test]
fn a_short_text_gives_fewer_tokens() {
    let tokenizer = Tokenizer::from_bytes(&train(&["goose goose"], 5000), None).unwrap();
    assert!((SMALLEST_BPE + 1..270).contains(&tokenizer.vocab_size()), "{}", tokenizer.vocab_size());
    let text = "Grüße an alle Gänse 🦢".as_bytes();
    assert_eq!(tokenizer.decode(&tokenizer.encode(text).unwrap()), text);
}

#[test]
fn what_cannot_be_trained_is_an_error() {
    for (documents, vocab_size, part) in [
        (&["text"][..], 256, "257"),
        (&["text"], usize::MAX, "257"),
        (&[], 600, "no text"),
        (&["", ""], 600, "no text"),
    ] {
        let error = train_bpe(documents.iter(), vocab_size, |_| ()).unwrap_err();
        assert!(matches!(error, Error::Training(_)), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_survive(text in proptest::collection::vec(any::<u8>(), 0..200)) {
        let ids = tokenizer().encode(&text).unwrap();
        prop_assert_eq!(tokenizer().decode(&ids), text);
    }

    #[test]
    fn any_text_survives(text in any::<String>()) {
        let ids = tokenizer().encode(text.as_bytes()).unwrap();
        prop_assert!(ids.iter().all(|&id| id < 600));
        prop_assert_eq!(tokenizer().decode(&ids), text.as_bytes());
    }
}
