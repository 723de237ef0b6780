"""``levit bench``, the installed command. Durations are minimal, so the measured speeds mean nothing."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from levit_cli.bench.paper import PUBLISHED
from tests.cli.test_startup import HEAVY, NETWORK, modules_after
from tests.support.binary import LEVIT, environment, levit, unprivileged
from tests.support.extras import hide_extra, names_pip_command, needs_plot, needs_torch
from tests.support.random_weights import TINY
from tests.support.sample_images import write_images

SHORT = ("--duration", "0.01", "--warmup", "0")
ROW: dict[str, Any] = {
    "model": str,
    "engine": str,
    "precision": str,
    "batch_size": int,
    "threads": int,
    "images_per_s": float,
    "p50_ms": float,
    "p90_ms": float,
    "cv": float,
    "params": int,
    "macs": int,
    "paper": (dict, type(None)),
}


@pytest.fixture(scope="module")
def before(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON document of a run with the tiny model."""
    path = tmp_path_factory.mktemp("bench") / "before.json"
    done = levit("bench", tiny_folder, *SHORT, "-o", path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    return path


def write_scaled(document: Path, factor: float, path: Path) -> Path:
    """Write a copy of the document with all speeds multiplied by ``factor``."""
    run = json.loads(document.read_text())
    for row in run["results"]:
        row["images_per_s"] *= factor
    path.write_text(json.dumps(run))
    return path


def test_the_json_document_has_the_documented_keys_and_types(before: Path, tiny_folder: Path) -> None:
    document = json.loads(before.read_text())
    assert list(document) == ["schema_version", "meta", "results", "claims"]
    assert {"machine", "cpu", "threads", "versions", "protocol"} <= set(document["meta"])
    assert document["meta"]["protocol"] == "quick"
    (row,) = document["results"]
    assert list(row) == list(ROW)
    assert all(isinstance(row[key], kind) for key, kind in ROW.items()), row
    assert row["model"] == str(tiny_folder)
    assert (row["engine"], row["batch_size"], row["macs"]) == ("openvino", 16, TINY.macs)
    assert row["p50_ms"] <= row["p90_ms"]
    assert row["images_per_s"] == pytest.approx(16_000 / row["p50_ms"], rel=1e-3)
    assert document["claims"] == []


def test_help_imports_nothing_heavy_and_a_levit_on_a_cpu_needs_no_torch(tiny_folder: Path) -> None:
    assert modules_after("bench", "--help").isdisjoint({*HEAVY, *NETWORK, "matplotlib"})
    loaded = modules_after("bench", tiny_folder, *SHORT, "-f", "csv")
    assert loaded.isdisjoint({*HEAVY, "matplotlib"})
    assert "openvino" in loaded


def test_compare_gives_ratios_and_fail_below_sets_the_exit_code(
    before: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    slower = write_scaled(before, 1e-4, tmp_path / "slower.json")
    faster = write_scaled(before, 1e4, tmp_path / "faster.json")
    run = ("bench", tiny_folder, *SHORT)
    done = levit(*run, "--compare", slower, "--fail-below", "0.9", "-f", "json")
    assert done.returncode == 0, done.stderr
    (comparison,) = json.loads(done.stdout)["comparison"]
    assert comparison["ratio"] > 100
    done = levit(*run, "--compare", faster, "--fail-below", "0.9")
    assert done.returncode == 1
    assert b"Too slow" in done.stderr
    assert b"Compared with the earlier run" in done.stdout
    done = levit(*run, "--compare", faster)
    assert done.returncode == 0, done.stderr


def test_fail_below_without_a_common_row_is_a_usage_error(before: Path, tiny_folder: Path) -> None:
    done = levit("bench", tiny_folder, *SHORT, "-b", "3", "--compare", before, "--fail-below", "0.9")
    assert done.returncode == 2
    assert b"has no result to compare with this run" in done.stderr
    assert done.stdout == b""


@contextmanager
def refusing_proxy() -> Iterator[tuple[str, list[str]]]:
    """Run a proxy that refuses every request; yields its URL and the list of request lines."""
    requests: list[str] = []

    class Refusing(BaseHTTPRequestHandler):
        def refuse(self) -> None:
            requests.append(self.requestline)
            self.send_error(503)

        do_GET = do_POST = do_CONNECT = refuse  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


@needs_torch
@needs_plot
def test_two_models_give_a_claim_and_a_plot_and_no_telemetry_is_sent(tmp_path: Path) -> None:
    home, plot = tmp_path / "home", tmp_path / "speed.png"
    home.mkdir()
    with refusing_proxy() as (proxy, requests):
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), proxy)
        proxied = environment(HOME=str(home), CI="", no_proxy="", NO_PROXY="", **proxies)
        done = levit(
            *("bench", "levit-128S", "--against", "efficientnet_b0", "-b", "1", *SHORT),
            *("-f", "json", "--plot", plot), env=proxied,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert not requests
        assert not any(home.iterdir())
        converter = "from openvino.tools.ovc import convert_model"
        subprocess.run([sys.executable, "-c", converter], env=proxied, check=True, timeout=120, capture_output=True)
        assert requests or any(home.iterdir()), "openvino alone sends no telemetry, so this test shows nothing"
    document = json.loads(done.stdout)
    fast, slow = document["results"]
    assert {row["model"] for row in (fast, slow)} == {"levit-128S", "efficientnet_b0"}
    assert [fast[key] for key in ("engine", "precision", "threads")] == [
        slow[key] for key in ("engine", "precision", "threads")
    ]
    assert fast["paper"]["images_per_s"] in (PUBLISHED["levit-128S"].xeon, PUBLISHED["levit-128S"].graviton2)
    (claim,) = document["claims"]
    assert claim["measured_ratio"] == pytest.approx(fast["images_per_s"] / slow["images_per_s"], rel=1e-3)
    assert claim["holds"] is (claim["measured_ratio"] >= claim["paper_ratio"])
    assert plot.read_bytes().startswith(b"\x89PNG")


@needs_torch
def test_the_paper_protocol_runs_torch_with_one_thread(tiny_folder: Path) -> None:
    done = levit("bench", tiny_folder, "--protocol", "paper", *SHORT, "-f", "csv", "-v")
    assert done.returncode == 0, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout.decode()))
    assert [row[key] for key in ("engine", "precision", "batch_size", "threads")] == ["torch", "fp32", "16", "1"]
    assert b"torch on cpu in fp32, 1 thread, batch size 16, trained weights" in done.stderr


