use anser_tokenizer::StopMatcher;
use proptest::prelude::*;

fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
    let mut matcher = StopMatcher::new(stops);
    let mut shown: String = pieces.iter().map(|piece| matcher.push(piece)).collect();
    let stopped = matcher.stopped().map(str::to_string);
    shown += &matcher.finish();
    (shown, stopped)
}

#[test]
fn a_stop_across_pieces_never_shows() {
    let found = |stop: &str| Some(stop.to_string());
    assert_eq!(run(&["\n\nUser"], &["Hi.", "\n", "\nU", "ser: x"]), ("Hi.".into(), found("\n\nUser")));
    assert_eq!(run(&["\n\nUser"], &["Hi.", "\n\n", "Us", " all"]), ("Hi.\n\nUs all".into(), None));
    assert_eq!(run(&["\n\nUser"], &["a\n\n\n", "\nUser"]), ("a\n\n".into(), found("\n\nUser")));
    assert_eq!(run(&["止", "大止步"], &["大止步"]), ("大".into(), found("止")));
    assert_eq!(run(&["", "x"], &["ab"]), ("ab".into(), None));
    assert_eq!(run(&[], &["ab\n\nUser"]), ("ab\n\nUser".into(), None));
    // What was held back comes out at the end.
    assert_eq!(run(&["</end>"], &["text </en"]), ("text </en".into(), None));
}

#[test]
fn only_what_may_begin_a_stop_is_held() {
    let mut matcher = StopMatcher::new(&["\n\nUser"]);
    assert_eq!(matcher.push("one\n"), "one");
    assert_eq!(matcher.push("two"), "\ntwo");
    assert_eq!(matcher.push_bytes(b"\xff\n\n"), b"\xff");
    assert_eq!(matcher.finish_bytes(), b"\n\n");
}

/// The definition: the stop complete first, the longest of those, cuts the text.
fn naive(stops: &[String], text: &str) -> (String, bool) {
    for end in 1..=text.len() {
        let before = &text.as_bytes()[..end];
        if let Some(stop) = stops.iter().filter(|s| before.ends_with(s.as_bytes())).max_by_key(|s| s.len()) {
            return (text[..end - stop.len()].to_string(), true);
        }
    }
    (text.to_string(), false)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_split_gives_what_the_whole_gives(
        stops in prop::collection::vec("[ab中\\n]{1,4}", 0..4),
        pieces in prop::collection::vec("[ab中\\nc]{0,5}", 0..10),
    ) {
        let mut matcher = StopMatcher::new(&stops);
        let mut shown = String::new();
        for piece in &pieces {
            shown += &matcher.push(piece);
        }
        let stopped = matcher.stopped().is_some();
        shown += &matcher.finish();
        prop_assert_eq!((shown, stopped), naive(&stops, &pieces.concat()));
    }
}
