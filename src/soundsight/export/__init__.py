"""From a trained run to a model folder that onnxruntime reads."""
