"""What is minimised: the labels' loss, and with a teacher a share of the teacher's (Touvron et al. 2021, section 4).

Formulas are those of Meta's ``losses.py``: ``(1 - alpha) * CE(head, labels) + alpha * D(head_dist, teacher)``.
"""

from torch import Tensor
from torch.nn import functional as F

from levit_cli.choices import Distillation


def label_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross entropy of (B, classes) with class probabilities (B, classes) or indexes (B,)."""
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def hard_distillation(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross entropy with the teacher's best class; both (B, classes)."""
    return F.cross_entropy(logits, teacher.argmax(dim=1))


def soft_distillation(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(teacher / T || logits / T)``, divided by the number of logits, as Meta's does; both (B, classes)."""
    student, wanted = (F.log_softmax(side / temperature, dim=1) for side in (logits, teacher))
    return F.kl_div(student, wanted, reduction="sum", log_target=True) * temperature**2 / logits.numel()


def total_loss(
    heads: tuple[Tensor, ...],
    targets: Tensor,
    teacher: Tensor | None,
    *,
    smoothing: float,
    distill: Distillation,
    alpha: float,
    temperature: float,
) -> Tensor:
    """The loss of one batch.

    Args:
        heads: logits (B, classes) of one head or of both.
        teacher: its logits (B, classes); without one, every head learns the labels.
    """
    if teacher is None:
        return sum((label_loss(head, targets, smoothing) for head in heads), heads[0].new_zeros(())) / len(heads)
    head, head_dist = heads
    if distill == "hard":
        lesson = hard_distillation(head_dist, teacher)
    else:
        lesson = soft_distillation(head_dist, teacher, temperature)
    return (1 - alpha) * label_loss(head, targets, smoothing) + alpha * lesson
