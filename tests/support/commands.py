"""The commands of ``levit``."""

COMMANDS = (
    "predict",
    "serve",
    "sort",
    "gallery",
    "embed",
    "similar",
    "duplicates",
    "merge",
    "probe",
    "finetune",
    "eval",
    "bench",
    "info",
    "convert-checkpoint",
    "export",
    "quantize",
)  # fmt: skip
