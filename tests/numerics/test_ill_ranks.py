"""One rank's losses send all of them back, and another number of ranks goes on from there.

Tolerance: as in test_recipe_curves.py, for the same reason.
"""

import json
from pathlib import Path

import pytest
import torch.distributed as dist

from orchestrator.data.sources import ensure_sources
from orchestrator.train.worker import run
from tests.numerics import ill_stages
from tests.numerics.gang import Gang
from tests.numerics.test_recipe_curves import RELATIVE
from tests.tiny import tiny_recipe
from tests.train.ill import curve, evidence, ill, ill_job, leave_out
from tests.train.workers import Recorded

BAD = [3, 4]  # positions
BUDGET = {"budget": 1, "window": 6}


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_one_ranks_loss_sends_all_back_and_another_world_size_goes_on(
    gangs: dict[int, Gang], tmp_path: Path, zero: int
) -> None:
    ensure_sources(tiny_recipe(tmp_path), on_clips=lambda *_: None)
    job = ill_job(tmp_path, run_name="run", steps=8, workers=2, zero=zero, **BUDGET)
    seen = gangs[2].run(
        ill_stages.train_ill, job=job.model_dump_json(), positions=BAD, rank=1, stop_after=7
    )
    # Five steps, of which the last two are refused; back to the checkpoint of step 2; two more.
    assert seen == [(4, [0, 1, 2, 3, 4, 2, 5])] * 2
    first, second, back = evidence(job)
    assert [one["losses"][1]["autoencoder"] for one in (first, second)] == ["nan", "nan"]
    assert isinstance(first["losses"][0]["autoencoder"], float)
    assert [len(keys) for keys in first["keys"]] == [2, 2]
    assert (back["to"], back["positions"]) == (2, BAD)

    alone = ill_job(tmp_path, run_name="run", steps=8, **BUDGET)
    straight = ill_job(tmp_path, run_name="straight", steps=8, **BUDGET)
    leave_out(straight, BAD, rewinds=1)
    try:
        with ill() as read:
            assert run(alone, hooks=Recorded()).status == "done"
            assert run(straight, hooks=Recorded()).status == "done"
    finally:
        dist.destroy_process_group()
    assert read == [6, 7, 8, 9, 0, 1, 2, 5, 6, 7, 8, 9]
    state = json.loads((Path(job.run) / job.folder / "health.json").read_text())
    assert state == {"rewinds": 1, "left_out": BAD}
    for ours, theirs in zip(curve(alone), curve(straight), strict=True):
        # The critic's mean is near zero: the error is that of the values of about 1 in it.
        assert ours == pytest.approx(theirs, rel=RELATIVE, abs=1e-7)
