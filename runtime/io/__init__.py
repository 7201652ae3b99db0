"""Files and the command line: photos, writing whole or not at all, reading without running, prefetching."""
