"""The product: ONNX models that turn a sound into pictures. No torch."""
