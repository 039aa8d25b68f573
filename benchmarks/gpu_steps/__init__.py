"""The steps of `benchmarks/gpu.py`, one a file: each is run(options, found), in a process of its own."""
