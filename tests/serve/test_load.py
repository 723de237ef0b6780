"""Many clients at once: each gets its own answer, and none is lost when the server stops."""

import json
from pathlib import Path

import pytest

from tests.serve.load import NUM_CLIENTS, stop_under_load, wrong_answers
from tests.serve.server import serving

REQUESTS = 2000


@pytest.mark.guarantee("serve-own-answer")
def test_each_client_gets_the_answer_to_its_own_image(tiny_folder: Path, photos: list[Path]) -> None:
    images = [photo.read_bytes() for photo in photos]
    with serving(tiny_folder, "--precision", "fp32") as server:
        expected = [server.post(image).json for image in images]
        assert len({json.dumps(record) for record in expected}) == len(images)
        assert wrong_answers(server, images, expected, REQUESTS) == {"right": REQUESTS}
        assert server.metric("levit_batch_size_count") < server.metric("levit_batch_size_sum")  # there were batches
        assert server.metric("levit_connections") <= NUM_CLIENTS + 1


@pytest.mark.guarantee("serve-drain")
@pytest.mark.parametrize("number", range(5))
def test_no_accepted_request_is_lost_at_sigterm(tiny_folder: Path, photos: list[Path], number: int) -> None:
    images = [photo.read_bytes() for photo in photos]
    with serving(tiny_folder) as server:
        outcome = stop_under_load(server, images, seconds=0.05 * number)
    assert outcome.exit_code == 0
    assert outcome.answered >= 40
    assert (outcome.torn, outcome.unanswered) == (0, 0)
    assert outcome.seconds < 10
