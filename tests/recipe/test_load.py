"""A recipe is read strictly, and what is wrong with it is said in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from orchestrator.errors import UserError
from orchestrator.plan.graph import input_digest, stage_graph
from orchestrator.recipe.digest import recipe_digest, recipe_identity
from orchestrator.recipe.load import load_recipe

JOBS = Path(__file__).parents[2] / "jobs"
DEBUG = JOBS / "sora_debug.yaml"


@pytest.fixture
def recipe_file(tmp_path: Path):
    def write(**changes: object) -> Path:
        tree = yaml.safe_load(DEBUG.read_text())
        tree.update(changes)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return write


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_loads(path: Path) -> None:
    recipe = load_recipe(path)
    assert list(stage_graph(recipe)) == [stage.id for stage in recipe.stages]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.dit.train.stepz=3", "stages.dit.train.stepz: unknown key"),
        ("stages.dit.train.steps=0", "stages.dit.train.steps=0: Input should be greater than 0"),
        (
            "stages.dit.save.every_steps=often",
            "stages.dit.save.every_steps: seen often, wanted a number of steps from 1 on, or auto",
        ),
        ("stages.dit.save.every_steps=0", "seen 0, wanted a number of steps from 1 on, or auto"),
        ("stages.dit.train.batch=24", "train.batch=24 is not a multiple of micro_batch*workers"),
        ("stages.dit.train.clip.frames=10", "clip.frames=10 does not fit 4k+1"),
        ("stages.autoencoder.train.clip.frames=8", "clip.frames=8 does not fit 4k+1"),
        ("stages.dit.train.clip.size=[32,36]", "has 36, wanted multiples of 8"),
        ("stages.dit.latents=autoencoder", "stages.dit.latents=autoencoder, wanted an encode"),
        ("stages.dit.starts_from=encode", "wanted a stage that trains a DiTConfig"),
        ("stages.dit.starts_from=autoencoder", "wanted a stage that trains a DiTConfig"),
        ("stages.dit.train.model.patch=[3,1,1]", "wanted patch[0]=1 or image_share=0"),
        ("stages.encode.encode.autoencoder=nobody", "stages.encode needs nobody"),
        ("stages.dit.train.objective.kind=kl", "stages.dit.train.objective"),
        (
            "stages.dit.train.objective={kind: x0, learned_variance: true}",
            "learned_variance=true does not fit model.kind=video_dit",
        ),
        (
            "stages.dit.train.sampler.threshold=dynamic",
            "sampler.threshold=dynamic does not fit model.kind=video_dit",
        ),
        (
            "stages.autoencoder.train.objective.perceptual={path: no.safetensors}",
            "stages.autoencoder.train.objective.perceptual.path=no.safetensors does not exist",
        ),
        ("stages.dit.train.condition_share=0.5", "needs model.condition_frames=true"),
        (
            "stages.nobody.save.keep=1",
            "no nobody, wanted one of autoencoder, encode, dit, evaluate",
        ),
        ("version=2", "version=2"),
        ("novalue", "--set novalue: wanted KEY=VALUE"),
    ],
)
def test_a_wrong_field_is_one_line(override: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        load_recipe(DEBUG, overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "&a {a: *a}"])
def test_a_file_that_is_no_recipe_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"broken\.yaml") as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_overrides_reach_stages_by_id() -> None:
    recipe = load_recipe(DEBUG, overrides=["stages.dit.train.steps=7", "seed=3"])
    train = recipe.stage("dit").train
    assert train is not None
    assert (train.steps, recipe.seed) == (7, 3)


def test_an_override_leaves_stages_alone_that_share_an_anchor() -> None:
    path, key = JOBS / "make_a_video_digits.yaml", "stages.interpolation.train.optim.lr"
    plain, changed = load_recipe(path), load_recipe(path, overrides=[f"{key}=0.5"])
    for before, after in zip(plain.stages, changed.stages, strict=True):
        if before.id == "interpolation":
            assert after.training.optim.lr == 0.5
        else:
            assert after == before


def test_accumulation_is_derived() -> None:
    recipe = load_recipe(
        DEBUG, overrides=["stages.dit.train.batch=64", "stages.dit.train.micro_batch=8"]
    )
    assert recipe.stage("dit").accumulation(ranks=2) == 4


def test_moving_a_run_keeps_its_digest() -> None:
    here = load_recipe(DEBUG)
    moved = load_recipe(
        DEBUG,
        overrides=[
            "runs=s3://bucket/runs",
            "stages.dit.compute.zero=3",
            "stages.dit.train.health.spike_factor=null",
            "data.train.uri=s3://b/d",
        ],
    )
    other = load_recipe(DEBUG, overrides=["stages.dit.train.optim.lr=0.5"])
    assert recipe_digest(here) == recipe_digest(moved)
    assert recipe_digest(here) != recipe_digest(other)


def test_a_price_changes_what_is_shown_and_nothing_else() -> None:
    plain = load_recipe(DEBUG)
    priced = load_recipe(DEBUG, overrides=["price={cpu_hour: 0.05, gpu_hour: 2}"])
    assert priced.price is not None
    assert priced.price.rank_hour(plain.stage("dit").compute) == 0.05
    gpu = load_recipe(DEBUG, overrides=["stages.dit.compute={gpus_per_worker: 1}"])
    assert priced.price.rank_hour(gpu.stage("dit").compute) == 2.0
    assert recipe_digest(plain) == recipe_digest(priced)
    assert "price" not in recipe_identity(plain)  # runs from before recipes had prices go on
    for stage in plain.stages:
        data = {"train": "a", "eval": "b"}
        assert input_digest(plain, stage, data=data) == input_digest(priced, stage, data=data)


@pytest.mark.parametrize(
    ("price", "why"),
    [
        ("{}", "wanted the price of one of them"),
        ("{cpu_hour: -1}", "greater than or equal to 0"),
        ("{gpu_hour: 1, currency: ''}", "at least 1 character"),
        ("{gpu_hour: 1, per: day}", "price.per"),
    ],
)
def test_a_price_that_prices_nothing_is_refused(price: str, why: str) -> None:
    with pytest.raises(UserError, match=why):
        load_recipe(DEBUG, overrides=[f"price={price}"])


def test_a_budget_that_no_window_uses_up_is_refused() -> None:
    health = "stages.dit.train.health"
    with pytest.raises(UserError, match="budget=200, wanted below window=200"):
        load_recipe(DEBUG, overrides=[f"{health}.budget=200"])
    load_recipe(DEBUG, overrides=[f"{health}.budget=200", f"{health}.window=201"])


def test_a_stage_digest_follows_what_it_is_made_from() -> None:
    data = {"train": "a", "eval": "b"}

    def digest(stage: str, *overrides: str, data: dict[str, str] = data) -> str:
        recipe = load_recipe(DEBUG, overrides=overrides)
        return input_digest(recipe, recipe.stage(stage), data=data)

    upstream = "stages.autoencoder.train.steps=61"
    downstream = "stages.dit.train.steps=121"
    assert digest("dit") != digest("dit", upstream)
    assert digest("autoencoder") == digest("autoencoder", downstream)
    assert digest("encode") != digest("encode", data={"train": "c", "eval": "b"})
    assert digest("evaluate") != digest("evaluate", data={"train": "a", "eval": "c"})


def test_checking_a_recipe_imports_no_torch_and_no_ray() -> None:
    script = (
        "import sys\n"
        "from orchestrator.recipe.load import load_recipe\n"
        "from orchestrator.plan.graph import stage_graph\n"
        f"stage_graph(load_recipe({str(DEBUG)!r}))\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'mlflow', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=JOBS.parent)
