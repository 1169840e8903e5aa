"""Reports: tables, TensorBoard events, curves, pictures and the HTML page of a training run."""
