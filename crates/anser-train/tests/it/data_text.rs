use std::fs;
use std::path::{Path, PathBuf};

use anser_tokenizer::{Template, Tokenizer};
use anser_train::Error;
use anser_train::data::{BinidxWriter, Corpus, LoadOptions, TokenType};
use tempfile::TempDir;

fn options(tokenizer: Tokenizer) -> LoadOptions {
    LoadOptions { tokenizer, template: Template::World, separator: None, vocab: 65536 }
}

fn write(folder: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

fn load(path: &Path, options: &LoadOptions) -> Result<Corpus, Error> {
    Corpus::load(&[path.to_path_buf()], options, &mut |_| {})
}

/// The documents as text; the token 0 that ends them is shown as `|`.
fn texts(corpus: &Corpus, tokenizer: &Tokenizer) -> Vec<String> {
    let text = |ids: Vec<u32>| {
        let pieces = ids.iter().map(|&id| match id {
            0 => b"|".to_vec(),
            id => tokenizer.decode(&[id]),
        });
        String::from_utf8(pieces.collect::<Vec<_>>().concat()).unwrap()
    };
    (0..corpus.documents()).map(|i| text(corpus.document(i).unwrap())).collect()
}

#[test]
fn a_text_is_one_document_or_several() {
    let folder = tempfile::tempdir().unwrap();
    let world = Tokenizer::world();
    let path = write(&folder, "a.txt", "Once\nupon\n\n<|endoftext|>\n<|endoftext|>\r\na time\r\n<|endoftext|>");
    let whole = load(&path, &options(world.clone())).unwrap();
    assert_eq!(texts(&whole, &world), [format!("{}|", fs::read_to_string(&path).unwrap())]);
    let separated = LoadOptions { separator: Some("<|endoftext|>".to_string()), ..options(world.clone()) };
    assert_eq!(texts(&load(&path, &separated).unwrap(), &world), ["Once\nupon\n|", "a time|"]);
    let blank = LoadOptions { separator: Some(String::new()), ..options(world.clone()) };
    assert_eq!(texts(&load(&path, &blank).unwrap(), &world)[0], "Once\nupon|");
    // The byte tokenizer has no token that ends a document.
    assert_eq!(load(&path, &options(Tokenizer::Byte)).unwrap().tokens(), fs::metadata(&path).unwrap().len());
}

#[test]
fn long_texts_are_cut_where_no_token_is() {
    let folder = tempfile::tempdir().unwrap();
    let (world, byte) = (Tokenizer::world(), Tokenizer::Byte);
    let text = (0..60_000).map(|i| format!("Line {i} of äöü\n{}", ["", "\n", "  "][i % 3])).collect::<String>();
    assert!(text.len() > 1 << 20);
    let path = write(&folder, "long.txt", &text);
    let mut steps = Vec::new();
    let corpus =
        Corpus::load(std::slice::from_ref(&path), &options(world.clone()), &mut |p| steps.push((p.bytes, p.total)))
            .unwrap();
    let mut expected = world.encode(text.as_bytes()).unwrap();
    expected.push(0);
    assert_eq!(corpus.document(0).unwrap(), expected);
    assert!(steps.len() >= 2 && steps.is_sorted());
    assert_eq!(steps.last(), Some(&(text.len() as u64, text.len() as u64)));
    // Without any line end: cut between characters, nothing lost.
    let path = write(&folder, "line.txt", "ä€".repeat(1_100_000));
    let corpus = load(&path, &options(byte)).unwrap();
    assert_eq!(corpus.tokens(), 5_500_000);
    let corpus = load(&path, &options(world.clone())).unwrap();
    assert_eq!(world.decode(&corpus.document(0).unwrap()), fs::read(&path).unwrap());
}

#[test]
fn json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let world = Tokenizer::world();
    let path = write(
        &folder,
        "a.jsonl",
        "\u{feff}{\"text\": \"One\\u00e4\", \"n\": 1}\n\n{\"text\":\"\"}\r\n{\"text\":\"Two\"}",
    );
    assert_eq!(texts(&load(&path, &options(world.clone())).unwrap(), &world), ["Oneä|", "Two|"]);
}

