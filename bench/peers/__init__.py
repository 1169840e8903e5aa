"""Other ways to train and to run a captioner, for the benchmarks to compare with."""
