"""TensorRT engines from the graph of standard ops, in either flavour of TensorRT."""
