"""The model in the browser: a folder of static files that runs a bundle with onnxruntime-web."""
