"""Networks whose tokens ranks share compute what they do on one rank."""

import numpy as np
import pytest
import torch

from models.sora.dit_config import DiTConfig
from tests.models.dits import FUSIONS, fresh
from tests.numerics.gang import Gang
from tests.train.token_groups import (
    How,
    attention_of_deepspeed,
    loss_and_gradients,
    of_clips,
    of_prompts,
    sampled,
)

pytestmark = pytest.mark.slow

# Float32, each number a sum over tokens that ranks add up in another order.
TOLERANCE = 1e-5
NETWORKS = {name: one.model_copy(update={"heads": 4}) for name, one in FUSIONS.items()}
NETWORKS["given_frames"] = NETWORKS["cross"].model_copy(update={"condition_frames": True})
every_network = pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)


def assert_equal_to_one_rank(
    gang: Gang, config: DiTConfig, size: tuple[int, int, int], *, sharing: int, how: How
) -> None:
    given = {"config": config.model_dump_json(), "size": size}
    loss, gradients = of_clips(**given)
    for shared_loss, shared in gang.run(loss_and_gradients, **given, sharing=sharing, how=how):
        assert shared_loss == pytest.approx(float(loss), rel=TOLERANCE)
        assert shared.keys() == gradients.keys()
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        for name, gradient in gradients.items():
            # A small gradient is what is left of large sums, but no factor of it may be lost.
            own = 1e-3 * float(gradient.abs().max())
            torch.testing.assert_close(
                torch.from_numpy(shared[name]),
                gradient,
                rtol=0,
                atol=min(TOLERANCE * largest, own),
                msg=lambda text, name=name: f"{name}: {text}",
            )


@every_network
@pytest.mark.parametrize("sharing", [2, 4])
def test_loss_and_gradients_are_those_of_one_rank(
    gang: Gang, config: DiTConfig, sharing: int
) -> None:
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=sharing, how="plain")


@every_network
@pytest.mark.parametrize("size", [(3, 2, 2), (5, 2, 2), (1, 2, 2)], ids=["3", "5", "1"])
def test_tokens_that_do_not_split_are_padded(
    gang: Gang, config: DiTConfig, size: tuple[int, int, int]
) -> None:
    assert_equal_to_one_rank(gang, config, size, sharing=4, how="plain")


@every_network
def test_recomputed_blocks_exchange_again(gang: Gang, config: DiTConfig) -> None:
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=2, how="recomputed")


@pytest.mark.parametrize("how", ["compiled", "compiled and recomputed"])
def test_compiled_blocks_exchange_between_their_graphs(gang: Gang, how: How) -> None:
    config = NETWORKS["dual_single"]
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=2, how=how)


@pytest.mark.parametrize("sharing", [2, 4])
def test_sampled_clips_are_those_of_one_rank(gang: Gang, sharing: int) -> None:
    alone = of_prompts()
    assert np.abs(alone[0] - alone[1]).max() > 0.1
    for clips in gang.run(sampled, sharing=sharing):
        np.testing.assert_allclose(clips, alone, rtol=0, atol=TOLERANCE)


def test_attention_is_deepspeeds_over_its_groups(gang: Gang) -> None:
    for theirs, ours in gang.run(attention_of_deepspeed):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_heads_that_do_not_split_are_refused() -> None:
    class Three:
        size, index = 3, 0

    with pytest.raises(ValueError, match="heads=2, wanted a multiple of 3"):
        fresh(FUSIONS["cross"]).share_tokens(Three())  # pyright: ignore[reportArgumentType]
