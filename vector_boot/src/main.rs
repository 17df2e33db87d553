//! The executable; cargo builds it with the feature `standalone` only.

fn main() -> std::process::ExitCode {
    vector_boot::standalone::main(std::env::args_os().skip(1).collect())
}
