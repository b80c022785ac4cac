"""Encoders and fine-tuned models as torch.export programs and ONNX files."""
