"""docs/examples/microphone: what it says of each second is what the model says of it in transformers."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

from data2vec.model_cards.export.command import export
from tests.code_blocks import ROOT
from tests.model_cards.export.test_command import needs_onnx, saved


HOP, RATE = 4000, 16_000


@pytest.fixture(scope="module")
def listen():
    spec = importlib.util.spec_from_file_location("listen", ROOT / "docs" / "examples" / "microphone" / "listen.py")
    assert spec is not None and spec.loader is not None
    sys.modules["listen"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_onnx
@pytest.mark.slow  # docs/tasks/phones.md exports and listens in the quick tests
def test_each_window_is_classified_as_by_transformers(listen, tmp_path, capsys):
    """By the int8 file, too, whose ranges are those of the recording."""
    run = saved(tmp_path / "run", "audio", "v2", AutoModelForAudioClassification)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"id2label": {"0": "noise", "1": "tone"}}))
    sound = (
        np.random.default_rng(3).normal(0.1, 0.2, size=(6 * HOP + 1234, 2))
        * np.linspace(0.1, 1, 6 * HOP + 1234)[:, None]
    )
    (tmp_path / "sounds").mkdir()
    for number in range(4):
        soundfile.write(tmp_path / "sounds" / f"{number}.wav", sound, RATE, subtype="FLOAT")
    report = export(str(run), tmp_path / "out", ["onnx"], int8=True, calibration=str(tmp_path / "sounds"))
    assert report["int8_loss"]["activations_quantised"] == "in the ranges of 2 examples"
    assert report["int8_loss"]["on"] == "2 examples of calibration data, not calibrated on"

    model = AutoModelForAudioClassification.from_pretrained(run).eval()
    extractor = AutoFeatureExtractor.from_pretrained(run)
    mono, expected = sound.mean(1).astype(np.float32), []
    for end in range(HOP, 6 * HOP + 1, HOP):
        inputs = extractor(mono[max(0, end - RATE) : end], sampling_rate=RATE, return_tensors="pt")
        with torch.no_grad():
            likely = model(**inputs).logits.softmax(-1)[0]
        expected.append((model.config.id2label[int(likely.argmax())], float(likely.max())))
    for file, tolerance in (("model.onnx", 1e-4), ("model.int8.onnx", 0.05)):
        classifier = listen.Classifier(tmp_path / "out", file)
        heard = list(listen.listen(classifier, listen.chunks(tmp_path / "sounds" / "0.wav", classifier.rate)))
        assert [window.end for window in heard] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
        np.testing.assert_allclose([window.confidence for window in heard], [p for _, p in expected], atol=tolerance)
        if file == "model.onnx":
            assert [window.label for window in heard] == [label for label, _ in expected]
    assert listen.main([str(tmp_path / "out"), str(tmp_path / "sounds" / "0.wav")]) == 0
    assert "real-time factor 0." in capsys.readouterr().out.splitlines()[-1]

    soundfile.write(tmp_path / "slow.wav", sound, 8000)
    soundfile.write(tmp_path / "short.wav", sound[:999], RATE)
    for name, words in (("slow", "must have 16000"), ("short", "must have 4000 or more")):
        with pytest.raises(SystemExit):
            listen.main([str(tmp_path / "out"), str(tmp_path / f"{name}.wav")])
        assert words in capsys.readouterr().err
