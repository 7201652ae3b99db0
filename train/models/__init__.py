"""The systems, one a file, and the modules that they share; ``base`` has what each must provide."""
