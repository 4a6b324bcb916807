"""Whether gangs find a place on nodes, and what is left beside them."""

from typing import Any

import pytest

from orchestrator.cascade.room import Gang, fit, largest, least, left, missing, shortage
from orchestrator.recipe.train import Compute


def gang(workers: int, *, cpus: float = 1.0, gpus: float = 0.0) -> Gang:
    return Gang(workers=workers, needs={"CPU": cpus, "GPU": gpus})


@pytest.mark.parametrize(
    ("gangs", "nodes", "fits"),
    [
        ([gang(1), gang(1)], [{"CPU": 2.0}], True),
        ([gang(1), gang(2)], [{"CPU": 2.0}], False),
        ([gang(1, cpus=2)], [{"CPU": 1.0}, {"CPU": 1.0}], False),  # no worker is cut in two
        ([gang(2), gang(1, cpus=3)], [{"CPU": 3.0}, {"CPU": 2.0}], True),
        ([gang(1, gpus=1)], [{"CPU": 4.0}], False),
        ([gang(3), gang(2, gpus=1)], [{"CPU": 2.0, "GPU": 2.0}, {"CPU": 3.0}], True),
    ],
)
def test_workers_are_placed_whole(gangs: Any, nodes: Any, fits: bool) -> None:
    assert fit(gangs, nodes=nodes) is fits


def test_an_elastic_stage_starts_small_and_has_no_claim_to_grow() -> None:
    elastic = Compute(workers=3, min_workers=1)
    assert least(elastic).workers == 1
    assert missing(elastic, placed=0).workers == 3  # it is about to take all that it may
    assert missing(elastic, placed=1).workers == 0
    assert missing(elastic, placed=3).workers == 0


def test_the_largest_gang_is_of_a_legal_size_and_whole_workers() -> None:
    needs = {"CPU": 2.0, "GPU": 0.0}
    nodes = [{"CPU": 5.0}, {"CPU": 3.0, "GPU": 1.0}, {"CPU": 1.0}]  # two, one and no worker
    assert largest((1, 2, 4), needs=needs, nodes=nodes) == 2
    assert largest((3, 4), needs=needs, nodes=nodes) == 3
    assert largest((4,), needs=needs, nodes=nodes) is None
    assert largest((1,), needs=needs | {"GPU": 1.0}, nodes=nodes) == 1


def test_what_two_nodes_have_left_is_not_room_for_one_worker() -> None:
    small = Compute(workers=1)
    still = [missing(small, placed=1), missing(small, placed=1)]  # one on each node of two CPUs
    assert not fit([*still, gang(1, cpus=2)], nodes=[{"CPU": 1.0}, {"CPU": 1.0}])
    assert fit([*still, gang(2)], nodes=[{"CPU": 1.0}, {"CPU": 1.0}])


def test_a_gang_that_lost_a_node_holds_up_no_stage_that_it_has_no_use_for() -> None:
    lost = [missing(Compute(workers=2, gpus_per_worker=1), placed=0)]
    nodes = [{"CPU": 8.0, "GPU": 1.0}]  # the other node is gone
    assert not fit(lost, nodes=nodes)
    assert fit([gang(7)], nodes=left(lost, nodes=nodes))
    assert not fit([gang(8)], nodes=left(lost, nodes=nodes))  # one worker's place is kept
    assert not fit([gang(1, gpus=1)], nodes=left(lost, nodes=nodes))


def test_a_shortage_says_what_is_needed_and_what_there_is() -> None:
    compute = Compute(workers=2, gpus_per_worker=1, cpus_per_worker=4)
    assert shortage(compute, nodes=[{"CPU": 2.0, "memory": 9.0}, {"CPU": 8.0, "GPU": 1.0}]) == (
        "needs 2 workers with 4 CPU, 1 GPU each on one node, the nodes have: 2 CPU; 8 CPU, 1 GPU"
    )
