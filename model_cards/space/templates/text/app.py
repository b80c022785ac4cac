"""Type a sentence: the nearest of given sentences, by the features of an encoder."""

import json
from pathlib import Path

import gradio as gr
import torch
from transformers import AutoModel, AutoTokenizer


SPACE = json.loads(Path(__file__).with_name("space.json").read_text(encoding="utf-8"))
HOW = {name: SPACE[name] for name in ("trust_remote_code", "revision") if name in SPACE}
encoder = AutoModel.from_pretrained(SPACE["model"], **HOW).eval()
tokenizer = AutoTokenizer.from_pretrained(SPACE["model"], **HOW)
MOST = encoder.config.max_position_embeddings - encoder.config.pad_token_id - 1
GIVEN = "\n".join(SPACE["sentences"])


def nearest(sentence: str, others: str) -> list[list[str]]:
    """The other sentences, the nearest first, each with the cosine of its features."""
    lines = [line.strip() for line in others.splitlines() if line.strip()]
    if not sentence.strip() or not lines:
        raise gr.Error("Type a sentence, and others to compare it with, one per line.")
    batch = tokenizer([sentence, *lines], padding=True, truncation=True, max_length=MOST, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        hidden = encoder(**inputs).last_hidden_state  # (sentences, tokens, dim)
    real = inputs["attention_mask"].unsqueeze(-1)
    features = (hidden * real).sum(1) / real.sum(1)  # (sentences, dim)
    cosines = torch.cosine_similarity(features[:1], features[1:])
    return [[lines[i], f"{cosines[i]:.3f}"] for i in cosines.argsort(descending=True).tolist()]


demo = gr.Interface(
    fn=nearest,
    inputs=[gr.Textbox(label="Your sentence"), gr.Textbox(GIVEN, lines=8, label="Others, one per line")],
    outputs=gr.Dataframe(headers=["sentence", "cosine"], label="The nearest first"),
    title=SPACE["title"],
    flagging_mode="never",
    api_name="predict",
)

if __name__ == "__main__":
    demo.launch()
