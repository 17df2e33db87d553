"""Completion scripts for bash, zsh and fish, made from the tree of commands. Pure.

Verbs, options and words stand in them. A few lines of sh, the same in every shell, look up run folders. Only for the
names of tensors does Tab start Python, which reads them from the head of the model file (`cli.tensor_names`).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.completion import CompletedCommand, CompletedOption, Value

_RUNS = (
    'registry="${XDG_RUNTIME_DIR:-${XDG_STATE_HOME:-$HOME/.local/state}}/vector_boot/runs"; '
    'for file in build/run/*/machine.json "$registry"/*.json "$registry"/*/machine.json; do '
    '[ -f "$file" ] || continue; '
    r"""pid=$(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$file" 2>/dev/null | head -n 1); """
    '[ -n "$pid" ] && [ -d "/proc/$pid" ] || continue; '
    'case $file in build/*) dirname "$file";; '
    r"""*) sed -n 's/.*"run": *"\([^"]*\)".*/\1/p' "$file" | head -n 1;; esac; """
    'done | while read -r run || [ -n "$run" ]; do echo "${run#"$PWD"/}"; done | sort -u'
)
"""Prints the folders of machines that run: those in build/run, where `vboot boot` puts them, and all of this user."""

_BASH = """\
# vboot: completion for bash
_vboot_runs() {{ sh -c {runs}; }}

_vboot_add() {{ mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen "$@" -- "$current"); }}

_vboot_words() {{ local IFS=' '; _vboot_add -W "$1"; }}

_vboot_runs_add() {{ local IFS=$'\\n'; _vboot_add -W "$(_vboot_runs)"; }}

_vboot_tensors() {{
    [[ $1 ]] && compopt -o nospace 2>/dev/null
    _vboot_add -S "$1" -W "$("${{COMP_WORDS[0]}}" completion tensor-names 2>/dev/null)"
}}

_vboot_files() {{ compopt -o filenames 2>/dev/null; _vboot_add -f; }}

_vboot() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= word skip=
    COMPREPLY=()
    # "--option=value" comes as three words.
    if [[ $current == = ]]; then current=; elif [[ $before == = ]]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ $skip ]]; then skip=; continue; fi
        case "$command $word" in
{commands}
            *" --config") skip=1 ;;
        esac
    done
    case "$command $before" in
{values}
    esac
    case "$command" in
{arguments}
    esac
}}
complete -F _vboot vboot
"""

_ZSH = """\
#compdef vboot
# vboot: completion for zsh
__vboot_runs() {{
    local -a folders=("${{(@f)$(sh -c {runs})}}")
    (( $#folders[1] )) && compadd -f -a folders
}}

__vboot_file() {{ (( $# )) && compadd -- "$@"; _files }}

__vboot_tensors() {{
    local -a names=("${{(@f)$(vboot completion tensor-names 2>/dev/null)}}")
    (( $#names[1] )) && compadd -S "$1" -a names
}}

__vboot_machine() {{ __vboot_runs; __vboot_file "$@" }}

__vboot_machine_or_tensor() {{ __vboot_tensors ' '; __vboot_machine }}

{functions}
if [[ ${{funcstack[1]-}} == _vboot ]]; then _vboot "$@"; elif (( $+functions[compdef] )); then compdef _vboot vboot; fi
"""

_FISH = """\
# vboot: completion for fish
function __vboot_words -d 'Print the words before the cursor that are no options'
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if test "$word" = --config
            set skip 1
        else if not string match -q -- '-*' $word
            echo $word
        end
    end
end

function __vboot_in -d 'Whether these words come first'
    set -l words (__vboot_words)
    set -l last (count $argv)
    test (count $words) -ge $last; and test "$words[1..$last]" = "$argv"
end

function __vboot_at -d 'Whether these words, and no others, are there'
    set -l words (__vboot_words)
    test "$words" = "$argv"
end

complete -c vboot -f
{lines}
"""


def bash_script(tree: CompletedCommand) -> str:
    """A script for bash, of at least version 4."""
    commands, values, arguments = [], [], []
    for place, command in _walk(tree):
        commands += [
            f'            "{place} {name}") command="{f"{place} {name}".strip()}" ;;' for name in command.commands
        ]
        for option in command.options:
            if option.value is not None:
                names = "|".join(f'"{place} {name}"' for name in option.names)
                values.append(f"        {names}) {_bash_value(option.value)} return ;;")
        names = " ".join(name for option in command.options for name in option.names)
        others = f"_vboot_words {shlex.quote(' '.join(command.commands))};" if command.commands else ""
        others += _bash_value(command.argument)
        arguments.append(
            f'        "{place}") if [[ $current == -* ]]; then _vboot_words {shlex.quote(names)}; else {others} fi ;;'
        )
    return _BASH.format(
        runs=shlex.quote(_RUNS), commands="\n".join(commands), values="\n".join(values), arguments="\n".join(arguments)
    )


