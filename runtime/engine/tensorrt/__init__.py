"""TensorRT plans on an NVIDIA GPU."""