#[test]
fn bad_lines_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let message = |line: &[u8]| {
        let path = write(&folder, "bad.jsonl", [b"{\"text\": \"fine\"}\n", line, b"\n{}\n"].concat());
        let Err(error) = load(&path, &options(Tokenizer::world())) else { panic!("{line:?} is read") };
        error.to_string().replace(&folder.path().display().to_string(), "")
    };
    insta::assert_snapshot!(
        [
            message(br#"{"text": "no end}"#),
            message(br#"{"text" "x"}"#),
            message(b"{\"text\": \"a\xffb\"}"),
            message(br#"{"content": "x", "id": 3}"#),
            message(br#"{}"#),
            message(br#"["text"]"#),
            message(br#"{"text": 7}"#),
            message(br#"{"text": null}"#),
            message(br#"{"messages": "hello"}"#),
            message(br#"{"messages": []}"#),
            message(br#"{"messages": ["hello"]}"#),
            message(br#"{"messages": [{"role": "user", "text": "x"}]}"#),
            message(br#"{"messages": [{"role": "user", "content": ["x"]}]}"#),
            message(br#"{"messages": [{"role": "robot", "content": "x"}]}"#),
            message(br#"{"messages": [{"role": "user", "content": "x"}]}"#),
            message("[".repeat(10_000).as_bytes()),
        ]
        .join("\n")
    );
}

/// What counts in the loss, the rest as dots.
fn learned(corpus: &Corpus, tokenizer: &Tokenizer) -> String {
    let batch = corpus.evaluation(1000, 1000).unwrap().next().unwrap().unwrap();
    let shown = batch.targets.iter().zip(&batch.weights).map(|(&id, &weight)| match (id, weight) {
        (0, 1.0) => "|".to_string(),
        (id, 1.0) => String::from_utf8(tokenizer.decode(&[id])).unwrap(),
        (id, 0.0) => ".".repeat(tokenizer.decode(&[id]).len().max(1)),
        other => panic!("{other:?}"),
    });
    shown.collect()
}

const TALK: &str = r#"{"messages": [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi\n\nthere"},
 {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you"}]}"#;

#[test]
fn only_replies_and_their_stops_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "talk.jsonl", TALK.replace('\n', ""));
    let (world, byte) = (Tokenizer::world(), Tokenizer::Byte);
    let text = "System: Be kind\n\nUser: Hi\nthere\n\nAssistant: Hello\n\nUser: Bye\n\nAssistant: See you";

    let corpus = load(&path, &options(world.clone())).unwrap();
    assert_eq!(texts(&corpus, &world), [format!("{text}|")]);
    let prompt = "System: Be kind\n\nUser: Hi\nthere\n\nAssistant:";
    let expected = |first: usize, end: &str| {
        let dots = ".".repeat(prompt.len() - first);
        format!("{dots} Hello\n\nUser{} See you{end}", ".".repeat(": Bye\n\nAssistant:".len()))
    };
    let first = world.decode(&corpus.document(0).unwrap()[..1]).len();
    assert_eq!(learned(&corpus, &world), expected(first, "|"));

    // Without a token that ends documents, the stop does it.
    let corpus = load(&path, &options(byte.clone())).unwrap();
    assert_eq!(texts(&corpus, &byte), [format!("{text}\n\nUser")]);
    assert_eq!(learned(&corpus, &byte), expected(1, "\n\nUser"));
}

#[test]
fn a_reply_is_tokenised_as_it_would_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let world = Tokenizer::world();
    let path = write(&folder, "talk.jsonl", TALK.replace('\n', ""));
    let ids = load(&path, &options(world.clone())).unwrap().document(0).unwrap();
    let prompt = world.encode(b"System: Be kind\n\nUser: Hi\nthere\n\nAssistant:").unwrap();
    assert_eq!(ids[..prompt.len()], prompt);
    let reply = world.encode(b" Hello").unwrap();
    assert_eq!(ids[prompt.len()..prompt.len() + reply.len()], reply);
}

#[test]
fn jinja_templates_end_replies_with_their_own_mark() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "talk.jsonl", TALK.replace('\n', ""));
    let byte = Tokenizer::Byte;
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                  {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    let load_with = |source: &str| {
        let template = Template::jinja(source).unwrap();
        load(&path, &LoadOptions { template, ..options(byte.clone()) })
    };
    let shown = learned(&load_with(source).unwrap(), &byte);
    let shown = shown.split('.').filter(|part| !part.is_empty()).collect::<Vec<_>>();
    assert_eq!(shown, ["Hello<|im_end|>", "See you<|im_end|>"]);

    // One that drops earlier replies: they cannot be told apart.
    let forgetful = "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}{{ m.role }}: {{ m.content }}\n\
                     {% endif %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    assert!(matches!(load_with(forgetful), Err(Error::Conversation { line: 1, .. })));
}

#[test]
fn folders_patterns_and_mixtures() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "b.txt", "bb");
    write(&folder, "sub/c.jsonl", "{\"text\": \"cc\"}");
    write(&folder, "a.txt", "aa");
    write(&folder, "README.md", "passed over");
    write(&folder, ".hidden.txt", "hidden");
    let mut writer = BinidxWriter::create(&folder.path().join("d"), TokenType::U16).unwrap();
    writer.push(&[100, 100]).unwrap();
    writer.finish().unwrap();
    let byte = Tokenizer::Byte;
    let all = load(folder.path(), &options(byte.clone())).unwrap();
    assert_eq!(texts(&all, &byte), ["aa", "bb", "cc", "dd"]);
    assert_eq!(all.fingerprints().len(), 5);
    let (kept, held) = all.hold_out(0.5).unwrap();
    assert_eq!((texts(&kept, &byte).concat(), texts(&held, &byte).concat()), ("aabb".into(), "ccdd".into()));

    let find = |pattern: &str| load(&folder.path().join(pattern), &options(byte.clone()));
    assert_eq!(texts(&find("*.txt").unwrap(), &byte), ["aa", "bb"]);
    assert_eq!(texts(&find("**/*.jsonl").unwrap(), &byte), ["cc"]);
    assert_eq!(texts(&find("d").unwrap(), &byte), ["dd"]);
    assert!(matches!(find("none-*.txt"), Err(Error::NoFiles { .. })));
    assert!(matches!(find("none.txt"), Err(Error::NoFiles { .. })));
    assert!(matches!(find("README.md"), Err(Error::UnknownData { .. })));
    assert!(matches!(find("[.txt"), Err(Error::Setting { name: "data", .. })));
    assert!(matches!(load(Path::new(""), &options(byte.clone())), Err(Error::NoFiles { .. } | Error::Setting { .. })));
    fs::create_dir(folder.path().join("empty")).unwrap();
    assert!(matches!(find("empty"), Err(Error::NoFiles { .. })));
    assert!(matches!(Corpus::load(&[], &options(byte.clone()), &mut |_| {}), Err(Error::NoFiles { .. })));
    write(&folder, "empty.txt", "");
    assert!(matches!(find("empty.txt"), Err(Error::EmptyCorpus { tokens: 0, .. })));
}

#[test]
fn text_beyond_the_model_s_vocabulary_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.jsonl", "{\"text\": \"abc\"}\n{\"text\": \"abz\"}\n");
    let narrow = LoadOptions { vocab: 122, ..options(Tokenizer::Byte) };
    let error = load(&path, &narrow).unwrap_err();
    assert!(matches!(error, Error::TokenOutsideVocabulary { document: 1, position: 2, id: 122, .. }), "{error}");
}

#[test]
fn changed_files_are_noticed_and_touched_ones_pass() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(&folder, "a.txt", "some text");
    let corpus = load(&path, &options(Tokenizer::Byte)).unwrap();
    corpus.verify_unchanged().unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    let touch = || fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    touch();
    corpus.verify_unchanged().unwrap();
    fs::write(&path, "some texT").unwrap();
    touch();
    let message = corpus.verify_unchanged().unwrap_err().to_string();
    assert_eq!(message, format!("data file changed under the run: {}: its content is another", path.display()));
    fs::write(&path, "more text than before").unwrap();
    assert!(corpus.verify_unchanged().unwrap_err().to_string().ends_with("it had 9 bytes, now 21"));
}
