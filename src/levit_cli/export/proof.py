"""Prove that an exported model answers like the original, on fixed images."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from levit_cli.predict.pipeline import probabilities

Pixels = NDArray[np.uint8]
Run = Callable[[Sequence[Pixels]], Sequence[NDArray[np.float32]]]

TOLERANCE = 1e-4  # largest difference of a probability
SCENES, SEED = 5, 2021


def proof_images(height: int, width: int) -> Pixels:
    """Return the images (B, H, W, 3) of the proof: like photos, noise, black and white."""
    rng = np.random.default_rng(SEED)
    scenes = [_scene(rng, height, width) for _ in range(SCENES)]
    noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([*scenes, noise, np.zeros_like(noise), np.full_like(noise, 255)])


def _scene(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """Return an image with the statistics of a photo: clouds whose amplitude falls with the frequency, and edges."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1
    spectrum = np.fft.fft2(rng.standard_normal((3, height, width))) / frequency
    clouds = np.fft.ifft2(spectrum).real
    clouds += 2 * clouds.mean(axis=0)  # the colors of a photo are correlated
    clouds = 60 * clouds / max(clouds.std(), 1e-9)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    clouds[:, top : top + height // 3, left : left + width // 3] += rng.uniform(-80, 80, (3, 1, 1))
    pixels: Pixels = np.clip(clouds + rng.uniform(60, 180), 0, 255).astype(np.uint8)
    return pixels.transpose(1, 2, 0)


def largest_difference(run: Run, pixels: Pixels, reference: NDArray[Any], temperature: float) -> float:
    """Return the largest difference of a probability, for all images as one batch and for the first one alone.

    Args:
        run: computes the logits of several batches in the target runtime.
        reference: logits (B, classes).
    """
    expected = probabilities(reference, temperature)
    batches = [pixels, pixels[:1]]
    differences = [
        np.abs(probabilities(logits, temperature) - expected[: len(logits)]).max() for logits in run(batches)
    ]
    return float(np.max(differences))  # NaN if one is
