//! `rwkv_vocab*.txt`: one line an entry, `id literal length`, the literal in Python's spelling.

use std::fmt::Write;

use crate::Error;

/// Largest id a vocabulary may use: its tables are indexed by id, so a hostile id must not size them.
pub const MAX_ID: u32 = (1 << 20) - 1;

/// Longest entry, in bytes.
pub const MAX_ENTRY: usize = 255;

/// Parses a vocabulary file with LF or CRLF line ends into `(id, bytes)` pairs in file order.
///
/// A literal is a Python `str` (taken as UTF-8) or `bytes` literal and may itself hold spaces, so it stands between the
/// line's first and last space. The length is a check value. Ids and entries must be unique; ids stay below 2^20,
/// entries below 256 bytes.
pub fn parse(text: &str) -> Result<Vec<(u32, Vec<u8>)>, Error> {
    let mut entries = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let entry = parse_line(line).map_err(|problem| Error::VocabularyLine { line: number + 1, problem })?;
        entries.push(entry);
    }
    Ok(entries)
}

/// Writes entries as such a file, which [`parse`] reads back: the reverse of it. Text is spelled as `str` literals,
/// everything else as `bytes`; what is neither ASCII nor a letter or digit is escaped.
pub fn write<'a>(entries: impl IntoIterator<Item = (u32, &'a [u8])>) -> String {
    let mut out = String::new();
    for (id, bytes) in entries {
        let literal = match std::str::from_utf8(bytes) {
            Ok(text) => quoted("", text.chars()),
            Err(_) => quoted("b", bytes.iter().map(|&byte| byte as char)),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{id} {literal} {}", bytes.len());
    }
    out
}

/// A Python literal of these characters.
fn quoted(prefix: &str, chars: impl Iterator<Item = char> + Clone) -> String {
    let quote = if chars.clone().any(|c| c == '\'') { '"' } else { '\'' };
    let mut out = format!("{prefix}{quote}");
    let plain = |c: char| c == ' ' || c.is_ascii_graphic() || (prefix.is_empty() && c.is_alphanumeric());
    for c in chars {
        let _ = match c {
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\\' => write!(out, "\\\\"),
            c if c == quote => write!(out, "\\{quote}"),
            c if plain(c) => write!(out, "{c}"),
            c if c as u32 <= 0xff => write!(out, "\\x{:02x}", c as u32),
            c if c as u32 <= 0xffff => write!(out, "\\u{:04x}", c as u32),
            c => write!(out, "\\U{:08x}", c as u32),
        };
    }
    out.push(quote);
    out
}

fn parse_line(line: &str) -> Result<(u32, Vec<u8>), String> {
    let (id, rest) = line.split_once(' ').ok_or("no space after the id")?;
    let (literal, length) = rest.rsplit_once(' ').ok_or("no space before the length")?;
    let id: u32 = id.parse().map_err(|_| format!("`{id}` is not an id"))?;
    if id > MAX_ID {
        return Err(format!("id {id} is larger than {MAX_ID}"));
    }
    let length: usize = length.parse().map_err(|_| format!("`{length}` is not a length"))?;
    let bytes = parse_literal(literal)?;
    if bytes.len() != length {
        return Err(format!("the literal has {} bytes but the line says {length}", bytes.len()));
    }
    if bytes.is_empty() || bytes.len() > MAX_ENTRY {
        return Err(format!("an entry has 1 to {MAX_ENTRY} bytes, this one {}", bytes.len()));
    }
    Ok((id, bytes))
}

/// The bytes of a Python `'str'`, `"str"`, `b'bytes'` or `b"bytes"` literal.
fn parse_literal(literal: &str) -> Result<Vec<u8>, String> {
    let (is_bytes, quoted) = match literal.strip_prefix('b') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let quote = quoted.chars().next().filter(|c| matches!(c, '\'' | '"')).ok_or("the literal has no opening quote")?;
    let body = quoted[1..].strip_suffix(quote).ok_or("the literal has no closing quote")?;

    let mut bytes = Vec::with_capacity(body.len());
    let mut utf8 = [0; 4];
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        if c == quote {
            return Err("an unescaped quote inside the literal".to_string());
        }
        if c != '\\' {
            if is_bytes && !c.is_ascii() {
                return Err(format!("`{c}` inside a bytes literal"));
            }
            bytes.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
            continue;
        }
        let escape = chars.next().ok_or("the literal ends in a backslash")?;
        let value = match escape {
            '\\' | '\'' | '"' => escape as u32,
            'n' => 0x0a,
            'r' => 0x0d,
            't' => 0x09,
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'v' => 0x0b,
            '0' => 0x00,
            'x' => hex(&mut chars, 2)?,
            'u' if !is_bytes => hex(&mut chars, 4)?,
            'U' if !is_bytes => hex(&mut chars, 8)?,
            other => return Err(format!("escape `\\{other}` is not known")),
        };
        if is_bytes {
            bytes.push(value as u8);
        } else {
            let c = char::from_u32(value).ok_or_else(|| format!("U+{value:04X} is not a character"))?;
            bytes.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
        }
    }
    Ok(bytes)
}

fn hex(chars: &mut std::str::Chars<'_>, digits: usize) -> Result<u32, String> {
    let mut value = 0u32;
    for _ in 0..digits {
        let digit = chars.next().and_then(|c| c.to_digit(16)).ok_or("a hexadecimal escape is cut short")?;
        value = value << 4 | digit;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_of_python() {
        let bytes = |literal: &str| parse_literal(literal).unwrap();
        assert_eq!(bytes(r"'a b'"), b"a b");
        assert_eq!(bytes(r#""it's""#), b"it's");
        assert_eq!(bytes(r"'\n\t\\\''"), b"\n\t\\'");
        assert_eq!(bytes(r"'\x7f\xe9\u4f60\U0001f600'"), "\u{7f}é你😀".as_bytes());
        assert_eq!(bytes(r"b'\x80\xffa'"), b"\x80\xffa");
        for bad in ["", "a", "'", "b'é'", r"'\ud800'", r"'\x4'", r"'\q'", r"'\'", "'a'b'", r"b'\u4f60'"] {
            assert!(parse_literal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let cases = ["a b", "it's", "'\"", "\n\t\r\\", "\u{7f}é你😀\u{3000}\u{2028}\u{85}"].map(str::as_bytes);
        let cases = [&cases[..], &[b"\x80\xff a'\\", b"\x00"]].concat();
        let entries: Vec<(u32, Vec<u8>)> = (1..).zip(cases.iter().map(|bytes| bytes.to_vec())).collect();
        let text = write(entries.iter().map(|(id, bytes)| (*id, &bytes[..])));
        assert_eq!(parse(&text).unwrap(), entries, "{text}");
        assert_eq!(text.lines().count(), entries.len());
    }

    #[test]
    fn lines_say_what_is_wrong() {
        assert_eq!(parse("1 'a' 1\r\n2 ' ' 1\r\n").unwrap(), vec![(1, b"a".to_vec()), (2, b" ".to_vec())]);
        let message = |text: &str| parse(text).unwrap_err().to_string();
        assert!(message("1 'a' 1\n2 'b' 2\n").starts_with("vocabulary line 2: the literal has 1 bytes"));
        assert!(message("99999999 'a' 1").contains("larger than"));
        assert!(message("1 '' 0").contains("1 to 255 bytes"));
        assert!(message("one 'a' 1").contains("is not an id"));
        assert!(message("nothing").contains("no space"));
    }
}
