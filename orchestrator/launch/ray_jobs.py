"""Ray's client of a cluster's jobs, with a limit to every wait."""

import logging
from typing import Any

from ray.job_submission import JobSubmissionClient

_CONNECT_S = 10.0
_ANSWER_S = 60.0

# They tell of every package that is sent; so do we, in a line of ours.
_TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")


class BoundedClient(JobSubmissionClient):
    """The client as it is, but for requests that wait without end where a link is cut."""

    def __init__(self, address: str) -> None:
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        super().__init__(address)

    def _do_request(self, method: str, endpoint: str, **kwargs: Any) -> Any:
        limits: dict[str, Any] = {"timeout": (_CONNECT_S, _ANSWER_S)}
        return super()._do_request(method, endpoint, **(limits | kwargs))

    def host_names(self) -> list[str]:
        """Names of the machines that are alive, as they call themselves."""
        answer = self._do_request("GET", "/nodes?view=hostNameList")
        answer.raise_for_status()
        return answer.json()["data"]["hostNameList"]
