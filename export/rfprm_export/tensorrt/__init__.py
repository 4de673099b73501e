"""Builds TensorRT engines from graphs of standard ops, with TensorRT or TensorRT-RTX."""
