"""The losses, compared with Meta's formulas on fixed tensors."""

import pytest
import torch
from torch import Tensor

from levit_cli.finetune.losses import (
    balanced_class_weights,
    hard_distillation,
    image_weights,
    label_loss,
    soft_distillation,
    total_loss,
)


@pytest.fixture
def tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The logits (6, 5) of both heads and of the teacher, and class indices (6,)."""
    generator = torch.Generator().manual_seed(0)
    head, head_dist, teacher = (3 * torch.randn(6, 5, generator=generator) for _ in range(3))
    return head, head_dist, teacher, torch.tensor([0, 4, 2, 2, 1, 3])


def test_hard_distillation_is_cross_entropy_with_the_teachers_prediction(tensors: tuple[Tensor, ...]) -> None:
    _, student, teacher, _ = tensors
    predicted = teacher.argmax(dim=1)
    expected = -student.log_softmax(1)[torch.arange(6), predicted].mean()
    assert hard_distillation(student, teacher).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_distillation_is_metas_formula(tensors: tuple[Tensor, ...], temperature: float) -> None:
    _, student, teacher, _ = tensors
    p = (teacher / temperature).softmax(1)
    divergence = (p * (p.log() - (student / temperature).log_softmax(1))).sum()
    expected = divergence * temperature**2 / student.numel()
    assert soft_distillation(student, teacher, temperature).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("distill", ["hard", "soft"])
def test_alpha_weights_the_distillation_loss(tensors: tuple[Tensor, ...], distill: str) -> None:
    head, head_dist, teacher, targets = tensors
    loss = total_loss(
        (head, head_dist), targets, teacher,
        smoothing=0.1, distill=distill, alpha=0.3, temperature=2.0,  # type: ignore[arg-type]
    )  # fmt: skip
    distillation = (
        hard_distillation(head_dist, teacher) if distill == "hard" else soft_distillation(head_dist, teacher, 2.0)
    )
    torch.testing.assert_close(loss, 0.7 * label_loss(head, targets, 0.1) + 0.3 * distillation)


def test_without_a_teacher_both_heads_are_trained_with_the_labels(tensors: tuple[Tensor, ...]) -> None:
    head, head_dist, _, targets = tensors
    loss = total_loss((head, head_dist), targets, None, smoothing=0.0, distill="hard", alpha=0.5, temperature=1.0)
    torch.testing.assert_close(loss, (label_loss(head, targets) + label_loss(head_dist, targets)) / 2)


def test_label_loss_accepts_class_probabilities(tensors: tuple[Tensor, ...]) -> None:
    head, _, _, targets = tensors
    one_hot = torch.nn.functional.one_hot(targets, 5).float()
    torch.testing.assert_close(label_loss(head, one_hot, 0.1), label_loss(head, targets, 0.1))


def test_balanced_weights_give_each_class_the_same_total_weight_and_a_mean_of_one() -> None:
    counts = torch.tensor([60, 30, 10])
    weights = balanced_class_weights(counts)
    torch.testing.assert_close(weights, torch.tensor([100 / 180, 100 / 90, 100 / 30]))
    torch.testing.assert_close(weights * counts, torch.full((3,), 100 / 3))


def test_a_mixed_image_has_the_mixed_weight() -> None:
    weights = torch.tensor([0.5, 1.0, 4.0])
    torch.testing.assert_close(image_weights(weights, torch.tensor([2, 0])), torch.tensor([4.0, 0.5]))
    mixed = torch.tensor([[0.25, 0.0, 0.75], [1.0, 0.0, 0.0]])
    torch.testing.assert_close(image_weights(weights, mixed), torch.tensor([3.125, 0.5]))


@pytest.mark.parametrize("distill", [None, "hard", "soft"])
def test_weights_multiply_the_losses_of_each_image(tensors: tuple[Tensor, ...], distill: str | None) -> None:
    head, head_dist, teacher, targets = tensors
    weights = torch.tensor([0.5, 2.0, 1.0, 1.0, 3.0, 0.25])

    def loss(rows: slice, weights: Tensor | None) -> Tensor:
        return total_loss(
            (head[rows], head_dist[rows]), targets[rows], None if distill is None else teacher[rows],
            smoothing=0.1, distill=distill or "hard", alpha=0.3, temperature=2.0, weights=weights,  # type: ignore[arg-type]
        )  # fmt: skip

    of_images = torch.stack([loss(slice(row, row + 1), None) for row in range(6)])
    torch.testing.assert_close(loss(slice(None), weights), (weights * of_images).mean())
    torch.testing.assert_close(loss(slice(None), torch.ones(6)), loss(slice(None), None))
