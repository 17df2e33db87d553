#!/bin/sh
# Removes what was built, in the checkout's root: `sh builder/clean.sh`. Kept, and named, are the runs of `vboot evolve`
# in any folder of build/, since they take hours to make, and the run folders of machines that run. With --all the evolve
# runs are removed too; machines that run must be stopped first. Asks nothing, so that it is the same for a person and for
# a script.
set -eu

all=
[ "${1-}" != --all ] || all=yes

# Whether the machine of a run folder runs: its process exists, and started when the record says.
is_running() {
    [ -f "$1/machine.json" ] || return 1
    pid=$(sed -n 's/^  "pid": \([0-9]*\),*$/\1/p' "$1/machine.json" | head -n 1)
    started=$(sed -n 's/^  "start_ticks": \([0-9]*\),*$/\1/p' "$1/machine.json" | head -n 1)
    [ -n "$pid" ] && [ -r "/proc/$pid/stat" ] || return 1
    now=$(sed 's/.*) //' "/proc/$pid/stat" | cut -d ' ' -f 20)
    [ "$now" = "$started" ]
}

# Removes what is in a folder, but neither runs of `vboot evolve` nor machines that run, and then the folder if it is empty.
sweep() {
    for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
        if [ -L "$entry" ] || [ ! -d "$entry" ]; then
            rm -f "$entry"
        elif [ "$entry" = build/evolve ]; then
            :
        elif is_running "$entry"; then
            kept="$kept $entry (its machine runs)"
            alive="$alive $entry"
        elif [ -f "$entry/run.json" ] && [ -f "$entry/state.json" ]; then
            kept="$kept $entry (a run of \`vboot evolve\`)"
        elif [ -n "$(find "$entry" \( -name run.json -o -name machine.json \) -print | head -n 1)" ]; then
            sweep "$entry"
        else
            rm -rf "$entry"
        fi
    done
    rmdir "$1" 2>/dev/null || :
}

# The run folders, outside of build/, of machines that were started in this checkout and run: from qemu/registry.py.
outside() {
    for base in "${XDG_RUNTIME_DIR-}" "${XDG_STATE_HOME:-${HOME-}/.local/state}"; do
        for entry in "$base"/vector_boot/runs/*.json; do
            [ -n "$base" ] && [ -f "$entry" ] || continue
            run=$(sed -n 's/.*"run": *"\([^"\\]*\)".*/\1/p' "$entry" | head -n 1)
            case $run in "$PWD"/build/*) continue ;; esac
            is_running "$run" && [ "$(readlink "/proc/$pid/cwd")" = "$PWD" ] && printf ' %s' "$run" || :
        done
    done
}

running=
alive=
kept=
for run in build/run/*; do
    ! is_running "$run" || running="$running $run"
done
if [ -n "$all" ] && [ -n "$running" ]; then
    echo "clean: a machine runs in$running; stop it with \`vboot stop RUN\` first" >&2
    exit 1
fi

[ -z "$all" ] || rm -rf build
if [ -d build ]; then
    sweep build
    if [ -n "$(ls -A build/evolve 2>/dev/null)" ]; then
        kept="$kept build/evolve (runs of \`vboot evolve\`: $(ls -A build/evolve | wc -l | tr -d ' '))"
    fi
    rmdir build/evolve build 2>/dev/null || :
fi
rm -rf dist vector_boot/target vector_boot/fuzz/target
alive="$alive$(outside)"
if [ -n "$alive" ]; then
    echo "clean: kept .venv, since a machine runs in$alive; stop it with \`.venv/bin/vboot stop RUN\`"
else
    rm -rf .venv
fi
[ -z "$kept" ] || echo "clean: kept$kept; \`make distclean\` removes everything"
