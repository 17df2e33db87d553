#!/bin/sh
# Makes the virtual environment FOLDER, or brings it up to date: `sh builder/make_venv.sh FOLDER`, in the checkout's root.
# FOLDER/.ready records what it was made for. Another checkout path or Python version makes it again from nothing: its
# scripts name their interpreter by path, and its packages lie in a folder that names the version.
set -eu

venv=$1
# Asked of the base interpreter, because `python3` may be the one in FOLDER itself.
python=$(python3 -c 'import sys; print(sys._base_executable)')
place="$(pwd -P)/$venv
$("$python" -VV)"
packages=$(cat requirements.lock pyproject.toml | cksum; sed -n 's/^version = //p' vector_boot/Cargo.toml)
wanted="$place
$packages"

found=$(cat "$venv/.ready" 2>/dev/null || :)
[ "$found" != "$wanted" ] || exit 0

echo "setting up $venv"
rm -f "$venv/.ready"
case $found in
"$place"*) ;;
*) "$python" -m venv --clear "$venv" ;;
esac
pip="$venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --require-hashes -r requirements.lock
$pip install --no-deps --no-build-isolation -e .
# Written whole: a run that is interrupted leaves no record.
printf '%s\n' "$wanted" >"$venv/.ready.new"
mv "$venv/.ready.new" "$venv/.ready"
