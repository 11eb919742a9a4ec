"""Calibration: round a model's weights so that its outputs, not its weights, change least.

``compensation`` rounds one matrix and lets the weights that are still to come make up for each
error (GPTQ). ``draw`` takes text until every expert has seen enough of it. ``calibration`` walks
through the model, one layer at a time, and yields packed tensors. ``report`` compares a quantised
model with the one it was made from: perplexity, divergence, routing, weights. ``checkpoint`` is
the whole way, from a text file to a packed folder with its report.
"""

from mixtral.calibrate.calibration import Calibration, CalibrationReport, StarvedExpert
from mixtral.calibrate.checkpoint import CalibratedQuality, quantize_calibrated
from mixtral.calibrate.report import QualityReport, compare_models, weight_errors
from mixtral.calibrate.report_table import calibration_table, quality_table
from mixtral.calibrate.settings import CalibrationSettings
from mixtral.calibrate.text import read_sequences

__all__ = [
    "CalibratedQuality",
    "Calibration",
    "CalibrationReport",
    "CalibrationSettings",
    "QualityReport",
    "StarvedExpert",
    "calibration_table",
    "compare_models",
    "quality_table",
    "quantize_calibrated",
    "read_sequences",
    "weight_errors",
]
