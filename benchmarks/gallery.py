"""Measure the gallery: make the page of a results file, open it in Chromium, and change its filters.

python -m benchmarks.gallery RESULTS [--rounds 5]

The time of a filter is that from the input until the next frame is drawn. Run it where the paths in RESULTS lead to the
images.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.support.browser import Tab, browser

from benchmarks.measuring import cpu_s

AFTER_FRAME = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"
TIMED = f"""(async () => {{
    await {AFTER_FRAME};
    const start = performance.now();
    %s;
    await {AFTER_FRAME};
    return performance.now() - start;
}})()"""
SET = """(control => {{
    control.value = {value!r};
    control.dispatchEvent(new Event("input", {{bubbles: true}}));
}})(document.getElementById({name!r}))"""
CLICK = "document.querySelector({!r}).click()"
CHANGES = {
    "search for a letter": SET.format(name="search", value="a"),
    "clear the search": SET.format(name="search", value=""),
    "probability from 90 %": SET.format(name="low", value="90"),
    "any probability": SET.format(name="low", value="0"),
    "one label": CLICK.format("#choices button"),
    "all labels": CLICK.format("#choices button"),
    "without groups": CLICK.format("#grouped"),
    "sort by name": SET.format(name="sort", value="name"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="output of levit predict")
    parser.add_argument("--rounds", type=int, default=5, help="number of times that the page is opened")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        page = Path(temporary, "page.html")
        make(options.results, page)
        with browser(Path(temporary, "profile")) as tab:
            rounds = [measure(tab, page) for _ in range(options.rounds)]
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        print(f"{name:<24}{median(values):8.0f} ms  ({min(values):.0f} to {max(values):.0f})")


def make(results: Path, page: Path) -> None:
    """Make the page, and print its size and what it took."""
    command = [str(Path(sys.executable).with_name("levit")), "gallery", str(results), "-o", str(page), "-q"]
    start = time.perf_counter()
    seconds = cpu_s(subprocess.Popen(command))
    print(f"{page.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s of CPU time, {time.perf_counter() - start:.1f} s")


def measure(tab: Tab, page: Path) -> dict[str, float]:
    """Open the page and return the milliseconds until it is ready and of each change."""
    tab.open(page)
    found = {"open": float(tab.run("document.documentElement.dataset.readyMs"))}
    return found | {name: float(tab.run(TIMED % change)) for name, change in CHANGES.items()}


if __name__ == "__main__":
    main()
