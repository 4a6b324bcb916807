"""Environment of every worker process, on Ray or beside it."""

from orchestrator.recipe.stage import Stage


def worker_env(stage: Stage) -> dict[str, str]:
    """Threads per process and quiet libraries; nothing secret."""
    threads = str(stage.compute.cpus_per_worker)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DS_ACCELERATOR": "cuda" if stage.compute.gpus_per_worker else "cpu",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "TORCH_FR_BUFFER_SIZE": "64",  # collectives that are remembered: the last ones
        "PYTHONWARNINGS": "ignore",
    }
