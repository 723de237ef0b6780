"""Help: one sentence, examples that can be copied, and every option in a named panel."""

import os
import re
import shlex
import subprocess
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from levit_cli.cli import app
from levit_cli.cli.options import ENGINE, GENERAL, INPUT, MODEL, OUTPUT, PREPROCESSING
from tests.support.binary import LEVIT, environment
from tests.support.commands import COMMANDS
from tests.support.foreign_systems import posix_only

EVERY_HELP = ((), *((command,) for command in COMMANDS))
SHARED_PANELS = {
    "--model": MODEL, "--labels": MODEL, "--sha256": MODEL,
    "--files-from": INPUT, "--format": OUTPUT, "--output": OUTPUT, "--overwrite": OUTPUT,
    "--preprocessing": PREPROCESSING, "--decode": PREPROCESSING, "--resize-to": PREPROCESSING,
    "--device": ENGINE, "--engine": ENGINE, "--precision": ENGINE, "--threads": ENGINE, "--batch-size": ENGINE,
}  # fmt: skip
GENERAL_OPTIONS = {
    "--stats", "--offline", "--quiet", "--verbose", "--debug", "--no-color",
    "--help", "--version", "--install-completion", "--show-completion",
}  # fmt: skip


def command_of(name: str) -> Any:
    return get_command(app).commands[name]  # type: ignore[attr-defined]


def help_of(*command: str, columns: int = 80, option: str = "--help") -> str:
    done = CliRunner().invoke(app, [*command, option], prog_name="levit", env={"COLUMNS": str(columns)})
    assert done.exit_code == 0, done.output
    return done.output


def panels_of(*command: str) -> dict[str, list[str]]:
    """The long options in each box of the help."""
    panels: dict[str, list[str]] = {}
    for line in help_of(*command, columns=160).splitlines():
        if title := re.match(r"╭─ (.+?) ─", line):
            panels[title[1]] = []
        elif option := re.match(r"│[* ]+(--[a-z0-9-]+)", line):
            panels[list(panels)[-1]].append(option[1])
    return panels


def examples_of(text: str) -> list[str]:
    """The lines below the heading, up to the first line that does not continue them."""
    block = text.split("Examples:\n", 1)[1].split("\n", 100)
    end = next(number for number, line in enumerate(block) if not line.strip() or not line.startswith("  "))
    return [line.removeprefix("  ") for line in block[:end]]


@pytest.mark.parametrize("command", EVERY_HELP)
def test_help_starts_with_one_sentence_and_the_short_option_prints_the_same(command: tuple[str, ...]) -> None:
    text = help_of(*command)
    first = text.split("\n\n", 1)[0]
    assert re.fullmatch(r"[A-Z][^.]+\.", first), first
    assert help_of(*command, option="-h") == text


@pytest.mark.parametrize("command", EVERY_HELP)
def test_every_option_is_in_a_named_panel(command: tuple[str, ...]) -> None:
    panels = panels_of(*command)
    assert "Options" not in panels
    declared = get_command(app) if not command else command_of(*command)
    names = {next(name for name in parameter.opts if name.startswith("--")) for parameter in declared.params
             if parameter.param_type_name == "option"}  # fmt: skip
    assert {name for options in panels.values() for name in options} >= {*names, "--help"}


@pytest.mark.parametrize("command", [(), *((command,) for command in COMMANDS if command not in ("bench", "finetune"))])
def test_the_general_panel_holds_general_options_only(command: tuple[str, ...]) -> None:
    assert set(panels_of(*command)[GENERAL]) <= GENERAL_OPTIONS


@pytest.mark.parametrize("command", ["predict", "eval", "info", "convert-checkpoint", "export"])
def test_the_same_option_is_in_the_same_panel_of_every_command(command: str) -> None:
    panels = panels_of(command)
    del panels[GENERAL]
    for panel, names in panels.items():
        assert all(SHARED_PANELS.get(name, panel) == panel for name in names), panel


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("command", EVERY_HELP)
def test_examples_are_consecutive_lines_at_every_width(command: tuple[str, ...], columns: int) -> None:
    lines = examples_of(help_of(*command, columns=columns))
    assert len(lines) >= 2
    assert lines == [line.rstrip() for line in lines]
    assert all("levit" in line for line in lines)
    assert lines == examples_of(help_of(*command, columns=200))


