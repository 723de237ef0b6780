"""Decide whether two small images show the same photo, although one was cropped, resized, recompressed or brightened.

The vectors of a network tell what is on a photo. Two photos of different white shirts have similar vectors, often more
similar than a photo and its cropped copy. So pairs with similar vectors are compared pixel by pixel: the second image
is shifted and scaled until it fits the first one best (Gauss-Newton, coarse to fine), then the details of both are
correlated: each pixel minus the mean around it. Between copies the details agree, between similar scenes they do not.
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

SIDE = 56  # of the small images, in pixels
LAYOUT_SIDE = 7  # of the gray images that tell which pairs are worth comparing
COARSE, FINE = 14, 28  # sides at which the images are fitted to each other
STEPS = 6
STARTS = (0.0, -0.08, 0.08)  # of the scale, relative to 1
MAX_CHANGE = 0.25  # of scale and shift, relative to half the side
MIN_COARSE = 0.75  # correlation below which a pair is not fitted any further
SAME_DETAILS = 0.65  # correlation of the details, chosen on made copies, see docs/embeddings.md
BLUR_RADIUS = 2
DAMPING = 1e-4

Small = NDArray[np.uint8]  # (B, SIDE, SIDE, 3)
Images = NDArray[np.float32]


def small_images(pixels: NDArray[np.uint8]) -> Small:
    """Return images (B, H, W, 3) at the size SIDE x SIDE, each pixel the mean of an area."""
    rows, columns = (np.linspace(0, size, SIDE, endpoint=False).astype(int) for size in pixels.shape[1:3])
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, axis=1, dtype=np.float32), columns, axis=2)
    areas = np.diff(rows, append=pixels.shape[1])[:, None] * np.diff(columns, append=pixels.shape[2])
    means: NDArray[np.float32] = (sums / areas[:, :, None]).round()
    return means.astype(np.uint8)


def layouts(small: Small) -> NDArray[np.float32]:
    """Return tiny gray images (B, 49) with the mean 0 and the norm 1. The product of two is their correlation."""
    tiny = _at_size(small.astype(np.float32).mean(axis=3, keepdims=True), LAYOUT_SIDE).reshape(len(small), -1)
    tiny = tiny - tiny.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(tiny, axis=1, keepdims=True)
    units: NDArray[np.float32] = (tiny / np.where(norms > 1, norms, 1)).astype(np.float32)
    return units  # zero for a plain image, which has no layout


def are_same(first: Small, second: Small) -> NDArray[np.bool_]:
    """Return for each pair (B, SIDE, SIDE, 3) whether both are the same photo."""
    same = np.zeros(len(first), np.bool_)
    fits, correlations = _fit_coarsely(first, second)
    promising = np.flatnonzero(correlations >= MIN_COARSE)
    if len(promising):
        same[promising] = details_of_pairs(first[promising], second[promising], fits[promising]) >= SAME_DETAILS
    return same


def details_of_pairs(first: Small, second: Small, fits: Images) -> Images:
    """Return the correlation (B,) of the details of two images, after the fit was refined."""
    one, other = first.astype(np.float32), second.astype(np.float32)
    fits = _fit(_gray(one, FINE), _gray(other, FINE), fits)
    return _correlation(_details(one), _details(other), fits)


def _fit_coarsely(first: Small, second: Small) -> tuple[Images, Images]:
    """Return the best fit (B, 4) of each pair from several starts, and the correlation with it."""
    one, other = _gray(first.astype(np.float32), COARSE), _gray(second.astype(np.float32), COARSE)
    best_fits, best = np.zeros((len(one), 4), np.float32), np.full(len(one), -1, np.float32)
    for scale in STARTS:
        fits = _fit(one, other, np.tile(np.array([scale, 0, scale, 0], np.float32), (len(one), 1)))
        correlations = _correlation(one[..., None], other[..., None], fits)
        better = correlations > best
        best_fits[better], best[better] = fits[better], correlations[better]
    return best_fits, best


def _fit(one: Images, other: Images, fits: Images) -> Images:
    """Refine the fits of gray images (B, S, S): scale and shift along x, then along y, relative to half the side."""
    x, y, half = _grid(one.shape[1])
    wanted = one.reshape(len(one), -1)
    for _ in range(STEPS):
        at_x, at_y, weights = _positions(one.shape[1], fits)
        values, slope_x, slope_y = _sample(other, at_x, at_y)
        total = weights.sum(axis=1, keepdims=True) + 1e-6
        target = wanted - (wanted * weights).sum(axis=1, keepdims=True) / total
        centered = values - (values * weights).sum(axis=1, keepdims=True) / total
        energy = np.maximum((weights * centered * centered).sum(axis=1), 1e-6)
        gain = ((weights * target * centered).sum(axis=1) / energy)[:, None]
        slope_x, slope_y = gain * half * slope_x, gain * half * slope_y
        columns = np.stack([slope_x * x, slope_x, slope_y * y, slope_y, centered], axis=1) * weights[:, None]
        columns -= columns.sum(axis=2, keepdims=True) / total[:, None] * weights[:, None]
        rest = (target - gain * centered) * weights
        squares = columns @ columns.transpose(0, 2, 1)
        squares += np.eye(5, dtype=np.float32) * (DAMPING * np.einsum("bii->bi", squares)[:, :, None] + 1e-3)
        step = np.linalg.solve(squares, columns @ rest[..., None])[:, :4, 0]
        fits = np.clip(fits + step, -MAX_CHANGE, MAX_CHANGE)
    return fits


def _correlation(one: Images, other: Images, fits: Images) -> Images:
    """Return the correlation (B,) of images (B, S, S, channels) where they overlap, with one mean over all channels."""
    at_x, at_y, weights = _positions(one.shape[1], fits)
    flat = one.reshape(len(one), -1, one.shape[3])
    fitted = np.stack([_sample(other[..., channel], at_x, at_y)[0] for channel in range(one.shape[3])], axis=2)
    weights = weights[:, :, None]
    total = weights.sum(axis=(1, 2), keepdims=True) * one.shape[3] + 1e-6
    flat = (flat - (flat * weights).sum(axis=(1, 2), keepdims=True) / total) * weights
    fitted = (fitted - (fitted * weights).sum(axis=(1, 2), keepdims=True) / total) * weights
    energies = (flat * flat).sum(axis=(1, 2)) * (fitted * fitted).sum(axis=(1, 2))
    result: Images = (flat * fitted).sum(axis=(1, 2)) / np.sqrt(np.maximum(energies, 1e-6))
    return result


@cache
def _grid(side: int) -> tuple[Images, Images, float]:
    """Return the coordinates x and y (S * S,) from -1 to 1, and half the side in pixels."""
    half = (side - 1) / 2
    y, x = np.mgrid[:side, :side].astype(np.float32)
    return ((x - half) / half).ravel(), ((y - half) / half).ravel(), half


def _positions(side: int, fits: Images) -> tuple[Images, Images, Images]:
    """Return where the second image is sampled (B, S * S), and the weight 1 of positions inside it."""
    x, y, half = _grid(side)
    at_x = half + half * (x * (1 + fits[:, :1]) + fits[:, 1:2])
    at_y = half + half * (y * (1 + fits[:, 2:3]) + fits[:, 3:4])
    inside = (at_x >= 0) & (at_x <= side - 1) & (at_y >= 0) & (at_y <= side - 1)
    return at_x, at_y, inside.astype(np.float32)


def _sample(images: Images, at_x: Images, at_y: Images) -> tuple[Images, Images, Images]:
    """Return the values of images (B, S, S) at positions, and their slopes along x and y; bilinear."""
    side = images.shape[1]
    x, y = np.clip(at_x, 0, side - 1.001), np.clip(at_y, 0, side - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    part_x, part_y = x - left, y - top
    corner = top * side + left + (np.arange(len(images), dtype=np.int32) * side * side)[:, None]
    flat = images.reshape(-1)
    a, b, c, d = flat[corner], flat[corner + 1], flat[corner + side], flat[corner + side + 1]
    upper, lower = a + (b - a) * part_x, c + (d - c) * part_x
    return upper + (lower - upper) * part_y, (b - a) + ((d - c) - (b - a)) * part_y, lower - upper


def _gray(images: Images, side: int) -> Images:
    return _at_size(images.mean(axis=3, keepdims=True), side)[..., 0]


def _at_size(images: Images, side: int) -> Images:
    step = images.shape[1] // side
    shape = (len(images), side, step, side, step, images.shape[3])
    result: Images = images.reshape(shape).mean(axis=(2, 4))
    return result


def _details(images: Images) -> Images:
    """Return images minus the mean around each pixel."""
    width = 2 * BLUR_RADIUS + 1
    margins = ((0, 0), (BLUR_RADIUS, BLUR_RADIUS), (BLUR_RADIUS, BLUR_RADIUS), (0, 0))
    padded = np.pad(images, margins, mode="edge")
    along_y = sliding_window_view(padded, width, axis=1).mean(axis=-1)
    result: Images = images - sliding_window_view(along_y, width, axis=2).mean(axis=-1)
    return result
