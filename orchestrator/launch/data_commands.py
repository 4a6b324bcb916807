"""`rushes data`: a source's index made, checked and looked at."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from orchestrator.data.apart import read_apart
from orchestrator.data.buckets import parse_bucket
from orchestrator.data.index import Index, Sample
from orchestrator.data.scan import LEFT_OUT, scan_source
from orchestrator.data.validate import validate_clips, validate_hashes
from orchestrator.errors import UserError
from orchestrator.launch.data_table import bucket_table, by_clips, print_lines, say, sums
from orchestrator.launch.progress import counting
from orchestrator.storage.local import writing
from orchestrator.storage.store import join_uri, open_store, resolve
from orchestrator.storage.uri import FILE_SCHEMES, scheme_of
from orchestrator.train.contact import Group, contact_sheet, ends
from orchestrator.train.video import Pixels, png_bytes

_SHAPES = 20  # that are drawn, at most


def index_source(uri: str, *, out: str | None, buckets: Sequence[str], console: Console) -> None:
    """Indexes a folder of WebDataset's tars and says what was left out.

    Raises:
        UserError: as ``scan_source``, or if a bucket is not FRAMESxHEIGHTxWIDTH@FPS.
    """
    try:
        wanted = [parse_bucket(bucket) for bucket in buckets]
    except ValueError as error:
        raise UserError(f"--bucket: {error}") from None
    _check_reach(uri)
    with counting("indexing shards", total=None) as on_shards:
        scan = scan_source(uri, out=out, buckets=wanted, on_shards=on_shards)
    where = resolve(out or uri)
    say(
        f"{where}: {scan.clips:,} clips of {scan.shards:,} shards indexed, {scan.uncaptioned:,} "
        f"without a caption, {len(scan.left_out):,} left out",
        console=console,
    )
    print_lines(scan.left_out, console=console)
    if scan.left_out:
        say(f"all that was left out: {join_uri(where, LEFT_OUT)}", console=console)


def validate_source(uri: str, *, quick: bool, console: Console) -> None:
    """Reads all of a source and prints what it holds and what is wrong with it.

    Raises:
        UserError: if there is no index or anything is wrong.
    """
    index = _opened(uri)
    validate = validate_hashes if quick else validate_clips
    with counting("checking clips", total=len(index)) as on_clips:
        report = validate(index, on_clips=on_clips)
    say(index.store.uri, console=console)
    for line in sums(index, shards_bytes=report.shards_bytes):
        say(line, console=console)
    console.print(bucket_table(index))
    print_lines(report.faults, console=console)
    if report.faults:
        raise UserError(f"{resolve(uri)}: {len(report.faults):,} faults, wanted none")
    if len(index.hashes) < len(index.shards):
        say("an index of version 1: what lies between members has no hash", console=console)
    say(f"whole: hashes are right{'' if quick else ', every clip decodes'}", console=console)


def show_source(uri: str, *, out: Path, clips: int, console: Console) -> None:
    """Prints the buckets of a source and writes a contact sheet of some clips of each.

    Clips are drawn as training sees them, longer ones by their first window.

    Raises:
        UserError: if there is no index, a clip is damaged or has no frames, or the picture cannot
            be written.
    """
    index = _opened(uri)
    if not len(index):
        raise UserError(f"{resolve(uri)}: no clips, wanted at least one")
    console.print(bucket_table(index))
    shapes = by_clips(index)
    groups = [_group(index, rows, clips=clips) for _, rows in shapes[:_SHAPES]]
    picture = png_bytes(contact_sheet(groups))
    with writing(out, field="--out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(picture)
    if len(shapes) > _SHAPES:
        say(f"drawn: the {_SHAPES} shapes with most clips, of {len(shapes):,}", console=console)
    say(str(out), console=console)


def _opened(uri: str) -> Index:
    _check_reach(uri)
    return Index.open(uri)


def _check_reach(uri: str) -> None:
    if scheme_of(uri) not in FILE_SCHEMES:
        open_store(uri).check()  # less patient than reading is


def _group(index: Index, rows: Sequence[int], *, clips: int) -> Group:
    """So many clips of a bucket, evenly spread over its rows."""
    count = min(clips, len(rows))
    samples: list[Sample] = []
    clips_THWC: list[Pixels] = []
    for place in range(count):
        sample, arrays = read_apart(index, rows[place * len(rows) // count])
        if "frames" not in arrays:
            raise UserError(
                f"{sample.shard}: {sample.key} holds {', '.join(sorted(arrays))}, wanted frames"
            )
        samples.append(sample)
        clips_THWC.append(ends(arrays["frames"]))  # the rest of a long clip is not kept
    frames, height, width = samples[0].bucket
    length = "1 frame" if frames == 1 else f"{frames} frames"
    whole = "" if not any(sample.is_windowed for sample in samples) else ", windows of larger ones"
    return Group(
        title=f"{length} of {height} x {width}: {count} of {len(rows):,} clips{whole}",
        clips=clips_THWC,
        captions=[(sample.captions or ("(no caption)",))[0] for sample in samples],
    )
