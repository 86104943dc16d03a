"""Whether a CUDA graph is being recorded: then no value can be looked at, and memory belongs to the recording."""

import torch

__all__ = ["capturing"]


def capturing(device: torch.device) -> bool:
    """Whether what is launched on the device now goes into a CUDA graph. Waits for nothing."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
