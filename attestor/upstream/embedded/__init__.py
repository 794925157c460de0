"""The embedded authority: a file-based CA for one host."""
