"""The documents say what the code does."""

import re
from pathlib import Path
from typing import get_args

import pytest

from levit_cli.choices import PreprocessingName
from levit_cli.errors import ExitCode, InputErrorKind
from levit_cli.model.config import VARIANTS
from tests.support.binary import levit

ROOT = Path(__file__).parent.parent
OWN_OPTIONS = ("log.md", "performance.md")  # they name those of the benchmarks, too
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_begins_with_the_two_commands_of_a_newcomer() -> None:
    commands = re.findall(r"^\$ (.*?)(?:\s+#.*)?$", text("README.md"), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]


def test_the_readme_shows_what_the_demo_prints() -> None:
    shown = re.search(r"<!-- from: levit (.*?) -->\n```text\n(.*?)```", text("README.md"), re.DOTALL)
    assert shown is not None
    printed = levit(*shown[1].split(), cwd=ROOT).stdout.decode()

    def without_last_digits(table: str) -> list[str]:
        """bf16 or fp32, the percentages may differ in their last digit."""
        return [re.sub(r"\d+\.\d %.*", "", line).rstrip() for line in table.splitlines()]

    assert without_last_digits(printed) == without_last_digits(shown[2])


def test_every_option_that_a_page_names_exists() -> None:
    known = set()
    for command in ("predict", "bench", "convert-checkpoint", "finetune", "eval", "info"):
        known |= set(re.findall(r"--[a-z][a-z0-9-]+", levit(command, "--help").stdout.decode()))
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.name not in OWN_OPTIONS)
    ours = re.sub(r"`?(fd|curl|git|pip|torchrun) [^`\n|]*", "", pages)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", ours)) <= known | {"--version", "--help"}


def test_exit_codes_kinds_of_error_variants_and_transforms_are_all_told() -> None:
    usage = text("docs/usage.md")
    table = re.findall(r"^\| ([\d, ]+) \|", usage, re.MULTILINE)
    assert {int(code) for row in table for code in row.split(",")} == set(map(int, ExitCode))
    assert all(f"`{kind}`" in usage for kind in get_args(InputErrorKind))
    assert all(f"`{variant}`" in text("docs/checkpoints.md") for variant in VARIANTS)
    assert all(f"| `{transform}`" in text("docs/preprocessing.md") for transform in get_args(PreprocessingName))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target
