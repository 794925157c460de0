"""What ``hopseal doctor`` looks at: one module for each part of a node, each of which returns findings.

Owns: looking, and saying what to do. Does not own: printing (``hopseal.cli.doctor``). Nothing here changes anything.
"""
