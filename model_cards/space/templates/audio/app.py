"""Speak or upload a clip: its transcript from a CTC model, or its classes."""

import json
from pathlib import Path

import gradio as gr
import soundfile
import soxr
from transformers import pipeline


SPACE = json.loads(Path(__file__).with_name("space.json").read_text(encoding="utf-8"))
HOW = {name: SPACE[name] for name in ("trust_remote_code", "revision") if name in SPACE}
model = pipeline(SPACE["task"], model=SPACE["model"], **HOW)
RATE = model.feature_extractor.sampling_rate


def hear(clip: str | None) -> str | dict[str, float]:
    """What is said in a file of sound, or the probability of each class."""
    if clip is None:
        raise gr.Error("Record or upload a clip first.")
    try:
        samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)  # (samples, channels)
    except soundfile.LibsndfileError as error:
        raise gr.Error("This file cannot be read: give wav, flac, ogg or mp3.") from error
    wave = soxr.resample(samples.mean(axis=1), rate, RATE)  # (samples,)
    if len(wave) < RATE // 10:
        raise gr.Error("This clip is too short: speak for a second or more.")
    answer = model({"raw": wave, "sampling_rate": RATE})
    if isinstance(answer, dict):
        return str(answer["text"])
    return {entry["label"]: float(entry["score"]) for entry in answer}


said = gr.Textbox(label="Transcript") if "speech" in SPACE["task"] else gr.Label(label="Classes")
demo = gr.Interface(
    fn=hear,
    inputs=gr.Audio(sources=["microphone", "upload"], type="filepath", label="Speak, or upload a clip"),
    outputs=said,
    title=SPACE["title"],
    description="Speak or upload a clip of speech or sound.",
    flagging_mode="never",
    api_name="predict",
)

if __name__ == "__main__":
    demo.launch()
