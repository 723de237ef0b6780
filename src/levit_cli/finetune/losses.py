"""The training loss: cross entropy with the labels, plus a distillation loss if there is a teacher.

Distillation is described by Touvron et al. 2021, section 4. The formulas are those of Meta's ``losses.py``:
``(1 - alpha) * CE(head, labels) + alpha * D(head_dist, teacher)``.
"""

from torch import Tensor
from torch.nn import functional as F

from levit_cli.choices import Distillation


def label_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Return the cross entropy of logits (B, classes) with class probabilities (B, classes) or indices (B,)."""
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    return (F.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none") * weights).mean()


def hard_distillation(logits: Tensor, teacher_logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross entropy with the class that the teacher predicts; both (B, classes)."""
    return label_loss(logits, teacher_logits.argmax(dim=1), weights=weights)


def soft_distillation(
    logits: Tensor, teacher_logits: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """Return ``T^2 KL(teacher / T || logits / T)`` divided by the number of logits, as Meta does; both (B, classes)."""
    log_probs, teacher_log_probs = (F.log_softmax(side / temperature, dim=1) for side in (logits, teacher_logits))
    if weights is None:
        divergence = F.kl_div(log_probs, teacher_log_probs, reduction="sum", log_target=True)
    else:
        by_class = F.kl_div(log_probs, teacher_log_probs, reduction="none", log_target=True)
        divergence = (by_class.sum(dim=1) * weights).sum()
    return divergence * temperature**2 / logits.numel()


def balanced_class_weights(images_by_class: Tensor) -> Tensor:
    """Return ``n / (k n_c)`` for each class c: n images in k classes, n_c of them in c.

    Over all training images, the mean weight is 1, and each class has the same total weight.

    Args:
        images_by_class: (classes,) numbers of training images, at least 1.
    """
    return images_by_class.sum() / (len(images_by_class) * images_by_class.float())


def image_weights(class_weights: Tensor, targets: Tensor) -> Tensor:
    """Return the weight of each image (B,): that of its class, or the mean over the classes of a mixed image.

    Args:
        targets: class indices (B,), or class probabilities (B, classes) of mixed images.
    """
    return class_weights[targets] if targets.ndim == 1 else targets @ class_weights


def total_loss(
    heads: tuple[Tensor, ...],
    targets: Tensor,
    teacher_logits: Tensor | None,
    *,
    smoothing: float,
    distill: Distillation,
    alpha: float,
    temperature: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the loss of one batch.

    Args:
        heads: logits (B, classes) of one head or of both.
        teacher_logits: (B, classes); None trains every head with the labels.
        weights: (B,) factors of the images' losses, those of the labels and of the teacher; None for 1.
    """
    if teacher_logits is None:
        losses = (label_loss(head, targets, smoothing, weights) for head in heads)
        return sum(losses, heads[0].new_zeros(())) / len(heads)
    head, head_dist = heads
    if distill == "hard":
        distillation = hard_distillation(head_dist, teacher_logits, weights)
    else:
        distillation = soft_distillation(head_dist, teacher_logits, temperature, weights)
    return (1 - alpha) * label_loss(head, targets, smoothing, weights) + alpha * distillation
