#!/bin/sh
# Installs what host_tools.txt lists, Python's venv and Rust, from Debian's packages. Silent when nothing is missing.
# With --dry-run it prints the commands and changes nothing. It does not need Python, because it may have to install it.
set -eu

here=$(dirname "$0")
run=
[ "${1-}" = --dry-run ] && run=echo
rust_version=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../vector_boot/Cargo.toml")

say() { echo "vboot: $*" >&2; }

# Whether a command is on PATH, or a file matches one of the patterns.
is_present() {
    case $1 in
    /*) for file in $1; do [ ! -e "$file" ] || return 0; done ; return 1 ;;
    *) command -v "$1" >/dev/null 2>&1 ;;
    esac
}

missing_tools() {
    while IFS='|' read -r probe package _; do
        case $probe in '' | '#'*) continue ;; esac
        is_present "$probe" || echo "$package"
    done <"$here/host_tools.txt"
}

# An existing virtual environment shows that Python is installed; starting python3 takes longer than all other probes.
python_is_present() {
    [ -x "$here/../.venv/bin/python" ] ||
        python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Whether there is a cargo that vboot would use: on PATH or from rustup, with a rustc in the same folder.
rust_is_present() (
    IFS=:
    for folder in $PATH "${HOME-}/.cargo/bin"; do
        [ -x "$folder/cargo" ] && [ -x "$folder/rustc" ] || continue
        version=$("$folder/rustc" --version 2>/dev/null) || continue
        is_new_enough "${version#rustc }" && exit 0
    done
    exit 1
)

# Whether "1.88.0 (...)" is at least the version that the crate requires.
is_new_enough() {
    major=${1%%.*}
    minor=${1#*.}
    minor=${minor%%[!0-9]*}
    [ "$major" -gt "${rust_version%%.*}" ] ||
        { [ "$major" -eq "${rust_version%%.*}" ] && [ "${minor:-0}" -ge "${rust_version#*.}" ]; }
}

missing() {
    missing_tools
    python_is_present || echo "python3 python3-venv"
    rust_is_present || echo "rustc-web cargo-web"
}

# Whether apt has package lists: the build needs them too, to download the kernel.
has_package_lists() {
    ! command -v apt-get >/dev/null 2>&1 || is_present '/var/lib/apt/lists/*_Packages*'
}

packages=$(missing | tr '\n' ' ')
packages=${packages% }
if [ -z "$packages" ] && has_package_lists; then exit 0; fi

if ! command -v apt-get >/dev/null 2>&1; then
    say "missing: $packages; install them (Debian's names, rustc-web and cargo-web being Rust $rust_version or newer," \
        "see https://rustup.rs) and try again"
    exit 1
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        say "missing: $packages; run as root: apt-get update && apt-get install --no-install-recommends $packages"
        exit 1
    fi
    as_root=sudo
fi

say "installing ${packages:-the package lists}"
$run $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update
[ -z "$packages" ] ||
    $run $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends $packages
[ -z "$run" ] || exit 0

packages=$(missing | tr '\n' ' ')
if [ -n "$packages" ]; then
    say "still missing, or too old, after installing: $packages; Rust $rust_version or newer is at https://rustup.rs"
    exit 1
fi