def zsh_script(tree: CompletedCommand) -> str:
    """A script for zsh: source it, or put it into a folder of `fpath` as _vboot."""
    return _ZSH.format(runs=shlex.quote(_RUNS), functions="\n".join(_zsh_function(*each) for each in _walk(tree)))


def fish_script(tree: CompletedCommand) -> str:
    """A script for fish, of at least version 3.4."""
    lines = []
    for place, command in _walk(tree):
        inside, next_word = (
            f"-n {_fish(f'__vboot_{test} {place}'.strip())}" for test in ("in" if place else "at", "at")
        )
        for name, sub in command.commands.items():
            lines.append(f"complete -c vboot {next_word} -a {name} -d {_fish(sub.help)}")
        for option in command.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = "" if option.value is None else f" {_fish_value(option.value)}"
            lines.append(f"complete -c vboot {inside} {names}{value} -d {_fish(option.help)}")
        if command.argument != type(command.argument)():
            lines.append(f"complete -c vboot {inside} {_fish_value(command.argument)[3:]}")
    return _FISH.format(lines="\n".join(lines))


def _walk(command: CompletedCommand, place: str = "") -> Iterator[tuple[str, CompletedCommand]]:
    """Every command with the words that lead to it: "", "boot", "surgeon apply"."""
    yield place, command
    for name, sub in command.commands.items():
        yield from _walk(sub, f"{place} {name}".strip())


def _bash_value(value: Value) -> str:
    parts = [f"_vboot_words {shlex.quote(' '.join(value.words))};"] if value.words else []
    parts += [f"_vboot_tensors {shlex.quote(value.tensor)};"] if value.tensor is not None else []
    parts += ["_vboot_runs_add;"] if value.run else []
    parts += ["_vboot_files;"] if value.file or value.run else []
    return " ".join(parts) or ":;"


def _zsh_function(place: str, command: CompletedCommand) -> str:
    name = "_vboot" + "".join(f"_{word}" for word in place.split())
    rows = [_zsh_option(option) for option in command.options]
    if not command.commands:
        if command.argument != type(command.argument)():
            rows.append(shlex.quote(f"*:argument:{_zsh_action(command.argument)}"))
        return f"{name}() {{\n    _arguments -s \\\n        " + " \\\n        ".join(rows) + "\n}\n"
    rows += ["'1:command:->command'", "'*::argument:->argument'"]
    described = " ".join(shlex.quote(f"{each}:{sub.help}") for each, sub in command.commands.items())
    return (
        f"{name}() {{\n    local curcontext=$curcontext state line\n"
        "    typeset -A opt_args\n    _arguments -C \\\n        "
        + " \\\n        ".join(rows)
        + f"\n    case $state in\n        command) local -a commands=({described}); _describe command commands ;;\n"
        + f"        argument) (( $+functions[{name}_$line[1]] )) && {name}_$line[1] ;;\n    esac\n}}\n"
    )


def _zsh_option(option: CompletedOption) -> str:
    text = option.help.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    value = "" if option.value is None else f":value:{_zsh_action(option.value)}"
    rows = [shlex.quote(f"*{name}[{text}]{value}") for name in option.names]
    return " ".join(rows)


def _zsh_action(value: Value) -> str:
    """What completes a value, as `_arguments` takes it: without colons, after a space if it is a command."""
    words = " ".join(value.words)
    if value.run and value.tensor is not None:
        return " __vboot_machine_or_tensor"
    if value.tensor is not None:
        return f" __vboot_tensors {shlex.quote(value.tensor or ' ')}"
    if value.run:
        return f" __vboot_machine {words}".rstrip()
    if value.file:
        return f" __vboot_file {words}".rstrip()
    return f"({words})" if words else " "


def _fish_value(value: Value) -> str:
    words = [" ".join(value.words)] if value.words else []
    words += [f"(sh -c {_fish(_RUNS)})"] if value.run else []
    if value.tensor is not None:
        words.append(f"(vboot completion tensor-names 2>/dev/null | string replace -r '$' '{value.tensor}')")
    files = "-r -F" if value.file or value.run else "-x"
    return f"{files} -a {_fish(' '.join(words))}" if words else files


def _fish(text: str) -> str:
    """A word in single quotes, in which fish knows two escapes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
