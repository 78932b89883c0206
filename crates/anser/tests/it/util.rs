//! A folder and a command to run in it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use serde_json::Value;
use tempfile::TempDir;

/// A temporary folder that programs run in.
pub(crate) struct Sandbox {
    dir: TempDir,
}

/// What a program did.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// A golden file of the repository, by its place under `golden/lm`.
pub(crate) fn golden(file: &str) -> PathBuf {
    anser_testkit::golden_dir().canonicalize().unwrap().join("lm").join(file)
}

/// A model file with the weights of `golden/lm/{name}.safetensors`, which holds inputs and outputs beside them.
pub(crate) fn model(name: &str) -> PathBuf {
    static WRITING: Mutex<()> = Mutex::new(());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).canonicalize().unwrap().join(format!("{name}.safetensors"));
    let _one_at_a_time = WRITING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !path.exists() {
        // Renamed into place: another test process may be looking for it.
        let draft = path.with_extension(std::process::id().to_string());
        anser_testkit::write_weights(&format!("lm/{name}"), &draft);
        std::fs::rename(&draft, &path).unwrap();
    }
    path
}

/// RWKV-7 with a byte vocabulary.
pub(crate) fn v7() -> PathBuf {
    model("infer_v7")
}

impl Sandbox {
    pub(crate) fn new() -> Sandbox {
        Sandbox { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// The program with arguments, in this folder, in an environment that is the same everywhere.
    pub(crate) fn command(&self, args: &[&dyn AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_anser"));
        command.args(args).current_dir(self.dir.path()).env("HOME", self.dir.path()).env("NO_PROXY", "127.0.0.1");
        for name in [
            "HF_HOME",
            "HF_HUB_CACHE",
            "HF_ENDPOINT",
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
            "XDG_STATE_HOME",
            "COLUMNS",
            "CLICOLOR_FORCE",
        ] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, args: &[&dyn AsRef<OsStr>]) -> Outcome {
        finish(self.command(args))
    }

    /// With `input` on standard input.
    pub(crate) fn pipe(&self, input: &[u8], args: &[&dyn AsRef<OsStr>]) -> Outcome {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        // A program that fails early may not read it all.
        let _ = child.stdin.take().unwrap().write_all(input);
        outcome(child.wait_with_output().unwrap())
    }
}

pub(crate) fn finish(mut command: Command) -> Outcome {
    outcome(command.output().unwrap())
}

fn outcome(output: std::process::Output) -> Outcome {
    Outcome {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Outcome {
    /// stdout of a program that succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Vec<u8> {
        assert_eq!(self.code, Some(0), "stderr: {}", self.stderr);
        self.stdout
    }

    /// stdout as text.
    #[track_caller]
    pub(crate) fn text(self) -> String {
        String::from_utf8(self.ok()).unwrap()
    }

    /// stdout as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// stderr of a program that failed with this exit code and wrote no data.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "stderr: {}", self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert!(self.stdout.is_empty(), "data of a command that failed");
        self.stderr
    }
}

/// Numbers of a JSON array.
#[track_caller]
pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

/// Files in the sandbox, hidden ones too.
pub(crate) fn left(sandbox: &Sandbox) -> Vec<String> {
    files(&sandbox.path(""))
}

pub(crate) fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// A limit on the size of files stands for a full disk: writing fails half-way through.
#[cfg(unix)]
#[allow(unsafe_code)]
pub(crate) fn limit_files(command: &mut Command, bytes: u64) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only two system calls that may be made there, on memory of this closure.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            if libc::setrlimit(libc::RLIMIT_FSIZE, &limit) == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        });
    }
}

/// Snapshots without what differs from machine to machine.
pub(crate) fn settings(sandbox: &Sandbox) -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/snapshots"));
    let escape = |path: &Path| {
        let text = path.display().to_string();
        text.chars()
            .flat_map(|c| if c.is_alphanumeric() || c == '/' { vec![c] } else { vec!['\\', c] })
            .collect::<String>()
    };
    settings.add_filter(&escape(sandbox.dir.path()), "[DIR]");
    settings.add_filter(&escape(&Path::new(env!("CARGO_TARGET_TMPDIR")).canonicalize().unwrap()), "[MODELS]");
    settings.add_filter(&escape(&anser_testkit::golden_dir().canonicalize().unwrap()), "[GOLDEN]");
    settings
}
