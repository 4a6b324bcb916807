"""What is written down of a recipe is kept and shown, so it must open nothing by itself."""

from orchestrator.errors import UserError
from orchestrator.recipe.tree import Tree, texts
from orchestrator.redact import holds_secret


def refuse_secrets(tree: Tree, *, origin: str) -> None:
    """Refuses a tree in which any text is, or holds, a URI with a password or a token.

    Args:
        tree: a recipe's, or another file's that a run or a data set keeps.
        origin: names it in the error.

    Raises:
        UserError: one line with the field; its text without the secret.
    """
    for field, text in texts(tree):
        if holds_secret(text):
            raise UserError(
                f"{origin}: {field}: seen {text}, wanted it without a password or token: those "
                "belong into the environment (AWS_ACCESS_KEY_ID, MLFLOW_TRACKING_PASSWORD)"
            )
