"""Files and the command line: photos, atomic writing, unpickling without running code, prefetching."""
