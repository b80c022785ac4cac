"""Drop a picture: its classes, or of an encoder the most similar ones among other pictures."""

import json
from pathlib import Path

import gradio as gr
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification


SPACE = json.loads(Path(__file__).with_name("space.json").read_text(encoding="utf-8"))
HOW = {name: SPACE[name] for name in ("trust_remote_code", "revision") if name in SPACE}


def classify(picture: Image.Image | None) -> dict[str, float]:
    """The probability of each class. Not by `pipeline`, which makes three channels of every picture."""
    if picture is None:
        raise gr.Error("Drop a picture first.")
    inputs = processor(picture.convert(MODE), return_tensors="pt")
    with torch.no_grad():
        shares = model(**inputs).logits.softmax(-1)[0].tolist()  # (classes,)
    return {config.id2label[i]: share for i, share in enumerate(shares)}


def neighbours(picture: Image.Image | None, others: list[tuple[Image.Image, str | None]] | None) -> list:
    """The other pictures, the most similar first, each with the cosine of its features."""
    if picture is None or not others:
        raise gr.Error("Drop a picture, and some others to compare it with.")
    pictures = [picture, *(other for other, _ in others)]
    inputs = processor([each.convert(MODE) for each in pictures], return_tensors="pt")
    with torch.no_grad():
        features = encoder(**inputs).last_hidden_state.mean(1)  # (pictures, dim)
    cosines = torch.cosine_similarity(features[:1], features[1:])
    order = cosines.argsort(descending=True).tolist()
    return [(others[i][0], f"{cosines[i]:.3f}") for i in order]


drop = gr.Image(type="pil", label="Drop a picture")
words = {"title": SPACE["title"], "flagging_mode": "never", "api_name": "predict"}
processor = AutoImageProcessor.from_pretrained(SPACE["model"], **HOW)
if SPACE["task"] == "image-classification":
    model = AutoModelForImageClassification.from_pretrained(SPACE["model"], **HOW).eval()
    config = model.config
    demo = gr.Interface(fn=classify, inputs=drop, outputs=gr.Label(num_top_classes=5), **words)
else:
    encoder = AutoModel.from_pretrained(SPACE["model"], **HOW).eval()
    config = encoder.config
    demo = gr.Interface(
        fn=neighbours,
        inputs=[drop, gr.Gallery(type="pil", label="Others to compare it with", interactive=True)],
        outputs=gr.Gallery(label="The most similar first"),
        **words,
    )
MODE = "L" if config.num_channels == 1 else "RGB"

if __name__ == "__main__":
    demo.launch()
