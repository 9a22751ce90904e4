"""Gradient checkpointing: a stage's activations are computed again in the backward pass instead of being stored."""
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(stage: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """stage(x) with the same gradients and the same running statistics, storing x alone. stage draws nothing."""
    return checkpoint(stage, x, use_reentrant=False, preserve_rng_state=False,
                      context_fn=lambda: (nullcontext(), _running_statistics_kept(stage)))


@contextmanager
def _running_statistics_kept(stage: nn.Module) -> Iterator[None]:
    """BatchNorm goes on normalising by the batch, but its running statistics have had this batch already."""
    norms = [module for module in stage.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0  # running = 1·running + 0·batch
    try:
        yield
    finally:  # checkpoint() leaves with an exception as soon as it has what it needs
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(batches)
