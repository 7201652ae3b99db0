"""ASMK: codebook, assignment of visual words, the kernel, and the inverted file."""
