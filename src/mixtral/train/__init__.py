"""Training: a small loop that is complete, resumable and readable. See ``trainer.py`` first."""

from mixtral.train.recipe import TrainRecipe
from mixtral.train.recipe_file import read_recipe
from mixtral.train.step_metrics import StepMetrics
from mixtral.train.trainer import Trainer

__all__ = ["StepMetrics", "TrainRecipe", "Trainer", "read_recipe"]
