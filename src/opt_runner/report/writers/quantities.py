"""The fields of a result that the files for other programs hold."""

QUANTITIES = (
    "test_error", "best_test_error", "train_loss", "orthogonality_error", "trainable_parameters",
    "images_per_second", "seconds",
)  # fmt: skip
