"""What the ranks of a gang import, for the process that they are forked from: seconds per rank."""

import torch
import torch._dynamo
import torch._inductor.compile_fx  # DeepSpeed, with its first sharded engine

import orchestrator.train.worker  # noqa: F401
from orchestrator.train.engine.library import load_deepspeed

load_deepspeed(torch.device("cpu"))
