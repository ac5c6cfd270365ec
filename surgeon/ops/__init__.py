"""What each ONNX operator means in torch; never sees a file or a graph."""