@pytest.mark.parametrize("command", EVERY_HELP)
def test_every_example_is_a_valid_command_line(command: tuple[str, ...]) -> None:
    shown = set()
    for line in examples_of(help_of(*command)):
        parsed = [arguments for arguments in map(levit_arguments, re.split(r"[|;]", line)) if arguments]
        assert parsed, line
        for name, *arguments in parsed:
            shown.add(name)
            command_of(name).make_context(name, arguments)  # raises if an option or a value does not exist
    assert {*command} <= shown  # examples of other commands may show where an input comes from


def levit_arguments(part: str) -> list[str]:
    """What follows ``levit`` in one command of a shell line."""
    words = shlex.split(part.split(">")[0])
    start = next((number for number, word in enumerate(words) if word in ("levit", "levit_cli")), len(words))
    return words[start + 1 :]


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("command", ["predict", "eval", "info", "convert-checkpoint"])
def test_the_revision_in_a_hub_id_is_visible(command: str, columns: int) -> None:
    words = re.sub(r"[│\s]+", "", help_of(command, columns=columns))
    assert "owner/name[@rev]" in words


@pytest.mark.parametrize("columns", [40, 80, 160])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_square_bracket_of_its_source(command: str, columns: int) -> None:
    shown = re.sub(r"[│\s]+", "", help_of(command, columns=columns))
    for parameter in command_of(command).params:
        help_text = (getattr(parameter, "help", "") or "").replace("\\[", "[")
        for words in re.findall(r"\S*\[[^\]]*\]\S*", help_text):
            assert "".join(words.split()) in shown, parameter.name


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("predict", "levit predict [OPTIONS] INPUT..."),
        ("eval", "levit eval [OPTIONS] FOLDER"),
        ("finetune", "levit finetune [OPTIONS] FOLDER"),
        ("info", "levit info [OPTIONS] MODEL"),
        ("convert-checkpoint", "levit convert-checkpoint [OPTIONS] SRC"),
        ("export", "levit export [OPTIONS] MODEL"),
    ],
)
def test_usage_names_each_argument_once(command: str, usage: str) -> None:
    (line,) = [line.strip() for line in help_of(command).splitlines() if line.strip().startswith("Usage:")]
    assert line == f"Usage: {usage}"


def test_flags_show_no_type_and_arguments_no_python_type() -> None:
    for command in COMMANDS:
        assert "<bool>" not in help_of(command)
        assert "list[" not in help_of(command)


def test_a_narrow_terminal_cuts_no_option_name() -> None:
    text = help_of("predict", columns=40)
    assert "--preprocessing" in text
    assert "--files-from" in text
    assert "…" not in text.replace("levit-128S …", "")
    assert max(map(len, text.split("Usage:")[1].splitlines())) <= 42


@posix_only
def test_a_terminal_shows_the_examples_as_a_pipe_does() -> None:
    import pty

    master, slave = pty.openpty()
    env = environment(COLUMNS="80", TERM="xterm-256color")
    with subprocess.Popen([LEVIT, "predict", "-h"], stdout=slave, stderr=slave, env=env):
        os.close(slave)
        text = b""
        try:
            while chunk := os.read(master, 1 << 16):
                text += chunk
        except OSError:  # the terminal's other end is closed
            pass
        os.close(master)
    shown = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).replace("\r\n", "\n")
    assert examples_of(shown) == examples_of(help_of("predict"))
    assert b"\x1b[" in text


@pytest.mark.parametrize(("words", "expected"), [("levit ev", ["eval"]), ("levit predict --top", ["--top-k"])])
def test_bash_completes_commands_and_options(words: str, expected: list[str]) -> None:
    env = environment(_LEVIT_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split()) - 1))
    done = subprocess.run([LEVIT], capture_output=True, env=env, timeout=60, check=False)
    assert done.stdout.decode().split() == expected, done.stderr
