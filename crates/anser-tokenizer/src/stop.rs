//! Stop strings, found across token borders.

/// Watches text for stop strings and lets through only what cannot be part of one.
///
/// The stop that is *complete* first ends the text (of several complete at the same place, the longest), so the result
/// does not depend on how the text was cut into pieces. Text before it comes out whole; of the stop itself nothing.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// The end of the text so far, which may be the beginning of a stop.
    held: Vec<u8>,
    hit: Option<usize>,
}

impl StopMatcher {
    /// A matcher for these strings; empty ones are left out.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> StopMatcher {
        let mut stops: Vec<String> = stops.iter().map(|s| s.as_ref().to_string()).filter(|s| !s.is_empty()).collect();
        // Longest first: at one end position the longest stop counts.
        stops.sort_by_key(|stop| std::cmp::Reverse(stop.len()));
        StopMatcher { stops, held: Vec::new(), hit: None }
    }

    /// Takes the next piece of text and returns what can be shown. After a stop it returns nothing more.
    pub fn push(&mut self, text: &str) -> String {
        into_text(self.push_bytes(text.as_bytes()))
    }

    /// [`push`](StopMatcher::push) for raw bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.hit.is_some() {
            return Vec::new();
        }
        if self.stops.is_empty() {
            return bytes.to_vec();
        }
        let mut text = std::mem::take(&mut self.held);
        let seen = text.len();
        text.extend_from_slice(bytes);
        // What was held is no whole stop, so a match ends in the new bytes.
        for end in seen + 1..=text.len() {
            if let Some(hit) = self.stops.iter().position(|stop| text[..end].ends_with(stop.as_bytes())) {
                self.hit = Some(hit);
                text.truncate(end - self.stops[hit].len());
                return text;
            }
        }
        let longest = self.stops.iter().map(|stop| stop.len() - 1).max().unwrap_or(0).min(text.len());
        let held = (1..=longest)
            .rev()
            .find(|&n| self.stops.iter().any(|stop| stop.as_bytes().starts_with(&text[text.len() - n..])))
            .unwrap_or(0);
        self.held = text.split_off(text.len() - held);
        text
    }

    /// The stop string that was met.
    pub fn stopped(&self) -> Option<&str> {
        self.hit.map(|hit| self.stops[hit].as_str())
    }

    /// The end of the text: what was held back after all. The matcher starts afresh.
    pub fn finish(&mut self) -> String {
        into_text(self.finish_bytes())
    }

    /// [`finish`](StopMatcher::finish) for raw bytes.
    pub fn finish_bytes(&mut self) -> Vec<u8> {
        self.hit = None;
        std::mem::take(&mut self.held)
    }
}

/// Text cut only before a stop, which begins with a character, stays whole; raw bytes pushed before may not be text.
fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
