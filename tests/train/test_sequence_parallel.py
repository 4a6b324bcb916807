"""Ranks that share the tokens of a clip compute what one rank does."""

from collections.abc import Iterator
from contextlib import closing

import pytest
import torch

from models.sora.dit_config import DiTConfig
from tests.models.dits import FUSIONS
from tests.numerics.gang import Gang
from tests.train.token_groups import loss_and_gradients, of_clips

pytestmark = pytest.mark.slow

RANKS = 4
# Float32, each number a sum over tokens that ranks add up in another order.
TOLERANCE = 1e-5
NETWORKS = {name: one.model_copy(update={"heads": 4}) for name, one in FUSIONS.items()}
NETWORKS["given_frames"] = NETWORKS["cross"].model_copy(update={"condition_frames": True})
every_network = pytest.mark.parametrize("config", NETWORKS.values(), ids=NETWORKS)


@pytest.fixture(scope="module")
def gang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gang]:
    with closing(Gang(world_size=RANKS, folder=tmp_path_factory.mktemp("group"))) as gang:
        yield gang


def assert_equal_to_one_rank(
    gang: Gang, config: DiTConfig, size: tuple[int, int, int], *, sharing: int, recompute: bool
) -> None:
    given = {"config": config.model_dump_json(), "size": size}
    loss, gradients = of_clips(**given)
    for shared_loss, shared in gang.run(
        loss_and_gradients, **given, sharing=sharing, recompute=recompute
    ):
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
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=sharing, recompute=False)


@every_network
@pytest.mark.parametrize("size", [(3, 2, 2), (5, 2, 2), (1, 2, 2)], ids=["3", "5", "1"])
def test_tokens_that_do_not_split_are_padded(
    gang: Gang, config: DiTConfig, size: tuple[int, int, int]
) -> None:
    assert_equal_to_one_rank(gang, config, size, sharing=4, recompute=False)


@every_network
def test_recomputed_blocks_exchange_again(gang: Gang, config: DiTConfig) -> None:
    assert_equal_to_one_rank(gang, config, (2, 4, 4), sharing=2, recompute=True)
