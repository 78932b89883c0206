//! Bytes to text: UTF-8, UTF-16 with its mark, or what Windows wrote in western Europe.

use std::borrow::Cow;

use crate::Error;

/// Windows-1252 from 0x80 to 0x9f; the five bytes without a character stay control characters, as browsers read them
/// (WHATWG Encoding, index windows-1252). From 0xa0 on it is Latin-1, which is Unicode's own order.
const WINDOWS: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// The text of a file and the name of its encoding.
///
/// # Errors
/// [`Error::Kind`] for bytes that are no text.
pub(super) fn decode<'a>(file: &str, bytes: &'a [u8]) -> Result<(Cow<'a, str>, &'static str), Error> {
    let kinds: [(&[u8], &str, &'static str); 4] = [
        (b"PK\x03\x04", "a zip archive, as spreadsheets are", "save it as CSV"),
        (b"\x1f\x8b", "a gzip file", "unpack it"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it"),
        (b"\x89HDF", "an HDF5 file", "save it as CSV or Parquet"),
    ];
    for (magic, found, advice) in kinds {
        if bytes.starts_with(magic) {
            return Err(Error::Kind { file: file.into(), found: found.into(), advice });
        }
    }
    let pairs = |from_bytes: fn([u8; 2]) -> u16| {
        let units = bytes[2..].chunks_exact(2).map(|pair| from_bytes([pair[0], pair[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect::<String>()
    };
    let (text, encoding) = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => (String::from_utf8_lossy(rest), "UTF-8 with a mark"),
        [0xff, 0xfe, ..] => (Cow::Owned(pairs(u16::from_le_bytes)), "UTF-16"),
        [0xfe, 0xff, ..] => (Cow::Owned(pairs(u16::from_be_bytes)), "UTF-16"),
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => (Cow::Borrowed(text), "UTF-8"),
            Err(_) => (Cow::Owned(bytes.iter().map(|&byte| windows(byte)).collect()), "Windows-1252"),
        },
    };
    if let Some(at) = text.find('\0') {
        let found = format!("binary data (a zero byte after {at} bytes of text)");
        return Err(Error::Kind { file: file.into(), found, advice: "save it as CSV or Parquet" });
    }
    Ok((text, encoding))
}

fn windows(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}
