//! The World vocabulary's text file, checked and turned into the table that anser-tokenizer embeds.

use std::io::Read;
use std::path::{Path, PathBuf};

use anser_tokenizer::World;
use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

const FILE: &str = "rwkv_vocab_v20230424.txt";

/// The file as published: with LF line ends (RWKV-LM) and with CRLF (the `rwkv` package).
const SHA256: [&str; 2] = [
    "e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89",
    "8324476023347dec2964625ccb2075c864d250a9c6d9a74f36daba628de8c008",
];

#[derive(clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Source {
    /// The vocabulary file itself
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// A package that holds it: a wheel (`pip download --no-deps rwkv`)
    #[arg(long, value_name = "WHEEL")]
    package: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: Source,
    /// Fail if the table in the tree differs, instead of writing it
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let text = match (&arguments.source.from, &arguments.source.package) {
        (Some(file), _) => std::fs::read(file).with_context(|| file.display().to_string())?,
        (_, Some(package)) => from_package(package).with_context(|| package.display().to_string())?,
        _ => bail!("neither --from nor --package"),
    };
    let sum: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        SHA256.contains(&sum.as_str()),
        "sha256 {sum} is not that of {FILE} (LF {}, CRLF {})",
        SHA256[0],
        SHA256[1]
    );

    let world = World::from_vocabulary(std::str::from_utf8(&text)?)?;
    let table = world.to_bytes();
    let target = Path::new("crates/anser-tokenizer/src/world.bin");
    ensure!(target.parent().is_some_and(Path::is_dir), "run this from the repository's root");
    if arguments.check {
        let found = std::fs::read(target).with_context(|| target.display().to_string())?;
        ensure!(found == table, "{} is not what {FILE} gives: run without --check", target.display());
    } else {
        std::fs::write(target, &table).with_context(|| target.display().to_string())?;
    }
    println!("{}: {} ids, {} bytes", target.display(), world.vocab_size(), table.len());
    Ok(())
}

fn from_package(package: &Path) -> Result<Vec<u8>> {
    let mut archive = zip::ZipArchive::new(std::fs::File::open(package)?)?;
    let is_vocabulary = |name: &str| Path::new(name).file_name().is_some_and(|n| n == FILE);
    let name = archive
        .file_names()
        .filter_map(|name| name.ok().map(|name| name.into_owned()))
        .find(|name| is_vocabulary(name))
        .with_context(|| format!("no {FILE} inside"))?;
    let mut text = Vec::new();
    archive.by_name(&name)?.read_to_end(&mut text)?;
    Ok(text)
}
