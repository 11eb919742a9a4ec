"""Training: a small loop that is complete, resumable and readable. See ``trainer.py`` first."""

from mixtral.train.recipe import TrainRecipe
from mixtral.train.trainer import StepMetrics, Trainer

__all__ = ["StepMetrics", "TrainRecipe", "Trainer"]
