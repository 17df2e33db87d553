#!/bin/sh
# Unpacks a Rust compiler with the standard library of aarch64 into build/tools/aarch64, from Debian's packages (about
# 130 MB are downloaded; nothing is installed). `make aarch64-tools` runs it, `tests/unit/test_aarch64.py` uses the result.
# A rustup toolchain with the target aarch64-unknown-linux-gnu does as well. Also needed are the packages
# gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user.
set -eu

root=$(cd "$(dirname "$0")/../.." && pwd)/build/tools/aarch64
[ ! -x "$root/usr/bin/rustc" ] || exit 0
work=$root.part
rm -rf "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages"
# Package lists of its own, so that the system's are left alone and no foreign architecture is added to it.
apt="apt-get -qq -o APT::Architecture=amd64 -o APT::Architectures=amd64,arm64 -o APT::Sandbox::User=root \
    -o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache"
$apt update
cd "$work/packages"
$apt download rustc-web
version=$(dpkg-deb --field rustc-web_*.deb Version)
release=$(echo "$version" | sed 's/^\([0-9]*\.[0-9]*\).*/\1/')
$apt download "libstd-rust-web-$release=$version" "libstd-rust-web-dev:amd64=$version" "libstd-rust-web-dev:arm64=$version"
$apt download "$(dpkg-deb --field libstd-rust-web-"$release"_*.deb Depends | grep -o 'libllvm[0-9]*')"
for package in *.deb; do dpkg-deb --extract "$package" "$work"; done
rm -rf "$work/lists" "$work/cache" "$work/packages"
mv "$work" "$root"
