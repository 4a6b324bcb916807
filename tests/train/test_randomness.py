"""What a clip draws depends on its global slot, never on who trains it."""

import itertools

import torch

from orchestrator.train.randomness import SlotRandom, happens_at, seed_of


def draws(slots: list[int], *, step: int = 5) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    random = SlotRandom(slots, seed=1, stage="dit", step=step)
    return random.uniform(), random.normal((2, 3)), random.choice([4] * len(slots))


def test_a_slot_draws_the_same_on_any_rank() -> None:
    whole = draws([0, 1, 2, 3])
    for rank in range(2):
        part = draws([rank, rank + 2])
        for full, own in zip(whole[:2], part[:2], strict=True):
            assert torch.equal(full[rank::2], own)
        assert whole[2][rank::2] == part[2]


def test_steps_and_slots_draw_differently() -> None:
    uniform, normal, _ = draws(list(range(64)))
    assert len(set(uniform.tolist())) == 64
    assert not torch.equal(normal, draws(list(range(64)), step=6)[1])


def test_normal_draws_are_standard() -> None:
    noise = SlotRandom(range(64), seed=0, stage="s", step=0).normal((1000,))
    # 64,000 draws: the mean's deviation is 0.004, the variance's 0.006; five of each allowed.
    assert abs(noise.mean().item()) < 0.02
    assert abs(noise.var().item() - 1) < 0.03


def test_seeds_are_the_same_everywhere() -> None:
    assert seed_of(0, "dit", 1, 2) == 4771040662071168690
    assert seed_of(0, "dit", 1, 2) != seed_of(0, "dit", 12)


def test_shares_are_spread_evenly() -> None:
    taken = [happens_at(step, share=0.25) for step in range(100)]
    assert sum(taken) == 25
    assert not any(a and b for a, b in itertools.pairwise(taken))
    assert not any(happens_at(step, share=0.0) for step in range(10))
    assert all(happens_at(step, share=1.0) for step in range(10))
