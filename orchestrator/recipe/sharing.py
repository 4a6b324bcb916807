"""Whether ranks can share the tokens of a stage's clips."""

from models.sora.dit_config import DiTConfig
from orchestrator.recipe.stage import Stage


def check_sharing(stage: Stage) -> None:
    """Refuses ``compute.sequence_parallel`` above 1 where there is nothing to share.

    Raises:
        ValueError: in one line that begins with the field.
    """
    sharing = stage.compute.sequence_parallel
    field = f"stages.{stage.id}.compute.sequence_parallel={sharing}"
    model = None if stage.train is None else stage.train.model
    if not isinstance(model, DiTConfig):
        seen = f"a stage that does not train ({stage.kind})" if model is None else model.kind
        raise ValueError(f"{field}: ranks share tokens of a video_dit only, seen {seen}, wanted 1")
    heads = model.shape.heads
    if heads % sharing:
        raise ValueError(
            f"{field} with train.model.heads={heads}: each rank attends with as many heads, "
            f"wanted a divisor of {heads}"
        )
