//! The `anser` program. Everything it can do is one file a command under `cli/`.

mod cli;

#[global_allocator]
static ALLOCATOR: anser_kernels::alloc::LineAligned = anser_kernels::alloc::LineAligned;

fn main() -> std::process::ExitCode {
    cli::main()
}
