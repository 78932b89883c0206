//! `hf:` names against a stand-in of the hub on this machine.
#![cfg(feature = "hub")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::util::{Outcome, Sandbox, finish, settings, v7};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Serves the files of one repository as the hub does.
struct Hub {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Default)]
struct Repository {
    files: BTreeMap<&'static str, Vec<u8>>,
    /// Answers to whole-file requests break off after so many bytes, this many times.
    breaks: Arc<Mutex<usize>>,
}

impl Hub {
    fn serve(repository: Repository) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = seen.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (repository, log) = (repository.clone(), log.clone());
                std::thread::spawn(move || {
                    if let Ok(stream) = stream {
                        answer(stream, &repository, &log);
                    }
                });
            }
        });
        Hub { address, seen }
    }

    /// Requests for contents (not the one-byte ones that ask for sizes), with their ranges.
    fn downloads(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().filter(|line| !line.ends_with("bytes=0-0")).cloned().collect()
    }

    fn run(&self, sandbox: &Sandbox, args: &[&str]) -> Outcome {
        run_at(sandbox, &self.address, args)
    }
}

fn run_at(sandbox: &Sandbox, endpoint: &str, args: &[&str]) -> Outcome {
    let args: Vec<&dyn AsRef<std::ffi::OsStr>> = args.iter().map(|a| a as _).collect();
    let mut command = sandbox.command(&args);
    command.env("HF_ENDPOINT", endpoint);
    finish(command)
}

/// An address nobody listens at.
const NOBODY: &str = "http://127.0.0.1:9";

fn answer(stream: TcpStream, repository: &Repository, log: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut lines = std::iter::from_fn(|| {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0).map(|_| line.trim_end().to_string())
    });
    let request = lines.next().unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_string();
    let headers: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
    let range = headers.iter().find_map(|h| h.to_lowercase().strip_prefix("range: ").map(str::to_string));
    log.lock().unwrap().push(format!("{path} {}", range.clone().unwrap_or_default()));

    let mut reply = |status: &str, headers: &str, body: &[u8], length: usize| {
        let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n");
        // The client may have gone.
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    };
    if path == "/api/models/goose/tiny/revision/main" {
        let siblings: Vec<_> = repository.files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return reply("200 OK", "Content-Type: application/json\r\n", body.as_bytes(), body.len());
    }
    let Some(file) = path.strip_prefix("/goose/tiny/resolve/main/").and_then(|name| repository.files.get(name)) else {
        return reply("404 Not Found", "", b"", 0);
    };
    let range = range.unwrap_or_default();
    let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap_or(("0", ""));
    let from: usize = from.parse().unwrap_or(0);
    let to = to.parse().map_or(file.len(), |to: usize| to + 1);
    if from >= file.len() {
        return reply("416 Range Not Satisfiable", "", b"", 0);
    }
    let headers = format!(
        "ETag: \"{:x}-{}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Range: bytes {from}-{}/{}\r\n",
        file.iter().fold(7u64, |h, &b| h.wrapping_mul(31).wrapping_add(b.into())),
        file.len(),
        to - 1,
        file.len()
    );
    let body = &file[from..to];
    let mut breaks = repository.breaks.lock().unwrap();
    let sent = if body.len() > 1000 && *breaks > 0 {
        *breaks -= 1;
        body.len() / 2
    } else {
        body.len()
    };
    reply("206 Partial Content", &headers, &body[..sent], body.len());
}

fn tiny(name: &'static str) -> Repository {
    let files = [(name, std::fs::read(v7()).unwrap()), ("README.md", b"a model".to_vec())];
    Repository { files: files.into(), ..Repository::default() }
}

