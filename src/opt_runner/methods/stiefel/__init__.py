"""Methods whose optimizer keeps R, or V = R W itself, a rotation."""
