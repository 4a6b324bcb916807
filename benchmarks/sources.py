"""Sources that loader.py reads: arrays as an encoder leaves them, and clips."""

import io
import json
from collections.abc import Iterator, Mapping
from itertools import islice

import av
import numpy as np
from bare_reads import LATENT, TEXT

from orchestrator.data.decode import npy_bytes
from orchestrator.data.index import Bucket, Index, WrittenShard, write_index
from orchestrator.data.shards import NewSample, shard_name, write_shard
from orchestrator.storage.store import open_store

PER_SHARD = 200
GOP = 24
SEED = 0


def write_arrays(uri: str, *, samples: int) -> Index:
    """Latents and text states of data.md: 256 KiB and 32 KiB of float16, and a little JSON."""
    draw = np.random.default_rng(SEED)

    def sample(number: int) -> NewSample:
        latent, text = (draw.standard_normal(shape, dtype=np.float32) for shape in (LATENT, TEXT))
        caption = {"caption": f"sample number {number}"}
        return _encoded(
            number,
            members={
                "latent.npy": npy_bytes(latent.astype(np.float16)),
                "text.npy": npy_bytes(text.astype(np.float16)),
                "json": json.dumps(caption).encode(),
            },
        )

    return _write(uri, map(sample, range(samples)), per_shard=PER_SHARD)


def write_latents(uri: str, *, samples: int, per_shard: int) -> Index:
    """Latents alone."""
    draw = np.random.default_rng(SEED)

    def sample(number: int) -> NewSample:
        latent = draw.standard_normal(LATENT, dtype=np.float32).astype(np.float16)
        return _encoded(number, members={"latent.npy": npy_bytes(latent)})

    return _write(uri, map(sample, range(samples)), per_shard=per_shard)


def _encoded(number: int, *, members: Mapping[str, bytes]) -> NewSample:
    return NewSample(
        key=f"sample-{number:06d}",
        members=members,
        bucket=(29, 256, 256),
        fps=8.0,
        source="noise",
        captions=(f"sample number {number}",),
        labels={},
    )


def write_clips(uri: str, *, clips: int, bucket: Bucket) -> Index:
    """H.264 clips with a short GOP, of moving gradients and noise."""
    draw = np.random.default_rng(SEED)

    def clip(number: int) -> NewSample:
        frames, height, width = bucket
        y, x, t = np.ogrid[:height, :width, :frames]
        waves = 100 + 80 * np.sin((x + 2 * t + number) / 9) * np.cos((y - t) / 7)
        pixels = np.repeat(waves.transpose(2, 0, 1)[..., None], 3, axis=3)
        pixels = (pixels + draw.integers(0, 30, pixels.shape)).clip(0, 255).astype(np.uint8)
        return NewSample(
            key=f"clip-{number:06d}",
            members={"mp4": _mp4(pixels)},
            bucket=bucket,
            fps=8.0,
            source="waves",
            captions=(),
            labels={},
        )

    return _write(uri, map(clip, range(clips)), per_shard=PER_SHARD)


def _mp4(frames: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = GOP
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _write(uri: str, samples: Iterator[NewSample], *, per_shard: int) -> Index:
    store = open_store(uri)
    written: list[WrittenShard] = []
    while some := list(islice(samples, per_shard)):
        written.append(write_shard(store, shard_name(len(written)), some))
    write_index(store, written, origin={"made": "benchmarks/loader.py"})
    return Index.open(uri)
