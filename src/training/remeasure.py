"""After a change of validation set or prediction: best.pth measured again, before any new epoch is compared with it.

Otherwise a new epoch would be compared with what an easier or harder validation said.
"""
import copy

import torch

from core.config import select_metric
from training.interruption import StopRequest
from training.run_state import Run
from training.validation import Validation, Validator


def remeasure_best(run: Run, validator: Validator, stop: StopRequest) -> None:
    """Updates best.pth, its row and the state, if the run's earlier epochs were validated otherwise."""
    progress = run.progress
    if progress.history and progress.measure != validator.identity:
        best = run.world.from_main(run.best_state() if run.world.main else None)
        result = validate_weights(run, best["model_state"], validator, stop) if best else None
        if stop.reason:
            return
        progress.anew.append(len(progress.history))
        progress.best = {**best["metrics"], **validator.columns(result)} if best else None
        if best:
            keep(run, best, result)
    progress.measure = validator.identity


def validate_weights(run: Run, weights: dict[str, torch.Tensor], validator: Validator, stop: StopRequest) -> Validation:
    """Validates other weights than the run's own, which it puts back."""
    own = copy.deepcopy(run.average.state_dict())
    run.average.load_state_dict(weights)
    result, _ = validator.validate(stopped=stop.agreed)
    run.average.load_state_dict(own)
    return result


def keep(run: Run, best: dict, result: Validation) -> None:
    """Prints the change and saves it; `best`: the weights and their earlier metrics."""
    metric, row = select_metric(run.cfg), run.progress.best
    print(f"again   {run.best}, epoch {row['epoch']}: {metric} {best['metrics'][metric]:.4f} -> {row[metric]:.4f}, "
          "because the validation set or the way it is predicted has changed")
    if run.world.main:
        run.save_best(best["model_state"], result)
        run.save()
