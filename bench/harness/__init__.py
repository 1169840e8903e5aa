"""Command lines, timing, tables and clients that the benchmarks share."""
