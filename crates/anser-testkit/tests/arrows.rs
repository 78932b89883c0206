//! The arrows between the crates: what ARCHITECTURE.md promises, read from the manifests.

use std::collections::BTreeSet;
use std::path::Path;

/// Crate, and the crates of the workspace it may depend on. The test kit is a development dependency only.
const ARROWS: [(&str, &[&str]); 9] = [
    ("anser-kernels", &[]),
    ("anser-checkpoint", &[]),
    ("anser-tokenizer", &[]),
    ("anser-series", &[]),
    ("anser-engine", &["anser-checkpoint", "anser-kernels"]),
    ("anser-nn", &["anser-checkpoint", "anser-kernels"]),
    ("anser-train", &["anser-checkpoint", "anser-kernels", "anser-nn", "anser-series", "anser-tokenizer"]),
    (
        "anser",
        &[
            "anser-checkpoint",
            "anser-engine",
            "anser-kernels",
            "anser-nn",
            "anser-series",
            "anser-tokenizer",
            "anser-train",
        ],
    ),
    ("anser-testkit", &[]),
];

/// Names of the workspace's crates in the `[dependencies]` and `[build-dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut section = "";
    let mut found = BTreeSet::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && !section.contains("dev-dependencies") {
            let name: String = line.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect();
            if name == "anser" || name.starts_with("anser-") {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn dependencies_follow_the_arrows() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut folders: Vec<String> =
        std::fs::read_dir(&crates).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort();
    let mut known: Vec<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    known.sort();
    assert_eq!(folders, known, "a crate without an entry in ARROWS (and in ARCHITECTURE.md)");
    for (name, allowed) in ARROWS {
        let manifest = std::fs::read_to_string(crates.join(name).join("Cargo.toml")).unwrap();
        for dependency in dependencies(&manifest) {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn the_reader_of_manifests_sees_dependencies() {
    let manifest = "[package]\nname = \"anser-x\"\n[dependencies]\nanser-kernels.workspace = true\nserde = \"1\"\n\
                    [target.'cfg(unix)'.dependencies]\nanser-engine = { path = \"x\" }\n[dev-dependencies]\nanser-testkit.workspace = true\n";
    let expected = ["anser-engine", "anser-kernels"].map(String::from).into();
    assert_eq!(dependencies(manifest), expected);
}
