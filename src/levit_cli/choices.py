"""Define the values that options accept. The module imports nothing heavy, so that ``--help`` is fast."""

from typing import Literal, get_args

CheckpointFormat = Literal["fb", "timm", "hf"]  # fb: Meta's code; hf: Hugging Face
ExportTarget = Literal["openvino", "onnx"]
Dtype = Literal["float32", "float16", "bfloat16"]
PreprocessingName = Literal["fb", "hf", "timm", "hf-tensor"]  # hf-tensor: Hugging Face's processor in torch
Device = Literal["auto", "cpu", "cuda", "mps"]
EngineName = Literal["auto", "openvino", "torch", "compile"]
Resizer = Literal["auto", "simd", "pillow"]  # simd: the package cykooz-resizer
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Decoding = Literal["exact", "fast"]
Preset = Literal["small", "paper"]
Distillation = Literal["hard", "soft"]
Frozen = Literal["nothing", "backbone"]
ClipMode = Literal["norm", "agc"]  # norm: clip the global norm; agc: adaptive gradient clipping
Format = Literal["table", "jsonl", "json", "csv", "tsv", "parquet"]
VectorFormat = Literal["npz", "parquet", "jsonl"]
VectorType = Literal["float32", "float16"]
TableFormat = Literal["table", "jsonl", "csv"]
BenchFormat = Literal["table", "json", "csv"]
BenchProtocol = Literal["quick", "paper"]
BaselineName = Literal[
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "resnet50",
    "deit_tiny",
    "deit_small",
]

DEFAULT_MODEL = "levit-256"
CHECKPOINT_FORMATS: tuple[CheckpointFormat, ...] = get_args(CheckpointFormat)
FORMATS: tuple[Format, ...] = get_args(Format)
BASELINES: tuple[BaselineName, ...] = get_args(BaselineName)
