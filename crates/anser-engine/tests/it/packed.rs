//! Packed files: what is written loads as the same model, and nothing else loads.

use std::path::Path;
use std::sync::Arc;

use anser_checkpoint::{Checkpoint, PackedHeader, PackedTokenizer};
use anser_engine::{Error, Executor, LoadOptions, Model, Placement, Recipe, Source, Synthetic, Version, load, pack};
use anser_testkit::Rng;

use crate::run;

fn write(source: &Synthetic, recipe: Recipe, path: &Path, exec: &Executor) -> Box<dyn Model> {
    let mut header = PackedHeader::new(source.config().clone(), recipe.name.into(), "print".into(), source.dtype());
    header.tokenizer = PackedTokenizer::Json("{}".into());
    header.chat_template = Some("template".into());
    let (model, bytes) = pack(Arc::new(source.clone()), exec, &recipe.into(), path, header).unwrap();
    assert_eq!(bytes, std::fs::metadata(path).unwrap().len());
    model
}

fn open(path: &Path, exec: &Executor, placement: Placement) -> Result<Box<dyn Model>, Error> {
    load(Arc::new(Checkpoint::open(path)?), exec, &LoadOptions { placement, ..LoadOptions::default() })
}

#[test]
fn every_version_and_recipe_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut exec = Executor::new(2);
    let text: Vec<u32> = (0..9).map(|i| i * 7 % 64).collect();
    for version in Version::ALL {
        for recipe in Recipe::ALL {
            let path = folder.path().join(format!("{version}-{recipe}.anser"));
            let source = Synthetic::tiny(version, 3);
            let written = write(&source, recipe, &path, &exec);
            let fresh = load(Arc::new(source), &exec, &recipe.into()).unwrap();
            let want = run(&*fresh, &mut exec, &text, &mut fresh.new_state());
            assert_eq!(run(&*written, &mut exec, &text, &mut written.new_state()), want, "{version} {recipe}");
            for placement in [Placement::Mapped, Placement::Copied] {
                let model = open(&path, &exec, placement).unwrap();
                let got = run(&*model, &mut exec, &text, &mut model.new_state());
                assert_eq!(got, want, "{version} {recipe} {placement:?}");
                assert_eq!(model.storage(), recipe.name);
                assert_eq!(model.config(), fresh.config());
            }
            let checkpoint = Checkpoint::open(&path).unwrap();
            assert_eq!(checkpoint.fingerprint(), "print");
            assert_eq!(checkpoint.chat_template(), Some("template"));
            assert_eq!(checkpoint.has("head.weight"), checkpoint.names().contains(&"head.weight".to_string()));
        }
    }
}

#[test]
fn what_is_packed_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.anser");
    let exec = Executor::new(1);
    write(&Synthetic::tiny(Version::V7, 3), Recipe::INT8, &path, &exec);
    let checkpoint = Arc::new(Checkpoint::open(&path).unwrap());
    let error = load(checkpoint.clone(), &exec, &Recipe::INT4.into()).err().unwrap().to_string();
    assert!(error.contains("packed as int8 and cannot become int4"), "{error}");
    assert!(load(checkpoint.clone(), &exec, &Recipe::INT8.into()).is_ok());
    let error = checkpoint.tensor("head.weight").unwrap_err();
    assert!(error.to_string().contains("packed matrix `head.weight`"), "{error}");
    let header = PackedHeader::new(checkpoint.config().clone(), "int8".into(), String::new(), checkpoint.dtype());
    let again =
        pack(checkpoint, &exec, &Recipe::INT8.into(), &folder.path().join("again.anser"), header).err().unwrap();
    assert!(again.to_string().contains("packed already, as int8"), "{again}");
    assert!(!folder.path().join("again.anser").exists());
}

/// Any file that was cut off or changed is refused, or loads as some model: it never brings the program down.
#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.anser");
    let mut exec = Executor::new(1);
    write(&Synthetic::tiny(Version::V6, 3), Recipe::INT4, &path, &exec);
    let whole = std::fs::read(&path).unwrap();
    let bad = folder.path().join("bad.anser");
    for length in [0, 7, 8, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&bad, &whole[..length]).unwrap();
        let error = open(&bad, &exec, Placement::Mapped).err().unwrap().to_string();
        assert!(error.contains("bad.anser"), "{error}");
    }
    let mut rng = Rng(7);
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for _ in 0..400 {
        let mut bytes = whole.clone();
        for _ in 0..1 + rng.below(3) {
            let at = 8 + rng.below(header - 8);
            bytes[at] = b"0123456789,:{}\"x "[rng.below(17)];
        }
        std::fs::write(&bad, &bytes).unwrap();
        match open(&bad, &exec, Placement::Mapped) {
            Ok(model) => drop(run(&*model, &mut exec, &[1, 2], &mut model.new_state())),
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("bad.anser"), "{error}");
            }
        }
    }
    assert!(refused > 200, "only {refused} of 400 damaged headers were refused");
}

#[test]
fn changed_descriptions_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.anser");
    let exec = Executor::new(1);
    write(&Synthetic::tiny(Version::V7, 3), Recipe::INT8, &path, &exec);
    let whole = std::fs::read(&path).unwrap();
    let bad = folder.path().join("bad.anser");
    // The description is a string in the header: quotes are escaped. Replacements keep the length.
    for (from, to, expected) in [
        (r#"\"version\":3"#, r#"\"version\":9"#, "version 9 of packed files"),
        (r#"\"layers\":2"#, r#"\"layers\":9"#, "is missing"),
        (r#"\"layers\":2"#, r#"\"layers\":0"#, "layers: expected 1 to"),
        (r#"\"heads\":2"#, r#"\"heads\":7"#, "heads: expected"),
        (r#"\"ffn\":40"#, r#"\"ffn\":99"#, "bytes"),
        (r#"\"recipe\":\"int8\""#, r#"\"recipe\":\"int9\""#, "unknown weight format"),
        (r#"\"storage\":\"int8\""#, r#"\"storage\":\"int7\""#, "unknown weight format"),
        (r#"\"storage\":\"int8\""#, r#"\"storage\":\"bf16\""#, "bytes"),
        (r#""head.weight":"#, r#""heal.weight":"#, "heal.weight"),
    ] {
        let text = whole.windows(from.len()).position(|window| window == from.as_bytes());
        let at = text.unwrap_or_else(|| panic!("{from} is not in the header"));
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&bad, &bytes).unwrap();
        let error = open(&bad, &exec, Placement::Mapped).err().unwrap_or_else(|| panic!("{to} was accepted"));
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
    // A scale that is no number.
    let mut bytes = whole.clone();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let info: serde_json::Value = serde_json::from_slice(&whole[8..header]).unwrap();
    let end = info["blocks.0.ffn.key.weight"]["data_offsets"][1].as_u64().unwrap() as usize;
    for at in (header + end - 128..header + end).step_by(2) {
        bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    }
    std::fs::write(&bad, &bytes).unwrap();
    let error = open(&bad, &exec, Placement::Mapped).err().unwrap().to_string();
    assert!(error.contains("blocks.0.ffn.key.weight") && error.contains("finite"), "{error}");
}
