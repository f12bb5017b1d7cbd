"""OPT's descendants: rotations of few parameters, and those that other libraries make."""
