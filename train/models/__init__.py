"""The networks, one system a file, and the modules that they share."""
