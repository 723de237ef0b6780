"""The paper's figures as data: accuracies, speeds on its three machines, and the pairs of models that it compares.

Source: Graham et al. 2021 (arXiv 2104.01136 v2). Parameters, accuracies and the hardware are from table 3; unrounded
speeds from ``.github/timings.txt`` in the authors' repository; top-5 from its README. What the paper calls FLOPs are
multiply-accumulates.
"""

from typing import NamedTuple

SOURCE = "Graham et al. 2021, table 3"
HARDWARE = {
    "xeon": "Intel Xeon 6138, one thread, batch 16, fp32",
    "v100": "NVIDIA V100, fp16",
    "graviton2": "AWS Graviton2 (ARM), one thread, batch 16, fp32",
}


class Published(NamedTuple):
    """The published figures of a model.

    Args:
        image_size: height and width of the images in pixels.
        params_m, macs_m: millions of parameters and multiply-accumulates, as printed.
        top1, top5: percent on ImageNet-1k; top5 is None if the authors do not give it.
        xeon, v100, graviton2: images per second on this ``HARDWARE``.
    """

    image_size: int
    params_m: float
    macs_m: int
    top1: float
    top5: float | None
    xeon: float
    v100: float
    graviton2: float


PUBLISHED: dict[str, Published] = {
    "levit-128S": Published(224, 7.8, 305, 76.6, 92.9, 131.084, 12879.79, 39.056),
    "levit-128": Published(224, 9.2, 406, 78.6, 94.0, 94.030, 9265.81, 30.810),
    "levit-192": Published(224, 10.9, 658, 80.0, 94.7, 65.014, 8601.14, 24.215),
    "levit-256": Published(224, 18.9, 1120, 81.6, 95.4, 42.509, 6581.83, 16.365),
    "levit-384": Published(224, 39.1, 2353, 82.6, 96.0, 23.117, 4165.30, 9.372),
    "efficientnet_b0": Published(224, 5.3, 390, 77.1, None, 30.093, 4754.46, 3.437),
    "efficientnet_b1": Published(240, 7.8, 700, 79.1, None, 20.042, 2882.45, 2.277),
    "efficientnet_b2": Published(260, 9.2, 1000, 80.1, None, 13.155, 2149.34, 1.259),
    "efficientnet_b3": Published(300, 12, 1800, 81.6, None, 5.850, 1271.80, 0.810),
    "efficientnet_b4": Published(380, 19, 4200, 82.9, None, 2.455, 606.01, 0.452),
    "deit_tiny": Published(224, 5.9, 1220, 76.6, None, 39.108, 3972.76, 16.789),
    "deit_small": Published(224, 22.5, 4522, 82.6, None, 13.750, 1931.61, 7.570),
}

# Top-1 in percent of baselines that the paper does not list: torchvision's weights IMAGENET1K_V2, at 224 pixels.
OTHER_TOP1 = {"resnet50": 80.858}


class Claim(NamedTuple):
    """The claim that ``fast`` is faster than ``slow`` at about the same accuracy."""

    fast: str
    slow: str

    @property
    def xeon_ratio(self) -> float:
        """The ratio of the two speeds on the paper's CPU."""
        return PUBLISHED[self.fast].xeon / PUBLISHED[self.slow].xeon


# Section 5.3 names the first two: 5 times faster at top-1 80 %, 7 times faster at 81.6 %.
CLAIMS = (
    Claim("levit-192", "efficientnet_b2"),
    Claim("levit-256", "efficientnet_b3"),
    Claim("levit-128S", "efficientnet_b0"),
    Claim("levit-128", "efficientnet_b1"),
    Claim("levit-384", "efficientnet_b4"),
    Claim("levit-128S", "deit_tiny"),
    Claim("levit-384", "deit_small"),
)
