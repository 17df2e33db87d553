#!/bin/sh
# The compiler, as cargo calls it for an image: no path of this host gets into the result. Cargo keeps crates in a folder
# of the user, and names it in the messages of panics; here each crate has a name that is the same everywhere.
# VBOOT_RUSTC is the compiler, VBOOT_RUST_SOURCES where it keeps the standard library's sources, if it has any, and
# VBOOT_RUST_COMMIT its commit: the library that comes compiled has the names /rustc/COMMIT.
[ -n "${CARGO_MANIFEST_DIR-}" ] || exec "$VBOOT_RUSTC" "$@"
set -- "$@" --remap-path-prefix "$VBOOT_RUST_SOURCES=/rustc/$VBOOT_RUST_COMMIT"
set -- "$@" --remap-path-prefix "$CARGO_MANIFEST_DIR=/crates/$CARGO_PKG_NAME-$CARGO_PKG_VERSION"
[ -z "${OUT_DIR-}" ] || set -- "$@" --remap-path-prefix "$OUT_DIR=/crates/$CARGO_PKG_NAME-$CARGO_PKG_VERSION/out"
exec "$VBOOT_RUSTC" "$@"
