//! Chat templates: the input is a jinja template, a line of three equals signs, and what the user says.
#![no_main]

use anser_tokenizer::{Message, RenderOptions, Role, Template};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(data) = std::str::from_utf8(data) else { return };
    let (source, said) = data.split_once("\n===\n").unwrap_or((data, data));
    let messages =
        [(Role::System, "Be brief."), (Role::User, said), (Role::Assistant, "<think>a</think>b"), (Role::User, said)]
            .map(|(role, content)| Message::new(role, content));
    let options = RenderOptions::default();
    for name in ["world", "g1", "raven"] {
        let Ok(template) = name.parse::<Template>() else { continue };
        let Ok(text) = template.render(&messages, &options) else { continue };
        // What a user says cannot begin a turn: two user turns were given, two are there.
        if name == "world" && !said.contains("User:") {
            assert_eq!(text.matches("\n\nUser:").count(), 2, "{text}");
        }
        if name == "world" && !said.trim().is_empty() {
            assert_eq!(text.split("\n\n").count(), messages.len() + 1, "{text}");
        }
    }
    if let Ok(template) = Template::jinja(source) {
        let _ = template.render(&messages, &options);
        let _ = template.next_turn(&messages[..3], &messages[3..], &options);
        let _ = template.stops();
    }
});
