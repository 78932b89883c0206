//! Models of the Hugging Face hub: `hf:owner/repo` and `hf:owner/repo/file`, kept in the hub's usual cache.
//!
//! What lies in the cache is used without asking the network. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and
//! HF_HUB_OFFLINE mean what they mean everywhere.

use std::path::PathBuf;

use anyhow::Result;

/// Path of the model's file or directory on this machine, downloaded where it is missing.
#[cfg(feature = "hub")]
pub(crate) fn fetch(address: &str) -> Result<PathBuf> {
    remote::fetch(address)
}

#[cfg(not(feature = "hub"))]
pub(crate) fn fetch(address: &str) -> Result<PathBuf> {
    Err(super::error::hinted(
        anyhow::anyhow!("hf:{address}: this anser was built without the hub"),
        "download the file and pass its path, or build with --features hub",
    ))
}

#[cfg(feature = "hub")]
mod remote {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use anyhow::{Context, Result};
    use hf_hub::api::sync::{ApiBuilder, ApiError};
    use hf_hub::{Cache, CacheRepo};

    use crate::cli::error::{hinted, usage};

    /// What a directory of the Hugging Face layout may hold beside its weights.
    const SMALL: [&str; 5] =
        ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "rwkv_vocab_v20230424.txt"];
    const INDEX: &str = "model.safetensors.index.json";
    const SINGLE: &str = "model.safetensors";
    const RETRIES: usize = 3;

    pub(crate) fn fetch(address: &str) -> Result<PathBuf> {
        let (name, file) = split(address)?;
        let cache = Cache::new(cache_dir()?);
        let cached = cache.model(name.clone());
        let offline = std::env::var_os("HF_HUB_OFFLINE").is_some_and(|value| !value.is_empty() && value != "0");
        if let Some(path) = in_cache(&cached, file.as_deref()) {
            return Ok(path);
        }
        let failure = if offline {
            let place = cache.path().display();
            hinted(
                anyhow::anyhow!("hf:{address} is not in the cache at {place}, and HF_HUB_OFFLINE is set"),
                "unset HF_HUB_OFFLINE once to download it, or pass the path of a file you have",
            )
        } else {
            match download(cache, &name, file.as_deref()) {
                Ok(path) => return Ok(path),
                // The hub answered: what lies in the cache would answer another question.
                Err(error) if !unreachable(&error) => return Err(explain(address, error)),
                Err(error) => explain(address, error),
            }
        };
        match loose(&cached).filter(|_| file.is_none()) {
            Some(path) => Ok(path),
            None => Err(failure),
        }
    }

    /// `owner/repo[/file]`; the file may lie in folders.
    fn split(address: &str) -> Result<(String, Option<String>)> {
        let mut parts = address.splitn(3, '/');
        let ok = |part: &&str| !part.is_empty() && !part.starts_with('.') && !part.contains(char::is_whitespace);
        match (parts.next().filter(ok), parts.next().filter(ok), parts.next()) {
            (Some(owner), Some(repo), None) => Ok((format!("{owner}/{repo}"), None)),
            (Some(owner), Some(repo), Some(file)) if !file.is_empty() && file.split('/').all(|part| ok(&part)) => {
                Ok((format!("{owner}/{repo}"), Some(file.to_string())))
            }
            _ => Err(usage(
                format!("hf:{address} does not name a model of the hub"),
                "write hf:owner/repo or hf:owner/repo/file",
            )),
        }
    }

    fn cache_dir() -> Result<PathBuf> {
        let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = from("HF_HUB_CACHE").or_else(|| from("HF_HOME").map(|home| home.join("hub")));
        let dir = dir.or_else(|| std::env::home_dir().map(|home| home.join(".cache/huggingface/hub")));
        let dir =
            dir.ok_or_else(|| hinted(anyhow::anyhow!("there is no home directory to keep models in"), "set HF_HOME"))?;
        Ok(std::path::absolute(dir)?)
    }

    /// The model if all of it lies in the cache. Weights are downloaded last, so their presence tells of the rest.
    fn in_cache(cached: &CacheRepo, file: Option<&str>) -> Option<PathBuf> {
        if let Some(file) = file {
            return cached.get(file);
        }
        if let Some(index) = cached.get(INDEX) {
            let complete = shards(&index).ok()?.iter().all(|shard| cached.get(shard).is_some());
            return complete.then(|| index.with_file_name(""));
        }
        cached.get(SINGLE).map(|weights| weights.with_file_name(""))
    }

    /// The one model file kept of a repository of loose files. Only the hub knows whether it is the only one.
    fn loose(cached: &CacheRepo) -> Option<PathBuf> {
        let snapshot = cached.get(".")?;
        let names = std::fs::read_dir(&snapshot).ok()?.filter_map(|e| e.ok()?.file_name().into_string().ok());
        only_weights("", &names.collect::<Vec<_>>()).ok().map(|name| snapshot.join(name))
    }

    fn unreachable(error: &anyhow::Error) -> bool {
        error
            .downcast_ref::<ApiError>()
            .is_some_and(|api| !["404", "401", "403"].iter().any(|code| api.to_string().contains(code)))
    }

    /// Downloads what is missing; an interrupted download goes on where it stopped.
    fn download(cache: Cache, name: &str, file: Option<&str>) -> Result<PathBuf> {
        let token = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()).or_else(|| cache.token());
        let mut builder = ApiBuilder::from_cache(cache)
            .with_token(token)
            .with_retries(RETRIES)
            .with_user_agent("anser", env!("CARGO_PKG_VERSION"));
        if let Some(endpoint) = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty()) {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_string());
        }
        let repo = builder.build()?.model(name.to_string());
        if let Some(file) = file {
            return Ok(repo.get(file)?);
        }
        let names: Vec<String> = repo.info()?.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        let has = |name: &str| names.iter().any(|n| n == name);
        if has(INDEX) || has(SINGLE) {
            for name in SMALL.into_iter().filter(|name| has(name)) {
                repo.get(name)?;
            }
            let weights = if has(INDEX) {
                let index = repo.get(INDEX)?;
                for shard in shards(&index)? {
                    repo.get(&shard)?;
                }
                index
            } else {
                repo.get(SINGLE)?
            };
            return Ok(weights.with_file_name(""));
        }
        Ok(repo.get(&only_weights(name, &names)?)?)
    }

    /// The one file of a repository that can be a model.
    fn only_weights(repo: &str, names: &[String]) -> Result<String> {
        for extension in [".safetensors", ".pth", ".gguf"] {
            let mut found = names.iter().filter(|name| name.ends_with(extension));
            match (found.next(), found.next()) {
                (None, _) => {}
                (Some(only), None) => return Ok(only.clone()),
                (Some(first), Some(_)) => {
                    let all: Vec<&str> = names.iter().map(String::as_str).filter(|n| n.ends_with(extension)).collect();
                    return Err(usage(
                        format!("{repo} holds {} models: {}", all.len(), all.join(", ")),
                        format!("name the file: hf:{repo}/{first}"),
                    ));
                }
            }
        }
        Err(hinted(anyhow::anyhow!("{repo} holds no .safetensors, .pth or .gguf file"), "is it the right repository?"))
    }

    /// Names of the files an index refers to.
    fn shards(index: &Path) -> Result<BTreeSet<String>> {
        let damaged = || format!("{}: expected an object weight_map of tensor names to file names", index.display());
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(index)?).with_context(damaged)?;
        let map = json.get("weight_map").and_then(|map| map.as_object()).with_context(damaged)?;
        map.values().map(|file| file.as_str().map(str::to_string).with_context(damaged)).collect()
    }

    fn explain(address: &str, error: anyhow::Error) -> anyhow::Error {
        let Some(api) = error.downcast_ref::<ApiError>() else { return error };
        let text = api.to_string();
        let hint = if text.contains("404") {
            "check the spelling of owner, repository and file"
        } else if text.contains("401") || text.contains("403") {
            "the repository is private or gated: set HF_TOKEN"
        } else if matches!(api, ApiError::LockAcquisition(_)) {
            "another program is downloading this file: wait for it to end"
        } else {
            "what was fetched once works without network, and an interrupted download goes on when run again; else fetch \
             the file elsewhere and pass its path (HF_ENDPOINT names a mirror, HF_HOME the cache)"
        };
        hinted(error.context(format!("cannot fetch hf:{address}")), hint)
    }
}
