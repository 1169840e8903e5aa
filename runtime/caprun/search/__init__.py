"""Caption search over a step function, in NumPy: greedy, beam, diverse beam and sampling."""
