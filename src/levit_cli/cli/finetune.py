"""``levit finetune``: a model of one's own classes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import Result, handle_errors
from levit_cli.system.progress import log

RUN, IMAGES, LEARNING, TEACHER, MACHINE = "The run", "Images", "Learning", "Teacher", "Machine"


def setting(*names: str, help: str, panel: str, **more: Any) -> Any:  # noqa: A002
    """An option whose default the preset decides."""
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=more.pop("default", False), **more)


@handle_errors
def finetune(
    data: Annotated[Path, typer.Argument(metavar="FOLDER", help="Class folders, or train/ and val/ of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The run folder, a MODEL afterwards.")],
    model: Annotated[
        str | None, setting("--model", "-m", help="A MODEL to start from.", panel=RUN, default="levit-256")
    ] = None,
    from_scratch: Annotated[
        str | None,
        setting(help="Start with random weights: a variant, or a config.json of widths.", panel=RUN, metavar="VARIANT"),
    ] = None,
    preset: Annotated[
        choices.Preset, typer.Option(help="Defaults for small sets, or the paper's.", rich_help_panel=RUN)
    ] = "small",
    config: Annotated[
        Path | None, setting(help="Settings of an earlier run; options win.", panel=RUN, metavar="FILE")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in -o.", rich_help_panel=RUN)] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in -o.", rich_help_panel=RUN)] = False,
    epochs: Annotated[int | None, setting(help="Passes over the images.", panel=RUN, default="20")] = None,
    seed: Annotated[int | None, setting(help="Of everything random.", panel=RUN, default="0")] = None,
    image_size: Annotated[
        str | None,
        setting(
            help="Pixels, N or HxW; biases are interpolated.", panel=IMAGES, metavar="N|HxW", default="the model's"
        ),
    ] = None,
    resize_to: Annotated[
        int | None,
        setting(
            help="Shortest edge before the centre crop, in use.",
            panel=IMAGES,
            metavar="PIXELS",
            default="256/224 of the size",
        ),
    ] = None,
    val_split: Annotated[
        float | None, setting(help="Share kept for validation where there is no val/.", panel=IMAGES, default="0.1")
    ] = None,
    max_unreadable: Annotated[
        str | None,
        setting(
            help="Unreadable images that are left out without giving up.",
            panel=IMAGES,
            metavar="SHARE|N%",
            default="1%",
        ),
    ] = None,
    crop_scale: Annotated[
        float | None, setting(help="Smallest share of an image in a training crop.", panel=IMAGES, default="0.35")
    ] = None,
    flip: Annotated[
        bool | None, setting("--flip/--no-flip", help="Mirror half of them.", panel=IMAGES, default="flip")
    ] = None,
    rand_augment: Annotated[
        int | None, setting(help="RandAugment's magnitude, up to 30.", panel=IMAGES, default="0")
    ] = None,
    mixup: Annotated[float | None, setting(help="Mixup's alpha.", panel=IMAGES, default="0")] = None,
    cutmix: Annotated[float | None, setting(help="Cutmix's alpha.", panel=IMAGES, default="0")] = None,
    erasing: Annotated[
        float | None, setting(help="Share of images with a part erased.", panel=IMAGES, default="0")
    ] = None,
    repeated_augmentation: Annotated[
        int | None, setting(help="Times an image is in an epoch, each augmented anew.", panel=IMAGES, default="1")
    ] = None,
    freeze: Annotated[
        choices.Frozen | None, setting(help="backbone: only the heads learn.", panel=LEARNING, default="nothing")
    ] = None,
    batch_size: Annotated[
        int | None,
        setting("--batch-size", "-b", help="Images per update, of all processes.", panel=LEARNING, default="64"),
    ] = None,
    grad_accum_steps: Annotated[
        int | None, setting(help="Parts that a batch is computed in, to save memory.", panel=LEARNING, default="1")
    ] = None,
    learning_rate: Annotated[
        float | None,
        setting("--learning-rate", "--lr", help="At its peak.", panel=LEARNING, default="from the batch size"),
    ] = None,
    min_lr: Annotated[float | None, setting(help="At the end.", panel=LEARNING, default="1e-5")] = None,
    warmup_epochs: Annotated[
        float | None, setting(help="Until the rate is at its peak.", panel=LEARNING, default="1")
    ] = None,
    weight_decay: Annotated[float | None, setting(help="AdamW's.", panel=LEARNING, default="0.025")] = None,
    clip_grad: Annotated[
        float | None, setting(help="Longest gradient; 0 for any.", panel=LEARNING, default="1")
    ] = None,
    clip_mode: Annotated[
        choices.ClipMode | None,
        setting(help="As one vector, or unit by unit as in the paper.", panel=LEARNING, default="norm"),
    ] = None,
    ema: Annotated[
        float | None, setting(help="Decay of the weights' moving average; 0 for none.", panel=LEARNING, default="0.998")
    ] = None,
    label_smoothing: Annotated[
        float | None, setting(help="Share spread over all classes.", panel=LEARNING, default="0.1")
    ] = None,
    drop_path: Annotated[
        float | None, setting(help="Share of residual branches left out.", panel=LEARNING, default="0")
    ] = None,
    teacher: Annotated[
        str | None, setting(help="A MODEL, a torchvision name, or an ONNX file.", panel=TEACHER, metavar="TEACHER")
    ] = None,
    teacher_weights: Annotated[
        str | None, setting(help="Weights for a torchvision teacher.", panel=TEACHER, metavar="FILE")
    ] = None,
    teacher_size: Annotated[
        int | None, setting(help="Pixels a side that a torchvision teacher sees.", panel=TEACHER, metavar="PIXELS")
    ] = None,
    distill: Annotated[
        choices.Distillation | None,
        setting(help="By its best class, or its probabilities.", panel=TEACHER, default="hard"),
    ] = None,
    alpha: Annotated[
        float | None, setting(help="The teacher's share of the loss.", panel=TEACHER, default="0.5")
    ] = None,
    distill_temperature: Annotated[
        float | None, setting(help="By which soft logits are divided.", panel=TEACHER, default="1")
    ] = None,
    device: Annotated[
        choices.Device | None, setting(help="auto is a GPU where there is one.", panel=MACHINE, default="auto")
    ] = None,
    precision: Annotated[
        choices.Precision | None, setting(help="auto is bf16 where it is native.", panel=MACHINE, default="auto")
    ] = None,
    compile: Annotated[  # noqa: A002
        bool | None,
        setting(
            "--compile/--no-compile",
            help="Compile each step first: minutes at the start, then faster.",
            panel=MACHINE,
            default="no-compile",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that read images; 0 for none.", rich_help_panel=MACHINE)
    ] = 2,
    threads: options.ThreadsOption = 0,
    offline: options.OfflineOption = False,
    quiet: options.QuietOption = False,
    debug: options.DebugOption = False,
) -> Result:
    """Train a model of your own classes.

    Examples:
        levit finetune flowers/ -o runs/flowers -m levit-128S --epochs 20
        levit finetune flowers/ -o runs/flowers --teacher runs/big --distill hard
        levit finetune flowers/ -o runs/flowers --freeze backbone --image-size 160
        levit finetune flowers/ -o runs/flowers --resume
        torchrun --nproc-per-node 2 -m levit_cli finetune flowers/ -o runs/flowers
    """
    given = {name: value for name, value in locals().items() if name not in NO_SETTINGS}
    from levit_cli.finetune import start

    del debug  # the door looks at it
    return start(
        data, output, preset, config, given,
        resume=resume, overwrite=overwrite, workers=workers, threads=threads, offline=offline, quiet=quiet, log=log,
    )  # fmt: skip


NO_SETTINGS = (
    "data", "output", "preset", "config", "resume", "overwrite",
    "workers", "threads", "offline", "quiet", "debug",
)  # fmt: skip
