"""Methods that keep the singular values of W and free the angles between neurons."""
