"""Sources that loader.py reads: arrays as an encoder leaves them, and clips."""

import io
import json
from collections.abc import Iterator

import av
import numpy as np
from bare_reads import LATENT, TEXT

from orchestrator.data.decode import npy_bytes
from orchestrator.data.index import Bucket, Index, write_index
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
        return NewSample(
            key=f"sample-{number:06d}",
            members={
                "latent.npy": npy_bytes(latent.astype(np.float16)),
                "text.npy": npy_bytes(text.astype(np.float16)),
                "json": json.dumps({"caption": f"sample number {number}"}).encode(),
            },
            bucket=(29, 256, 256),
            fps=8.0,
            source="noise",
            captions=(f"sample number {number}",),
            labels={},
        )

    return _write(uri, (sample(number) for number in range(samples)))


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

    return _write(uri, (clip(number) for number in range(clips)))


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


def _write(uri: str, samples: Iterator[NewSample]) -> Index:
    store = open_store(uri)
    everything = list(samples)
    written = [
        write_shard(store, shard_name(first // PER_SHARD), everything[first : first + PER_SHARD])
        for first in range(0, len(everything), PER_SHARD)
    ]
    write_index(store, written, origin={"made": "benchmarks/loader.py"})
    return Index.open(uri)
