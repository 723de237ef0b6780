import pytest

from levit_cli.bench.paper import CLAIMS, PUBLISHED, Claim
from levit_cli.model.config import VARIANTS
from levit_cli.model.tensors import count_parameters


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_counts_match_the_published_sizes(variant: str) -> None:
    published, config = PUBLISHED[variant], VARIANTS[variant]
    assert config.image_size == (published.image_size, published.image_size)
    assert count_parameters(config) / 1e6 == pytest.approx(published.params_m, abs=0.06)
    assert config.macs / 1e6 == pytest.approx(published.macs_m, rel=0.01)


PUBLISHED_RATIOS = (4.94, 7.27, 4.36, 4.69, 9.42, 3.35, 1.68)


@pytest.mark.parametrize(("claim", "ratio"), list(zip(CLAIMS, PUBLISHED_RATIOS, strict=True)), ids=str)
def test_a_claims_ratio_is_that_of_the_published_speeds(claim: Claim, ratio: float) -> None:
    assert claim.xeon_ratio == pytest.approx(ratio, abs=0.005)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.fast)
def test_a_claim_compares_models_of_similar_accuracy(claim: Claim) -> None:
    assert PUBLISHED[claim.fast].top1 == pytest.approx(PUBLISHED[claim.slow].top1, abs=0.6)
