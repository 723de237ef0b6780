"""``levit finetune``: train a model on your own classes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from levit_cli import choices
from levit_cli.cli import options
from levit_cli.cli.errors import handle_errors
from levit_cli.errors import ExitCode
from levit_cli.system.progress import log as log_line
from levit_cli.system.progress import shows_progress, silent

RUN, IMAGES, TRAINING, TEACHER, DEVICE, GENERAL = "Run", "Images", "Training", "Teacher", "Device", "General"


def setting(*names: str, help: str, panel: str, default: str = "", **more: Any) -> Any:  # noqa: A002
    """Return an option of ``Settings``; without it, the preset, ``--config`` or the resumed run decides.

    Args:
        default: the default of the preset ``small``, for the help text only.
    """
    help = f"{help} [default: {default}]" if default else help  # noqa: A001
    return typer.Option(*names, help=help, rich_help_panel=panel, show_default=False, **more)


@handle_errors
def finetune(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            rich_help_panel=RUN,
            help="Run folder to write. Pass it as MODEL to other commands to use the best epoch.",
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="FOLDER",
            show_default=False,
            help="A folder with one folder of images per class, or with train/ and val/ folders of this layout. "
            "Or a .tar or .zip archive of such a folder, or a .csv file with the columns path and label. "
            "With --resume it is needed only if the images were moved.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        setting(
            "--model",
            "-m",
            metavar="MODEL",
            help="MODEL to start from. [env var: LEVIT_MODEL]",
            panel=RUN,
            default="levit-256",
        ),
    ] = None,
    from_scratch: Annotated[
        str | None,
        setting(
            help="Start from random weights: a variant (levit-128S … levit-384), or a config.json with other widths.",
            panel=RUN,
            metavar="VARIANT",
        ),
    ] = None,
    preset: Annotated[
        choices.Preset | None,
        setting(help="Default settings: for small data sets, or the paper's.", panel=RUN, default="small"),
    ] = None,
    config: Annotated[
        Path | None,
        setting(help="Settings from the config.toml of a run; options override it.", panel=RUN, metavar="FILE"),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in -o with its settings.", rich_help_panel=RUN)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run in -o if there is one.", rich_help_panel=RUN)
    ] = False,
    epochs: Annotated[int | None, setting(help="Number of epochs.", panel=RUN, default="20", metavar="N")] = None,
    seed: Annotated[int | None, setting(help="Random seed.", panel=RUN, default="0", metavar="N")] = None,
    image_size: Annotated[
        str | None,
        setting(
            help="Image size in pixels; the attention biases are interpolated to it.",
            panel=IMAGES,
            metavar="N|HxW",
            default="the model's",
        ),
    ] = None,
    resize_to: Annotated[
        int | None,
        setting(
            help="Shortest edge before the center crop, in validation and prediction.",
            panel=IMAGES,
            metavar="PIXELS",
            default="256/224 of the image size",
        ),
    ] = None,
    val_split: Annotated[
        float | None,
        setting(
            help="Fraction of each class to validate on if there is no val/ folder.",
            panel=IMAGES,
            default="0.1",
            metavar="X",
        ),
    ] = None,
    max_unreadable: Annotated[
        str | None,
        setting(
            help="Largest accepted fraction of unreadable images. They are skipped and listed in unreadable.tsv.",
            panel=IMAGES,
            metavar="FRACTION|N%",
            default="1%",
        ),
    ] = None,
    crop_scale: Annotated[
        float | None,
        setting(
            help="Smallest fraction of an image's area in a random crop.", panel=IMAGES, default="0.35", metavar="X"
        ),
    ] = None,
    flip: Annotated[
        bool | None, setting("--flip/--no-flip", help="Mirror images at random.", panel=IMAGES, default="flip")
    ] = None,
    rand_augment: Annotated[
        int | None,
        setting(help="RandAugment magnitude, up to 30; 0 disables it.", panel=IMAGES, default="0", metavar="N"),
    ] = None,
    mixup: Annotated[
        float | None, setting(help="Mixup alpha; 0 disables it.", panel=IMAGES, default="0", metavar="X")
    ] = None,
    cutmix: Annotated[
        float | None, setting(help="CutMix alpha; 0 disables it.", panel=IMAGES, default="0", metavar="X")
    ] = None,
    erasing: Annotated[
        float | None, setting(help="Random erasing probability.", panel=IMAGES, default="0", metavar="X")
    ] = None,
    repeated_augmentation: Annotated[
        int | None,
        setting(help="Number of augmented copies of each image in an epoch.", panel=IMAGES, default="1", metavar="N"),
    ] = None,
    sampler: Annotated[
        choices.Sampler | None,
        setting(
            help="balanced draws as many images of each class in an epoch; for classes of different sizes.",
            panel=IMAGES,
            default="random",
        ),
    ] = None,
    class_weights: Annotated[
        choices.ClassWeights | None,
        setting(
            help="balanced multiplies the losses of an image with a weight that is larger for rarer classes.",
            panel=TRAINING,
            default="none",
        ),
    ] = None,
    best_metric: Annotated[
        choices.BestMetric | None,
        setting(
            help="Metric on the validation images that decides which epoch is kept.", panel=TRAINING, default="top1"
        ),
    ] = None,
    patience: Annotated[
        int | None,
        setting(
            help="Stop after this number of epochs without a better one; 0 trains all epochs.",
            panel=TRAINING,
            default="0",
            metavar="N",
        ),
    ] = None,
    freeze: Annotated[
        choices.Frozen | None,
        setting(
            help="Weights that are not trained; backbone trains only the heads' linear layers.",
            panel=TRAINING,
            default="nothing",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        setting(
            "--batch-size", "-b", help="Images per step, over all processes.", panel=TRAINING, default="64", metavar="N"
        ),
    ] = None,
    grad_accum_steps: Annotated[
        int | None,
        setting(
            help="Gradient accumulation: compute a batch in this number of parts, which saves memory.",
            panel=TRAINING,
            default="1",
            metavar="N",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        setting(
            "--learning-rate",
            "--lr",
            help="Peak learning rate.",
            panel=TRAINING,
            default="depends on the batch size",
            metavar="X",
        ),
    ] = None,
    min_lr: Annotated[
        float | None, setting(help="Final learning rate.", panel=TRAINING, default="1e-5", metavar="X")
    ] = None,
    warmup_epochs: Annotated[
        float | None, setting(help="Epochs of linear learning-rate warm-up.", panel=TRAINING, default="1", metavar="X")
    ] = None,
    weight_decay: Annotated[
        float | None, setting(help="AdamW weight decay.", panel=TRAINING, default="0.025", metavar="X")
    ] = None,
    clip_grad: Annotated[
        float | None,
        setting(help="Maximum gradient norm; 0 disables clipping.", panel=TRAINING, default="1", metavar="X"),
    ] = None,
    clip_mode: Annotated[
        choices.ClipMode | None,
        setting(
            help="norm clips all gradients together; agc, the paper's way, clips each unit relative to its weights.",
            panel=TRAINING,
            default="norm",
        ),
    ] = None,
    ema: Annotated[
        float | None,
        setting(
            help="Decay of the moving average of the weights; 0 disables it.",
            panel=TRAINING,
            default="0.998",
            metavar="X",
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, setting(help="Label smoothing.", panel=TRAINING, default="0.1", metavar="X")
    ] = None,
    drop_path: Annotated[
        float | None, setting(help="Stochastic depth rate.", panel=TRAINING, default="0", metavar="X")
    ] = None,
    teacher: Annotated[
        str | None,
        setting(
            help="Teacher for distillation: a MODEL, a torchvision network's name, or an ONNX file.",
            panel=TEACHER,
            metavar="TEACHER",
        ),
    ] = None,
    teacher_weights: Annotated[
        str | None, setting(help="Weights file of a torchvision teacher.", panel=TEACHER, metavar="FILE")
    ] = None,
    teacher_size: Annotated[
        int | None,
        setting(
            help="Image size of a torchvision teacher.",
            panel=TEACHER,
            metavar="PIXELS",
            default="the student's; 224 with ImageNet weights",
        ),
    ] = None,
    distill: Annotated[
        choices.Distillation | None,
        setting(
            help="Train with the class that the teacher predicts (hard) or with its probabilities (soft).",
            panel=TEACHER,
            default="hard",
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        setting(help="Weight of the distillation loss, from 0 to 1.", panel=TEACHER, default="0.5", metavar="X"),
    ] = None,
    distill_temperature: Annotated[
        float | None, setting(help="Softmax temperature for --distill soft.", panel=TEACHER, default="1", metavar="X")
    ] = None,
    device: Annotated[
        choices.Device | None,
        setting(
            help="Device to train on; auto is the GPU if there is one. [env var: LEVIT_DEVICE]",
            panel=DEVICE,
            default="auto",
        ),
    ] = None,
    precision: Annotated[
        choices.Precision | None,
        setting(
            help="Autocast precision; auto is bf16 if the device supports it, else fp16 (GPU) or fp32 (CPU).",
            panel=DEVICE,
            default="auto",
        ),
    ] = None,
    compile: Annotated[  # noqa: A002
        bool | None,
        setting(
            "--compile/--no-compile",
            panel=DEVICE,
            default="no-compile",
            help="Compile the training step, which takes a minute or two and needs a C++ compiler.",
        ),
    ] = None,
    log: Annotated[
        choices.TrainingLog | None,
        setting(
            help="tensorboard also logs the metrics of each epoch in the run folder's tensorboard/.",
            panel=RUN,
            default="none",
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            rich_help_panel=DEVICE,
            help="Data-loader worker processes; 0 loads the images in the training process.",
        ),
    ] = 2,
    threads: Annotated[
        int,
        typer.Option(
            min=0,
            rich_help_panel=DEVICE,
            metavar="N",
            help="CPU threads for training. 0 uses all available threads.",
        ),
    ] = 0,
    offline: options.OfflineOption = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", rich_help_panel=GENERAL, help="Print nothing but errors.")
    ] = False,
    debug: options.DebugOption = False,
) -> ExitCode:
    """Train a model on your own classes.

    Examples:
        levit finetune flowers/ -o runs/flowers -m levit-128S --epochs 20
        levit finetune flowers/ -o runs/flowers --teacher runs/big --distill hard
        levit finetune flowers/ -o runs/flowers --freeze backbone --image-size 160
        levit finetune flowers/ -o runs/a --class-weights balanced --patience 5
        levit finetune -o runs/flowers --resume
        torchrun --nproc-per-node 2 -m levit_cli finetune flowers/ -o runs/flowers
    """
    given = {name: value for name, value in locals().items() if name not in NO_SETTINGS}
    from levit_cli.finetune import start
    from levit_cli.finetune.settings import FinetuneRequest, Runtime
    from levit_cli.system.output import silence_native_stderr

    if not debug:
        silence_native_stderr()  # of libtiff, torch and OpenVINO
    request = FinetuneRequest(data, output, preset, config, given, resume=resume, overwrite=overwrite)
    return start(
        request,
        Runtime(workers, threads, offline=offline, shows_progress=shows_progress(quiet=quiet)),
        silent if quiet else log_line,
    )


NO_SETTINGS = {
    *("data", "output", "preset", "config", "resume", "overwrite"),
    *("workers", "threads", "offline", "quiet", "debug"),
}
