"""Methods that rotate nothing: W trains, and a penalty spreads or orthogonalises its neurons."""
