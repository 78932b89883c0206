//! Stop strings: the shown text does not depend on how it arrives, and ends before the stop that is complete first.
#![no_main]

use anser_tokenizer::StopMatcher;

/// Input: stop strings, each ended by a newline, up to an empty line; then the text. Cuts come from the text's own bytes.
fn parts(data: &str) -> (Vec<&str>, &str) {
    match data.split_once("\n\n") {
        Some((stops, text)) => (stops.split('\n').filter(|stop| !stop.is_empty()).collect(), text),
        None => (vec!["\n\nUser", "\n\n"], data),
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(data) = std::str::from_utf8(data) else { return };
    let (stops, text) = parts(data);
    let end = (0..=text.len()).find(|&end| stops.iter().any(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes())));
    let stop = end.and_then(|end| {
        stops.iter().filter(|stop| text.as_bytes()[..end].ends_with(stop.as_bytes())).max_by_key(|stop| stop.len())
    });
    let expected = match (end, stop) {
        (Some(end), Some(stop)) => &text[..end - stop.len()],
        _ => text,
    };

    let mut matcher = StopMatcher::new(&stops);
    let mut shown = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let mut cut = 1 + rest.as_bytes()[0] as usize % 7;
        cut = cut.min(rest.len());
        while !rest.is_char_boundary(cut) {
            cut += 1;
        }
        shown += &matcher.push(&rest[..cut]);
        rest = &rest[cut..];
    }
    assert_eq!(matcher.stopped(), stop.copied());
    shown += &matcher.finish();
    assert_eq!(shown, expected);
});
