//! The `anser` program. Everything it can do is one file a command under `cli/`.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
