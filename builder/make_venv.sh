#!/bin/sh
# Makes the virtual environment FOLDER, or brings it up to date: `sh builder/make_venv.sh FOLDER`, in the checkout's root.
# FOLDER/.ready records what it was made for. After a change of the checkout's path or of the Python version it is made
# anew: its scripts contain the path of the interpreter, and its packages are in a folder named by the version.
set -eu

venv=$1
# The base interpreter, because `python3` may be the one in FOLDER.
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
# Written atomically: an interrupted run leaves no record.
printf '%s\n' "$wanted" >"$venv/.ready.new"
mv "$venv/.ready.new" "$venv/.ready"
