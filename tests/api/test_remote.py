"""The Python API reads objects in storage as the command does, and ends quietly."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.binary import environment
from tests.support.extras import needs_remote
from tests.support.fake_hub import running
from tests.support.fake_s3 import FakeS3
from tests.support.sample_images import write_images


@needs_remote
@pytest.mark.guarantee("remote-inputs", "api-normal-exit")
def test_objects_in_storage_are_classified_and_the_script_ends_quietly(tiny_folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys, levit_cli\n"
        "model = levit_cli.load(sys.argv[1])\n"
        "print([(p.path, p.error) for p in model.predict(['s3://bucket/a.jpg', 's3://bucket/b.jpg'])])\n"
        "print(model('s3://bucket/a.jpg').path)\n"
        "unfinished = model.predict(['s3://bucket/a.jpg'] * 100)\n"
        "next(unfinished)\n"
    )
    with running(FakeS3()) as server:
        content = write_images(tmp_path, 1)[0].read_bytes()
        server.add("bucket", {"a.jpg": content, "b.jpg": content})
        command = [sys.executable, "-W", "error", "-c", script, str(tiny_folder)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(**server.environment()), check=False, timeout=120
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "[('s3://bucket/a.jpg', None), ('s3://bucket/b.jpg', None)]\ns3://bucket/a.jpg\n"
