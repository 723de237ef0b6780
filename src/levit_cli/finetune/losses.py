"""The training loss: cross entropy with the labels, plus a distillation loss if there is a teacher.

Distillation is described by Touvron et al. 2021, section 4. The formulas are those of Meta's ``losses.py``:
``(1 - alpha) * CE(head, labels) + alpha * D(head_dist, teacher)``.
"""

from torch import Tensor
from torch.nn import functional as F

from levit_cli.choices import Distillation


def label_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the cross entropy of logits (B, classes) with class probabilities (B, classes) or indices (B,)."""
    return F.cross_entropy(logits, targets, label_smoothing=smoothing)


def hard_distillation(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the cross entropy with the class that the teacher predicts; both (B, classes)."""
    return F.cross_entropy(logits, teacher_logits.argmax(dim=1))


def soft_distillation(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return ``T^2 KL(teacher / T || logits / T)`` divided by the number of logits, as Meta does; both (B, classes)."""
    log_probs, teacher_log_probs = (F.log_softmax(side / temperature, dim=1) for side in (logits, teacher_logits))
    divergence = F.kl_div(log_probs, teacher_log_probs, reduction="sum", log_target=True)
    return divergence * temperature**2 / logits.numel()


def total_loss(
    heads: tuple[Tensor, ...],
    targets: Tensor,
    teacher_logits: Tensor | None,
    *,
    smoothing: float,
    distill: Distillation,
    alpha: float,
    temperature: float,
) -> Tensor:
    """Return the loss of one batch.

    Args:
        heads: logits (B, classes) of one head or of both.
        teacher_logits: (B, classes); None trains every head with the labels.
    """
    if teacher_logits is None:
        return sum((label_loss(head, targets, smoothing) for head in heads), heads[0].new_zeros(())) / len(heads)
    head, head_dist = heads
    if distill == "hard":
        distillation = hard_distillation(head_dist, teacher_logits)
    else:
        distillation = soft_distillation(head_dist, teacher_logits, temperature)
    return (1 - alpha) * label_loss(head, targets, smoothing) + alpha * distillation
