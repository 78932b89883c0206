use std::fs;
use std::path::{Path, PathBuf};

use anser_tokenizer::{Template, Tokenizer};
use anser_train::Error;
use anser_train::data::{Binidx, BinidxWriter, Corpus, LoadOptions, TokenType};
use proptest::prelude::*;

fn write(stem: &Path, kind: TokenType, documents: &[Vec<u32>]) {
    let mut writer = BinidxWriter::create(stem, kind).unwrap();
    documents.iter().for_each(|document| writer.push(document).unwrap());
    writer.finish().unwrap();
}

fn pair(folder: &Path) -> (PathBuf, PathBuf, PathBuf) {
    (folder.join("pile.v1"), folder.join("pile.v1.bin"), folder.join("pile.v1.idx"))
}

fn load(path: &Path, vocab: usize) -> Result<Corpus, Error> {
    let options = LoadOptions { tokenizer: Tokenizer::Byte, template: Template::World, separator: None, vocab };
    Corpus::load(&[path.to_path_buf()], &options, &mut |_| {})
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_written_reads_back(
        documents in prop::collection::vec(prop::collection::vec(0u32..=65535, 0..20), 0..8), wide: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let (stem, bin, idx) = pair(folder.path());
        let kind = if wide { TokenType::I32 } else { TokenType::U16 };
        write(&stem, kind, &documents);
        let tokens = documents.concat();
        prop_assert_eq!(fs::metadata(&bin).unwrap().len(), tokens.len() as u64 * kind.bytes());
        let file = Binidx::open(&idx).unwrap();
        prop_assert_eq!((file.token_type(), file.tokens()), (kind, tokens.len() as u64));
        for (document, border) in documents.iter().zip(file.borders().windows(2)) {
            let mut read = Vec::new();
            file.read(border[0]..border[1], &mut read).unwrap();
            prop_assert_eq!(&read, document);
        }
        prop_assert!(file.read(0..tokens.len() as u64 + 1, &mut Vec::new()).is_err());
        match load(&bin, 65536) {
            Ok(corpus) => {
                prop_assert_eq!(corpus.documents(), documents.len() as u64);
                for (i, document) in documents.iter().enumerate() {
                    prop_assert_eq!(&corpus.document(i as u64).unwrap(), document);
                }
            }
            Err(error) => {
                prop_assert!(documents.iter().all(|document| document.len() < 2), "{error}");
            }
        }
    }

    #[test]
    fn damage_is_an_error_or_harmless(at in 0usize..90, byte: u8, cut in 0usize..95) {
        let folder = tempfile::tempdir().unwrap();
        let (stem, _, idx) = pair(folder.path());
        write(&stem, TokenType::U16, &[vec![1, 2, 3], vec![4, 5]]);
        let whole = fs::read(&idx).unwrap();
        prop_assert_eq!(whole.len(), 34 + 2 * 12 + 3 * 8);
        let mut damaged = whole.clone();
        let at = at.min(whole.len() - 1);
        damaged[at] = byte;
        fs::write(&idx, &damaged).unwrap();
        if let Ok(file) = Binidx::open(&stem) {
            prop_assert_eq!(file.tokens(), 5);
        }
        fs::write(&idx, &whole[..cut.min(whole.len() - 1)]).unwrap();
        let cut_off = matches!(Binidx::open(&stem), Err(Error::Truncated { .. }));
        prop_assert!(cut_off);
    }
}

