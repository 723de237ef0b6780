"""Compare the peak memory of ``levit predict`` over few photos and over many: it must not grow with the folder.

python -m benchmarks.memory FOLDER [--few 100] [--many 20000] [--variant levit-128S]

The photos of the folder are repeated until there are enough.
"""

import argparse
import itertools
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measuring import machine, random_model, run_process, versions
from levit_cli.data.inputs import walk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--few", type=int, default=100)
    parser.add_argument("--many", type=int, default=20_000)
    parser.add_argument("--variant", default="levit-128S")
    options = parser.parse_args()
    paths = [item.path for item in walk(str(options.folder))]
    levit = str(Path(sys.executable).with_name("levit"))
    peaks = {}
    with TemporaryDirectory() as temporary:
        model = random_model(options.variant, f"{temporary}/model")
        for count in (options.few, options.many):
            listed = Path(temporary) / f"{count}.txt"
            listed.write_text("".join(f"{path}\n" for path in itertools.islice(itertools.cycle(paths), count)))
            command = [levit, "predict", "-m", model, "--files-from", str(listed), "-f", "jsonl", "-q"]
            peaks[count] = run_process(command).peak_mb
    print(f"{options.variant}, {machine()}; {versions('openvino', 'pillow')}\n\n| photos | peak MB |\n|---|---|")
    for count, peak in peaks.items():
        print(f"| {count:,} | {peak:.0f} |")
    ratio = peaks[options.many] / peaks[options.few]
    print(f"\n{options.many:,} photos take {ratio:.2f} times as much memory as {options.few:,}")


if __name__ == "__main__":
    main()