#[test]
fn a_file_is_fetched_once_and_then_works_offline() {
    let sandbox = Sandbox::new();
    let hub = Hub::serve(tiny("deep/model.safetensors"));
    let name = "hf:goose/tiny/deep/model.safetensors";
    let local = sandbox.run(&[&"info", &v7(), &"--json"]).json();
    assert_eq!(hub.run(&sandbox, &["info", name, "--json"]).json()["fingerprint"], local["fingerprint"]);
    assert_eq!(hub.downloads().len(), 1);
    let text = run_at(&sandbox, NOBODY, &["generate", name, "-p", "x", "-n", "3", "--raw"]);
    assert_eq!(text.ok().len(), 3);
    assert_eq!(hub.downloads().len(), 1, "the cache is asked first");
}

#[test]
fn of_a_repository_only_the_model_is_fetched() {
    let sandbox = Sandbox::new();
    let mut repository = tiny("goose.safetensors");
    repository.files.insert("training.bin", vec![0; 5000]);
    let hub = Hub::serve(repository);
    hub.run(&sandbox, &["info", "hf:goose/tiny"]).ok();
    let files: Vec<String> = hub.downloads().iter().filter(|line| line.contains("resolve")).cloned().collect();
    assert_eq!(files, ["/goose/tiny/resolve/main/goose.safetensors bytes=0-"]);
    run_at(&sandbox, NOBODY, &["info", "hf:goose/tiny"]).ok();
}

#[test]
fn a_folder_of_the_hugging_face_layout_comes_with_its_small_files() {
    let sandbox = Sandbox::new();
    let mut repository = tiny("model.safetensors");
    repository.files.insert("config.json", br#"{"model_type":"rwkv7"}"#.to_vec());
    repository.files.insert("chat_template.jinja", b"{% for m in messages %}{{ m.content }}{% endfor %}".to_vec());
    let hub = Hub::serve(repository);
    let info = hub.run(&sandbox, &["info", "hf:goose/tiny", "--json"]).json();
    assert_eq!(info["chat_template"], true);
    assert!(!hub.downloads().iter().any(|line| line.contains("README")));
    let offline = run_at(&sandbox, NOBODY, &["info", "hf:goose/tiny", "--json"]).json();
    assert_eq!(offline["fingerprint"], info["fingerprint"]);
}

#[test]
fn an_interrupted_download_goes_on_where_it_stopped() {
    let sandbox = Sandbox::new();
    let repository = tiny("model.safetensors");
    *repository.breaks.lock().unwrap() = 2;
    let hub = Hub::serve(repository);
    hub.run(&sandbox, &["info", "hf:goose/tiny/model.safetensors"]).ok();
    let starts: Vec<usize> = hub
        .downloads()
        .iter()
        .map(|line| line.rsplit_once("bytes=").unwrap().1.trim_end_matches('-').parse().unwrap())
        .collect();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(starts[0] == 0 && starts.is_sorted_by(|a, b| a < b), "each goes on after the last: {starts:?}");
}

#[test]
fn what_cannot_be_fetched_says_what_to_do() {
    let sandbox = Sandbox::new();
    let mut repository = tiny("a.pth");
    repository.files.insert("b.pth", vec![0; 10]);
    let hub = Hub::serve(repository);
    let hub_port = regex_escape(&hub.address);
    settings(&sandbox).bind(|| {
        let mut settings = insta::Settings::clone_current();
        settings.add_filter(&hub_port, "[HUB]");
        settings.bind(|| {
            insta::assert_snapshot!("hub_several", hub.run(&sandbox, &["info", "hf:goose/tiny"]).fails(2));
            insta::assert_snapshot!("hub_missing", hub.run(&sandbox, &["info", "hf:goose/none"]).fails(1));
            insta::assert_snapshot!("hub_no_network", run_at(&sandbox, NOBODY, &["info", "hf:goose/tiny"]).fails(1));
        });
    });
    let mut command = sandbox.command(&[&"info", &"hf:goose/tiny"]);
    command.env("HF_HUB_OFFLINE", "1").env("HF_ENDPOINT", &hub.address);
    let before = hub.seen.lock().unwrap().len();
    assert!(finish(command).fails(1).contains("HF_HUB_OFFLINE"));
    assert_eq!(hub.seen.lock().unwrap().len(), before, "nothing was asked");
}

fn regex_escape(text: &str) -> String {
    text.replace('.', "\\.")
}
