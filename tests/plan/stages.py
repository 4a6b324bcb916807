"""Stages and networks to be laid out, with round numbers."""

from pathlib import Path

from orchestrator.plan.facts import Activations, Network, Training
from orchestrator.plan.gpus import GIB, load_gpus
from orchestrator.plan.layout import Layout
from orchestrator.plan.timing import Cluster
from orchestrator.recipe.load import load_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage

JOBS = Path(__file__).parents[2] / "jobs"
TABLE = load_gpus()
H100 = Cluster(name="H100", gpu=TABLE["H100"], gpus_per_node=8)
BILLION = 10**9
ONE_HEAD = "train.model.heads=1"  # no clip can be shared


def debug(*overrides: str) -> Recipe:
    return load_recipe(JOBS / "sora_debug.yaml", overrides=overrides)


def dit(*overrides: str) -> Stage:
    return debug(*(f"stages.dit.{one}" for one in overrides)).stage("dit")


def facts(*, weights: int = BILLION, clip_gib: float = 1.0, flops: float = 1e13) -> Training:
    """A network of equal layers of which recomputation keeps a tenth."""
    kept = int(clip_gib * GIB)
    network = Network(
        name="denoiser",
        trained=(weights // 100,) * 100,
        frozen=0,
        activations=Activations(whole=kept, between=kept // 20, block=kept // 20),
        forward=flops,
        recomputed=flops,
    )
    return Training(networks=(network,), beside=(), clip_bytes=1000)


def layout(zero: int, *, ranks: int = 8, accumulation: int = 1) -> Layout:
    return Layout(
        ranks=ranks, zero=zero, micro_batch=1, accumulation=accumulation, checkpointing=False
    )
