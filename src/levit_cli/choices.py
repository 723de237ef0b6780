"""The words that options take, in one place and free to import: the command line shows them, the libraries use them."""

from typing import Literal, get_args

Dialect = Literal["fb", "timm", "hf"]  # Meta's own code, timm, Hugging Face
Dtype = Literal["float32", "float16", "bfloat16"]
RecipeName = Literal["fb", "hf", "timm", "hf-tensor"]  # the last: Hugging Face's faster processor, in torch
Device = Literal["auto", "cpu", "cuda", "mps"]
EngineName = Literal["auto", "openvino", "torch"]
Resizer = Literal["pillow", "torch"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Decoding = Literal["exact", "fast"]
Format = Literal["table", "jsonl", "json", "csv", "tsv"]

DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
FORMATS: tuple[Format, ...] = get_args(Format)