def test_end_to_end_times_the_parts_of_the_pipeline(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_images(folder, 9)
    (folder / "000.jpg").write_bytes(b"no image")
    done = levit("bench", tiny_folder, "--end-to-end", folder, *SHORT, "-f", "json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["end_to_end"]
    assert (run["images"], run["failed"]) == (9, 1)
    assert list(run["ms_per_image"]) == ["decode", "resize", "network", "output"]
    assert min(run["ms_per_image"].values()) > 0
    done = levit("bench", tiny_folder, "--end-to-end", folder, *SHORT)
    assert b"End to end, from file to record: 9 images" in done.stdout
    assert b"1 image could not be decoded." in done.stdout
    for path in folder.iterdir():
        path.write_bytes(b"no image")
    done = levit("bench", tiny_folder, "--end-to-end", folder, *SHORT)
    assert done.returncode == 2
    assert b"can be read" in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["levit-512"], 3, b"levit-512"),
        pytest.param(["--against", "efficientnet_b9"], 2, b"use one of efficientnet_b0", marks=needs_torch),
        pytest.param(["demo", "--device", "cuda"], 3, b"There is no cuda device on this machine", marks=needs_torch),
        (["--device", "cuda", "--engine", "openvino"], 2, b"runs on the CPU"),
        (["demo", "--precision", "fp16"], 3, b"does not support fp16"),
        (["--duration", "0"], 2, b"--duration 0"),
        (["--duration", "soon"], 2, b"--duration"),
        (["--plot", "nowhere/speed.svg"], 4, b"Cannot write nowhere/speed.svg"),
        (["--plot", "speed.pdf"], 2, b"ends in .png or .svg"),
        (["demo", "--plot", "speed.svg"], 2, b"There is nothing to plot"),
        (["--compare", "nowhere.json"], 2, b"Cannot read nowhere.json"),
        (["--fail-below", "0.9"], 2, b"add --compare FILE"),
        (["--end-to-end", "nowhere"], 2, b"nowhere is not a folder"),
        (["--end-to-end", "."], 2, b"No images in ."),
    ],
)
def test_wrong_options_fail_before_measuring(tmp_path: Path, arguments: list[str], code: int, message: bytes) -> None:
    if "cuda" in arguments and code == 3:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("needs a machine without a CUDA device")
    done = levit("bench", *arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""
    assert [*tmp_path.iterdir()] == []


def test_an_output_that_cannot_be_written_fails_before_measuring(tmp_path: Path, before: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    for option in ("-o", "--plot"):
        command = unprivileged(LEVIT, "bench", "-f", "json", option, locked / "speed.svg")
        done = subprocess.run(command, capture_output=True, env=environment(), timeout=120, check=False)
        assert done.returncode == 4, done.stderr
        assert b"its folder is not writable" in done.stderr
    kept = before.read_bytes()
    done = levit("bench", "-o", before)
    assert done.returncode == 2
    assert b"--overwrite" in done.stderr
    assert before.read_bytes() == kept


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_exit_4_and_a_device_is_not_replaced(tiny_folder: Path) -> None:
    done = levit("bench", tiny_folder, *SHORT, "-f", "json", "-o", "/dev/full")
    assert done.returncode == 4
    assert not Path("/dev/full").is_file()


@needs_torch
@pytest.mark.parametrize(
    "raised", ["RuntimeError('operator torchvision::nms does not exist')", "ImportError('no such')"]
)
def test_a_broken_torchvision_is_exit_3_and_no_baselines_avoids_it(
    tmp_path: Path, tiny_folder: Path, raised: str
) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise {raised}")
    broken = environment(PYTHONPATH=str(tmp_path))
    done = levit("bench", tiny_folder, "--against", "resnet50", *SHORT, env=broken)
    assert done.returncode == 3, done.stderr
    assert b"-m pip install 'levit-cli[torch]'" in done.stderr
    assert b"--no-baselines" in done.stderr
    assert levit("bench", tiny_folder, "--no-baselines", *SHORT, "-q", env=broken).returncode == 0


def test_without_torch_the_levits_are_measured_and_the_claims_are_named(tmp_path: Path) -> None:
    core = environment(**hide_extra("torch", tmp_path / "hidden"))
    done = levit("bench", "levit-128S", "-b", "1", *SHORT, "-f", "json", env=core)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [row["model"] for row in document["results"]] == ["levit-128S"]
    assert [(claim["fast"], claim["slow"]) for claim in document["claims"]] == [
        ("levit-128S", "efficientnet_b0"),
        ("levit-128S", "deit_tiny"),
    ]
    for claim in document["claims"]:
        assert list(claim) == ["fast", "slow", "paper_ratio", "measured_ratio", "holds", "needs"]
        assert claim["paper_ratio"] > 3
        assert (claim["measured_ratio"], claim["holds"], claim["needs"]) == (None, None, "torch")
    assert len(done.stderr.splitlines()) == 1
    for words in (b"levit-128S against deit_tiny", b"-m pip install 'levit-cli[torch]'"):
        assert words in done.stderr
    for options in (["--no-baselines"], ["-q"]):
        done = levit("bench", "levit-128S", "-b", "1", *SHORT, "-f", "csv", *options, env=core)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.guarantee("missing-extra")
@pytest.mark.parametrize(
    ("extra", "arguments"),
    [
        ("torch", ["--against", "resnet50"]),
        ("torch", ["--protocol", "paper"]),
        ("torch", ["--protocol", "paper", "--engine", "openvino"]),
        ("torch", ["--engine", "torch"]),
        ("torch", ["--engine", "compile"]),
        ("torch", ["--device", "cuda"]),
        ("plot", ["--no-baselines", "--plot", "speed.svg"]),
    ],
)
def test_a_missing_extra_is_exit_2_before_measuring(tmp_path: Path, extra: str, arguments: list[str]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = levit("bench", *arguments, "-o", "speed.json", cwd=work, env=environment(**hide_extra(extra, tmp_path)))
    assert done.returncode == 2
    assert names_pip_command(os.fsdecode(done.stderr), extra)
    assert done.stdout == b""
    assert [*work.iterdir()] == []


@pytest.mark.guarantee("skipped-files")
def test_end_to_end_reports_what_it_skips(tiny_folder: Path, tmp_path: Path) -> None:
    photos = write_images(tmp_path / "photos", 2)
    (photos[0].parent / "a.dng").write_bytes(b"x")
    (photos[0].parent / "link.jpg").symlink_to(photos[0])
    result = levit("bench", tiny_folder, "--end-to-end", photos[0].parent, *SHORT)
    assert b"Skipped 1 symbolic link, 1 image in a format that is not supported (.dng)." in result.stderr
