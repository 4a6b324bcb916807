"""`rushes prepare`: raw videos to indexed shards, on Ray or in this process."""

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext

from rich.console import Console
from rich.table import Table

from orchestrator.data.prepare.executors import Executor, Here, OnDone
from orchestrator.data.prepare.fates import ROWS, Report
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.prepare import prepare
from orchestrator.data.prepare.tasks import Chain
from orchestrator.errors import StoppedError, UserError
from orchestrator.launch.data_table import say
from orchestrator.launch.progress import Count, counting
from orchestrator.launch.ray_session import Starting
from orchestrator.launch.signals import stop_on_signal
from orchestrator.recipe.prepare import Prepare
from orchestrator.storage.store import join_uri, open_store, resolve
from orchestrator.storage.uri import scheme_of

_OF_ONE_PROCESS = ("memory",)  # other processes have another one


def prepare_source(
    source: str,
    target: str,
    *,
    config: Prepare,
    local: bool,
    workers: int | None,
    console: Console,
) -> None:
    """Prepares a source and prints what became of it.

    Args:
        source: a folder, a prefix, or a table of paths.
        target: where shards go.
        config: what to make of the videos.
        local: without Ray, one video after the other.
        workers: processes at once, at most; None for as many as the cluster has room for.
        console: where to show it.

    Raises:
        UserError: if there is nothing to prepare or nothing was kept, or a place cannot be used.
        UnavailableError: if a store or Ray does not answer; the same command goes on.
        StoppedError: after a signal, once what is under way is written.
    """
    uri, out = resolve(source), resolve(target)
    if local and workers is not None:
        raise UserError(f"--workers {workers}: --local has one process, wanted one or the other")
    if not local and {*_OF_ONE_PROCESS} & {scheme_of(uri), scheme_of(out)}:
        raise UserError(f"{out}: only this process sees it, wanted --local or another place")
    store = open_store(out)
    stop = threading.Event()
    with stop_on_signal(stop):
        listing = list_source(uri, target=out)
        store.check()
        say(f"{uri}: {len(listing.rows):,} videos and images", console=console)
        if listing.others:
            say(f"not looked at: {listing.others:,} other files", console=console)
        with (
            nullcontext(Here()) if local else closing(_Ray(workers=workers)) as executor,
            _Bars(console=console, stop=stop) as on_progress,
        ):
            report = prepare(
                store,
                listing,
                source=uri,
                config=config,
                executor=executor,
                on_progress=on_progress,
            )
    console.print(report_table(report))
    rows = join_uri(out, ROWS)
    say(f"what became of every video and clip: {rows}", console=console)
    if not report.kept:
        raise UserError(f"{uri}: no clip was kept, wanted at least one; {rows} has the reasons")
    say(f"shards and index: {out}", console=console)


def report_table(report: Report) -> Table:
    """What was found, kept and rejected, why, and in which shapes clips are stored."""
    table = Table(title=None)
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_row("videos and images", f"{report.videos:,}")
    table.add_row("clips", f"{report.clips:,}")
    table.add_row("clips kept", f"{report.kept:,}")
    for title, rows in (
        ("rejected", {f"{kind}, {why}": n for (kind, why), n in report.by_reason.items()}),
        ("kept", {_shape(one): n for one, n in report.by_bucket.items()}),
    ):
        if rows:
            table.add_section()
        for name, count in sorted(rows.items(), key=lambda item: (-item[1], item[0])):
            table.add_row(f"{title}: {name}", f"{count:,}")
    return table


def _shape(bucket: tuple[int, int, int]) -> str:
    frames, height, width = bucket
    return f"{frames} frame{'s' if frames > 1 else ''} of {height} x {width}"


class _Bars:
    """One bar for each step; a line when it is done. Raises when a signal came."""

    def __init__(self, *, console: Console, stop: threading.Event) -> None:
        self._console = console
        self._stop = stop
        self._step = ""
        self._bars = ExitStack()
        self._count: Count | None = None

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._on_progress

    def __exit__(self, *error: object) -> None:
        self._bars.close()

    def _on_progress(self, step: str, done: int, total: int) -> None:
        if step != self._step:
            self._bars.close()
            self._step = step
            self._count = self._bars.enter_context(counting(step, total=total))
        assert self._count is not None
        self._count(done)
        if done == total:
            self._bars.close()
            self._count = lambda done, total=None: None
            say(f"{step:<14} {total:,}", console=self._console)
        if self._stop.is_set():
            raise StoppedError("stopped; the same command goes on with what is done")


class _Ray:
    """Executor that joins or starts Ray when there is something to do."""

    def __init__(self, *, workers: int | None) -> None:
        self._workers = workers
        self._starting: Starting | None = None
        self._executor: Executor | None = None

    def run(self, chains: Sequence[Chain], *, on_done: OnDone) -> list[Chain]:
        """As the executor on Ray does."""
        if self._executor is None:
            self._executor = self._started()
        return self._executor.run(chains, on_done=on_done)

    def close(self) -> None:
        """Leaves Ray if it was joined."""
        if self._starting is not None:
            self._starting.close()

    def _started(self) -> Executor:
        self._starting = Starting(None)
        session = self._starting.result()
        # Late: ray is imported in the thread that starts it.
        import ray

        from orchestrator.cascade.head import Head
        from orchestrator.data.prepare.on_ray import OnRay

        head = Head(ray.get_runtime_context().gcs_address)
        return OnRay(look=head.check, private=session.private, workers=self._workers)
