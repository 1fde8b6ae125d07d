//! The `labwire` command: arguments in, exit code out.

fn main() -> std::process::ExitCode {
    labwire::cli::main().into()
}
