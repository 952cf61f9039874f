"""Each lever's part of `bench_levers.py`."""