/// The layout as other programs write it, byte for byte.
#[test]
fn the_index_is_the_documented_one() {
    let folder = tempfile::tempdir().unwrap();
    let (stem, bin, idx) = pair(folder.path());
    write(&stem, TokenType::U16, &[vec![1, 2, 0], vec![515, 0]]);
    assert_eq!(fs::read(bin).unwrap(), [1, 0, 2, 0, 0, 0, 3, 2, 0, 0]);
    let mut expected = b"MMIDIDX\0\0".to_vec();
    expected.extend([1, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([3i32, 2].map(i32::to_le_bytes).concat());
    expected.extend([0i64, 6, 0, 1, 2].map(i64::to_le_bytes).concat());
    assert_eq!(fs::read(idx).unwrap(), expected);
}

#[test]
fn several_items_may_make_a_document_and_no_borders_mean_each_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let (stem, _, idx) = pair(folder.path());
    write(&stem, TokenType::U16, &[vec![1, 2], vec![3], vec![4, 5, 6]]);
    let whole = fs::read(&idx).unwrap();
    let with_borders = |borders: &[i64]| {
        let mut bytes = whole[..whole.len() - 4 * 8].to_vec();
        bytes[26..34].copy_from_slice(&(borders.len() as u64).to_le_bytes());
        borders.iter().for_each(|border| bytes.extend(border.to_le_bytes()));
        fs::write(&idx, bytes).unwrap();
        Binidx::open(&stem).map(|file| file.borders().to_vec())
    };
    assert_eq!(with_borders(&[0, 2, 3]).unwrap(), [0, 3, 6]);
    assert_eq!(with_borders(&[0]).unwrap(), [0, 2, 3, 6]);
    assert_eq!(with_borders(&[]).unwrap(), [0, 2, 3, 6]);
    for wrong in [&[0, 2][..], &[1, 3], &[0, 2, 1, 3], &[0, 4], &[0, -1, 3]] {
        assert!(matches!(with_borders(wrong), Err(Error::Malformed { .. })), "{wrong:?}");
    }
}

#[test]
fn hostile_headers() {
    let folder = tempfile::tempdir().unwrap();
    let (stem, bin, idx) = pair(folder.path());
    write(&stem, TokenType::U16, &[vec![1, 2, 3]]);
    let whole = fs::read(&idx).unwrap();
    let message = |at: usize, bytes: &[u8]| {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&idx, damaged).unwrap();
        let Err(error) = Binidx::open(&stem) else { panic!("byte {at} does not matter") };
        error.to_string().replace(&folder.path().display().to_string(), "")
    };
    assert_eq!(
        message(0, b"MMIDIDY"),
        r#"/pile.v1.idx: begins with "MMIDIDY\\x00\\x00", expected "MMIDIDX\\x00\\x00""#
    );
    assert_eq!(message(9, &[2]), "/pile.v1.idx: version 2, expected 1");
    assert_eq!(message(17, &[5]), "/pile.v1.idx: tokens are stored as i64: only u16 and i32 are read");
    assert_eq!(message(17, &[0]), "/pile.v1.idx: token type 0: expected 8 (u16) or 4 (i32)");
    let absurd = message(18, &u64::MAX.to_le_bytes());
    assert!(absurd.starts_with("/pile.v1.idx: an index of 18446744073709551615 items and 2"), "{absurd}");
    assert_eq!(message(34, &(-1i32).to_le_bytes()), "/pile.v1.idx: item 0 has size -1");
    assert_eq!(message(38, &2u64.to_le_bytes()), "/pile.v1.idx: item 0 begins at byte 2, expected 0");
    assert!(message(34, &4i32.to_le_bytes()).contains("pile.v1.bin: 4 tokens of 2 bytes"));
    assert!(message(34, &2i32.to_le_bytes()).contains("pile.v1.bin: has 6 bytes"));

    fs::write(&idx, &whole).unwrap();
    fs::remove_file(&bin).unwrap();
    assert!(matches!(Binidx::open(&stem), Err(Error::Io { file, .. }) if file == bin));
}

#[test]
fn ids_are_checked_against_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let (stem, bin, _) = pair(folder.path());
    write(&stem, TokenType::I32, &[vec![1, 2, 3], vec![4, 700, 6]]);
    let corpus = load(&bin, 700).unwrap();
    let place = |error| match error {
        Error::TokenOutsideVocabulary { document, position, id, vocab, .. } => (document, position, id, vocab),
        other => panic!("{other}"),
    };
    assert_eq!(place(corpus.verify_vocabulary().unwrap_err()), (1, 1, 700, 700));
    assert_eq!(place(corpus.evaluation(2, 100).unwrap().next().unwrap().unwrap_err()), (1, 1, 700, 700));
    assert!(load(&bin, 701).unwrap().verify_vocabulary().is_ok());

    let mut writer = BinidxWriter::create(&folder.path().join("narrow"), TokenType::U16).unwrap();
    writer.push(&[1]).unwrap();
    assert_eq!(place(writer.push(&[1, 65536]).unwrap_err()), (1, 1, 65536, 65536));
}

#[test]
fn a_file_that_shrinks_under_the_run_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (stem, bin, _) = pair(folder.path());
    write(&stem, TokenType::U16, &[vec![7; 100_000]]);
    let corpus = load(&stem, 8).unwrap();
    corpus.verify_unchanged().unwrap();
    fs::OpenOptions::new().write(true).open(&bin).unwrap().set_len(10).unwrap();
    assert!(matches!(corpus.document(0), Err(Error::DataChanged { file, .. }) if file == bin));
    let message = corpus.verify_unchanged().unwrap_err().to_string();
    assert!(message.starts_with("data file changed under the run: ") && message.contains("pile.v1.bin"), "{message}");
    fs::remove_file(&bin).unwrap();
    assert!(corpus.verify_unchanged().unwrap_err().to_string().ends_with("it is gone"));
}
