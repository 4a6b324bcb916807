"""The evaluate stage: what a run is worth on prompts and clips that no network has seen."""

import torch

from orchestrator.errors import StoppedError
from orchestrator.storage.store import open_store
from orchestrator.train.evaluation.digits import evaluate_digits
from orchestrator.train.evaluation.prior import evaluate_prior
from orchestrator.train.evaluation.report import COUNT, Report
from orchestrator.train.evaluation.upsamplers import evaluate_upsamplers
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob, StageResult


def evaluate_stage(job: StageJob, *, hooks: Hooks) -> StageResult:
    """Evaluates as a part of a run; what a stop cuts short leaves nothing behind."""
    try:
        report = evaluate(job, hooks=hooks)
    except StoppedError:
        return StageResult(status="stopped", step=0)
    return StageResult(status="done", step=int(report[COUNT]))


def evaluate(job: StageJob, *, hooks: Hooks) -> Report:
    """Measures the stage's metric, writes report.json and pictures, and returns the report.

    Raises:
        UserError: if what it evaluates has not finished.
        StoppedError: if the hooks ask for it.
    """
    spec = job.spec.evaluate
    assert spec is not None
    compute = job.spec.compute
    torch.set_num_threads(compute.cpus_per_worker)
    store = open_store(job.run)
    device = torch.device("cuda" if compute.gpus_per_worker else "cpu")
    match spec.metric:
        case "digits":
            return evaluate_digits(job, store=store, hooks=hooks, device=device)
        case "upsamplers":
            return evaluate_upsamplers(job, store=store, hooks=hooks, device=device)
        case "prior":
            return evaluate_prior(job, store=store, hooks=hooks, device=device)
