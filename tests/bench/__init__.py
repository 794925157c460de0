"""Benchmarks: each measures Hopseal and a named peer in the same run and prints their ratio."""
