"""The documentation agrees with the code: commands, options, outputs, exit codes, files and links."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from levit_cli.choices import PreprocessingName
from levit_cli.errors import ExitCode, InputErrorKind
from levit_cli.model.config import VARIANTS
from tests.support.binary import environment, levit

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "levit_cli"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
USER_PAGES = [page for page in PAGES if page.parent.name != "dev"]
CARDS = [ROOT / "examples/README.md", ROOT / "examples/demo_model/README.md", PACKAGE / "assets/demo/README.md"]
COMMANDS = ("predict", "eval", "finetune", "bench", "convert-checkpoint", "info", "export", "quantize", "sort")
BENCHMARK_PAGE = "performance.md"  # also names options of the scripts in benchmarks/
GENERAL = {"--version", "--help", "--install-completion", "--show-completion"}  # options of levit itself
OPTION = re.compile(r"(?<![\w-])--?[a-zA-Z0-9][a-z0-9-]*")
COMMAND_LINE = re.compile(r"(?:levit|-m levit_cli) ([a-z][a-z-]*)(.*)")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def options() -> Mapping[str, set[str]]:
    """The options of each command, from its help."""
    return {
        command: set(OPTION.findall(levit(command, "--help", env=environment(COLUMNS="200")).stdout.decode()))
        for command in COMMANDS
    }


def levit_command_lines(page: Path) -> list[tuple[str, str]]:
    """(command, arguments) of each call of ``levit`` in the page's shell blocks."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    calls = (part for line in lines for part in re.split(r"[|;]", re.sub(r"(^|\s)#.*", "", line)))
    return [(call[1], call[2]) for part in calls if (call := COMMAND_LINE.search(part))]


def test_first_commands_of_readme_are_make_demo_and_make_test() -> None:
    commands = re.findall(r"^\$ (.*?)(?:\s+#.*)?$", text("README.md"), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


def test_readme_shows_output_of_demo() -> None:
    shown = re.search(r"<!-- from: levit (.*?) -->\n```text\n(.*?)```", text("README.md"), re.DOTALL)
    assert shown is not None
    printed = levit(*shown[1].split(), cwd=ROOT).stdout.decode()

    def without_percentages(table: str) -> list[str]:
        """The last digits of the percentages depend on the precision, which depends on the CPU."""
        return [re.sub(r"\d+\.\d %.*", "", line).rstrip() for line in table.splitlines()]

    assert without_percentages(printed) == without_percentages(shown[2])


def test_options_named_on_pages_exist(options: Mapping[str, set[str]]) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in USER_PAGES if page.name != BENCHMARK_PAGE)
    own = re.sub(r"`?(fd |curl |git |pip |docker |torchrun |python -m benchmarks)[^`\n|]*", "", pages)
    named = {option for option in OPTION.findall(own) if option.startswith("--")}
    assert named <= set().union(*options.values()) | GENERAL


@pytest.mark.parametrize("page", [*USER_PAGES, *CARDS], ids=name_of)
def test_commands_in_shell_blocks_exist_with_their_options(page: Path, options: Mapping[str, set[str]]) -> None:
    for command, arguments in levit_command_lines(page):
        assert command in options
        assert set(OPTION.findall(arguments)) <= options[command], f"levit {command}{arguments}"


def test_readme_names_every_command() -> None:
    assert {command for command, _ in levit_command_lines(ROOT / "README.md")} <= set(COMMANDS)
    assert all(f"| `levit {command}" in text("README.md") for command in COMMANDS)


def test_usage_lists_exit_codes_and_error_kinds() -> None:
    usage = text("docs/usage.md")
    table = re.findall(r"^\| ([\d, ]+) \|", usage, re.MULTILINE)
    assert {int(code) for row in table for code in row.split(",")} == set(map(int, ExitCode))
    assert all(f"`{kind}`" in usage for kind in get_args(InputErrorKind))


def test_pages_list_variants_and_preprocessings() -> None:
    assert all(f"`{variant}`" in text("docs/checkpoints.md") for variant in VARIANTS)
    assert all(f"| `{transform}`" in text("docs/preprocessing.md") for transform in get_args(PreprocessingName))


def test_architecture_page_lists_every_module() -> None:
    tree = re.search(r"^```text\nsrc/levit_cli/\n(.*?)^```", text("docs/architecture.md"), re.DOTALL | re.MULTILINE)
    assert tree is not None
    listed: set[str] = set()
    folders: list[str] = []
    for indent, name in re.findall(r"^((?:  )+)(\S+)", tree[1], re.MULTILINE):
        del folders[len(indent) // 2 - 1 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            listed.add("".join(folders) + name)
    modules = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    assert listed == modules


@pytest.mark.parametrize("page", PAGES[1:], ids=name_of)
def test_readme_links_every_page(page: Path) -> None:
    assert f"]({page.relative_to(ROOT)})" in text("README.md")


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=name_of)
def test_links_between_pages_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
