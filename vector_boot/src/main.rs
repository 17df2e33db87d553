//! The executable. Built without `standalone` it only says how to build it.

#[cfg(feature = "standalone")]
fn main() -> std::process::ExitCode {
    vector_boot::standalone::main(std::env::args_os().skip(1).collect())
}

#[cfg(not(feature = "standalone"))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "vector_boot: this build is not the appliance's executable; build it with: cargo rustc --release \
         --features standalone --bin vector_boot -- -C target-feature=+crt-static"
    );
    std::process::ExitCode::FAILURE
}
