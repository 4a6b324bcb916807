"""Errors that cross from one process to another keep their exit code."""

import pytest

from orchestrator.data.bad import BadSampleError
from orchestrator.errors import FencedError, StoppedError, UnavailableError, UserError, heard, told
from orchestrator.storage.errors import NotFoundError, RefusedError


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (UserError, UserError),
        (NotFoundError, UserError),
        (RefusedError, UserError),
        (BadSampleError, UserError),
        (UnavailableError, UnavailableError),
        (FencedError, FencedError),
        (StoppedError, StoppedError),
    ],
)
def test_an_error_keeps_its_exit_code_in_another_process(
    raised: type[Exception], kind: type[Exception]
) -> None:
    error = heard(told(raised("no such file")), where="unit 3")
    assert type(error) is kind
    assert str(error) == "unit 3: no such file"


def test_a_defect_keeps_its_name_in_another_process() -> None:
    error = heard(told(KeyError("x")), where="unit 3")
    assert (error.exit_code, str(error)) == (1, "unit 3: KeyError: 'x'")
