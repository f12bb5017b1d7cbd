"""The fields of results that the files for other programs hold."""

from statistics import fmean

from opt_runner.report.comparison import Reduce

QUANTITIES = (
    "test_error", "best_test_error", "test_error_at_best", "validation_error",
    "best_validation_error", "train_loss", "train_error", "test_nll", "calibration_error",
    "orthogonality_error", "trainable_parameters", "images_per_second", "steps", "seconds",
)  # fmt: skip
# Those with a value a layer, before and after training, and what makes one number of the layers.
OF_LAYERS: dict[str, Reduce] = {"energy": sum, "half_space_excess": fmean, "largest_cosine": max}
