"""Methods that keep lengths alone: of each neuron, or of the whole matrix."""
