"""docs/results/knows.py: what is asked is true of the inputs, probes answer it, and every number is shown."""

from collections import Counter
from pathlib import Path
from typing import Any

import knows
import knows_audio
import knows_images
import knows_text
import numpy as np
import pytest
import torch
from knows_probe import Inputs, Question, answers, answers_without
from transformers import BeitConfig, BeitModel, set_seed

from data2vec.modeling.embed_audio import ConvFrames
from data2vec.pretraining.train_tokenizer import train_tokenizer


FRAMES = ConvFrames((40, 16), (20, 16))  # of systems/audio_v1.yaml


class TestAudio:
    @pytest.mark.parametrize("hertz", [83.0, 128.0, 211.0, 305.0])
    @pytest.mark.parametrize("first", [1, 2])  # without its fundamental a sound has the same pitch
    def test_pitch_is_the_distance_of_the_harmonics(self, hertz: float, first: int) -> None:
        rng = np.random.default_rng(0)
        time = np.arange(8000) / knows_audio.RATE
        wave = sum(np.sin(2 * np.pi * hertz * k * time + rng.uniform(0, 6)) / k for k in range(first, 9))
        found = knows_audio.pitch((wave + 0.05 * rng.normal(size=8000)).astype(np.float32))
        assert found == pytest.approx(hertz, rel=0.03)

    def test_noise_has_no_pitch(self) -> None:
        assert knows_audio.pitch(np.random.default_rng(0).normal(size=8000).astype(np.float32)) == 0

    @pytest.mark.parametrize("samples", [3200, 4567, 16000])
    def test_frames_are_the_encoders(self, samples: int) -> None:
        wave = 1e-3 * np.random.default_rng(0).normal(size=samples).astype(np.float32)
        middle = 5 * knows_audio.HOP + knows_audio.FIELD // 2  # of frame 5
        wave[middle - 20 : middle + 20] += np.sin(np.arange(40))
        mel, level = knows_audio.frame_energies(wave), knows_audio.levels(wave)
        assert mel.shape[1] == len(level) == FRAMES(samples)
        assert mel.mean(0).argmax() == level.argmax() == 5
        field = wave[5 * knows_audio.HOP :][: knows_audio.FIELD]
        assert level[5] == pytest.approx(20 * np.log10(field.std() / wave.std()), abs=0.1)

    def test_labels_are_those_of_the_clip_and_of_the_frame(self) -> None:
        rng = np.random.default_rng(0)
        clips = []
        for number in range(40):
            wave = rng.normal(size=3200 + 101 * number).astype(np.float32)
            wave[: len(wave) // 2] *= 0.01  # quiet, then loud
            speaker = "ab"[number % 2]
            mel = knows_audio.frame_energies(wave)
            clips.append(knows_audio.Clip(wave, mel, speaker, number % 10, 100.0 * 2 ** (number / 12)))
        found = knows_audio.asked(clips, knows_audio.sound_units([clip.mel for clip in clips]), 0)
        questions = found.questions
        assert questions["pitch"].labels[:, 0] == pytest.approx(np.arange(40), abs=1e-4)  # semitones
        assert questions["speaker"].labels.tolist() == [0, 1] * 20
        assert 2 ** questions["duration"].labels[39, 0] == pytest.approx((3200 + 101 * 39) / 16000, rel=1e-4)
        place, level = questions["place in the word"].labels[:, 0], questions["energy"].labels[:, 0]
        assert place.min() >= 0 and place.max() <= 1
        assert (level[place < 0.4] < -30).all() and (level[place > 0.6] > 0).all()
        unit = questions["sound unit"]
        np.testing.assert_array_equal(unit.at, questions["energy"].at)
        example, step = unit.at[7]
        np.testing.assert_array_equal(unit.without["log-mel frame"][7], clips[example].mel[:, step])


class TestImages:
    def test_a_copy_is_placed_and_the_rest_is_grey(self) -> None:
        image = np.full((32, 32, 3), (10, 200, 30), dtype=np.uint8)
        found = knows_images.placed(image, x=3, y=11)
        inside = np.zeros((32, 32), dtype=bool)
        inside[11:31, 3:23] = True
        assert (found[inside] == (10, 200, 30)).all() and (found[~inside] == knows_images.GREY).all()

    def test_colours(self) -> None:
        images = np.zeros((3, 32, 32, 3), dtype=np.uint8)
        images[0, ..., 0], images[1, ..., 2], images[2] = 255, 255, 77  # red, blue, grey
        np.testing.assert_allclose(knows_images.colour(images), [[1, 0.5], [0, -1], [0, 0]], atol=1e-6)

    @pytest.mark.parametrize("cycles", [3, 7, 12])
    def test_the_frequency_of_a_grating_is_its_own_whatever_its_direction(self, cycles: int) -> None:
        y, x = np.mgrid[:32, :32] / 32
        for along in (x, y, (3 * x + 4 * y) / 5):
            grating = np.round(127 + 100 * np.sin(2 * np.pi * cycles * along))[..., None].repeat(3, 2)
            assert knows_images.spatial_frequency(grating) == pytest.approx(cycles, rel=0.08)

    def test_pixels_are_averaged_two_by_two(self) -> None:
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
        found = knows_images.averaged(images).reshape(2, 16, 16, 3)
        assert found[1, 4, 9, 2] == pytest.approx(images[1, 8:10, 18:20, 2].mean() / 255)


class TestText:
    REVIEW = "I saw the O'Brien film -- in <br />Paris! THE best of films, it said; 10/10 from me and Ann."

    def test_words_keep_whether_they_had_a_capital(self) -> None:
        found = knows_text.words_of(self.REVIEW)
        assert found[:7] == [
            ("i", True),
            ("saw", False),
            ("the", False),
            ("obrien", True),
            ("film", False),
            ("in", False),
            ("br", False),
        ]
        assert ("paris", True) in found and ("the", True) in found and ("me", False) in found

    def test_phrases_fit_and_hold_their_word(self) -> None:
        words, rng = knows_text.words_of(self.REVIEW), np.random.default_rng(0)
        for place in range(len(words)):
            phrase = knows_text.around(words, place, 14, rng)
            assert words[place] in phrase and len(knows_text.spelled(phrase)) <= 14
            assert knows_text.spelled(phrase) in knows_text.spelled(words)
        phrases, numbers = knows_text.phrases_with([words] * 30, ["best", "paris"], 3, rng)
        assert Counter(numbers.tolist()) == {0: 3, 1: 3}
        for phrase, number in zip(phrases, numbers, strict=True):
            held = {word for word, _ in phrase} & {"best", "paris"}
            assert held == {["best", "paris"][number]}

    def test_swaps_change_the_order_alone(self) -> None:
        rng = np.random.default_rng(0)
        for phrase in knows_text.any_phrases([knows_text.words_of(self.REVIEW)], 30, rng):
            words, letters = knows_text.swap_words(phrase, rng), knows_text.swap_letters(phrase, rng)
            assert Counter(words) == Counter(phrase) and words != list(phrase)
            one, other = knows_text.spelled(phrase), knows_text.spelled(letters)
            first, second = (i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
            assert second == first + 1 and one[first] + one[second] == other[second] + other[first]
            assert " " not in (one[first], one[second])

    def test_labels_are_those_of_the_letter_that_is_read(self) -> None:
        tokenizer = train_tokenizer([], 261)
        reviews = [knows_text.words_of(self.REVIEW)] * 30
        content, order, letters = knows_text.inputs_of(reviews, ["best", "paris"], tokenizer, 1)
        read = [tokenizer.decode(example["input_ids"], skip_special_tokens=False) for example in content.examples]
        read = [text.removeprefix("<s>").removesuffix("</s>") for text in read]
        assert content.questions["length"].labels[:, 0].tolist() == [len(text) for text in read]
        casing, place = content.questions["casing"], content.questions["place in the word"]
        always = {"i": 1, "obrien": 1, "paris": 1, "ann": 1, "film": 0, "best": 0, "of": 0, "it": 0}
        seen = set()
        for (number, step), capital in zip(casing.at, casing.labels, strict=True):
            rest = read[number][step - knows_text.FIRST :]
            assert step == knows_text.FIRST or read[number][step - knows_text.FIRST - 1] == " "
            word = rest.split(" ")[0]
            seen.add(word)
            assert always.get(word, capital) == capital
        assert len(seen & set(always)) >= 4 and casing.labels.mean() == 0.5
        for (number, step), index in zip(place.at, place.labels[:, 0], strict=True):
            before = read[number][: step - knows_text.FIRST]
            assert index == len(before) - (before.rfind(" ") + 1)
        control: dict[str, set[int]] = {}
        asked = content.questions["casing, control"]
        for (number, step), label in zip(asked.at, asked.labels, strict=True):
            control.setdefault(read[number][step - knows_text.FIRST :].split(" ")[0], set()).add(int(label))
        assert all(len(labels) == 1 for labels in control.values()) and set.union(*control.values()) == {0, 1}
        assert order.questions["word order"].labels.mean() == letters.questions["letter order"].labels.mean() == 0.5

    def test_letters_without_a_network(self) -> None:
        phrase = [("ab", False), ("b", False)]
        counts = knows_text.counts_of([phrase])
        assert counts["letters"][0, :3].tolist() == [0.25, 0.25, 0.5]  # space, a, b
        assert counts["pairs of letters"][0, [27 + 2, 2 * 27, 2]] == pytest.approx([1 / 3] * 3)  # ab, b_, _b
        near = knows_text.letters_at([phrase], np.array([[0, 1], [0, 0]]))
        np.testing.assert_array_equal(near["letter"].argmax(1), [2, 1])
        np.testing.assert_array_equal(near["three letters"].reshape(2, 3, 27).argmax(2), [[1, 2, 0], [0, 1, 2]])


class TestProbes:
    def test_every_layer_is_asked_by_its_mean_or_at_the_step(self) -> None:
        set_seed(0)
        sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
        encoder = BeitModel(BeitConfig(image_size=8, patch_size=4, num_channels=1, **sizes), add_pooling_layer=False)
        rng = np.random.default_rng(0)
        parts = []
        for _ in range(2):
            labels = rng.integers(2, size=60)
            images = rng.normal(size=(60, 1, 8, 8)).astype(np.float32)
            images[labels == 1, :, 4:, :4] += 5  # the third patch
            at = np.stack([np.arange(60), np.arange(60) % 4], 1)
            bright = ((at[:, 1] == 2) & (labels == 1)).astype(int)
            flat = {"pixels": images.reshape(60, -1)}
            questions = {
                "which": Question(labels, flat),
                "bright": Question(bright, flat, at),
                "number": Question(labels[:, None].astype(np.float32), flat),
            }
            parts.append(Inputs([{"pixel_values": image} for image in torch.from_numpy(images)], questions))

        def collate(examples: Any) -> dict[str, torch.Tensor]:
            return {"pixel_values": torch.stack([example["pixel_values"] for example in examples])}

        found = answers(encoder, collate, [tuple(parts)])
        assert [len(scores["test"]) for scores in found.values()] == [3, 3, 3]
        assert found["which"]["test"][0] > 90 and found["bright"]["test"][0] > 90 and found["number"]["test"][0] > 60
        without = answers_without([tuple(parts)])
        assert without["which"]["without"]["pixels"] > 90 and without["number"]["metric"] == "R2"
        dark = float((parts[1].questions["bright"].labels == 0).mean())
        assert without["bright"]["nothing known"] == pytest.approx(100 * dark, abs=0.01)


def tiny() -> dict[str, Any]:
    questions = {
        "speaker": {"metric": "accuracy", "nothing known": 25.0, "without": {"mel": 71.0, "log": 60.0}},
        "pitch": {"metric": "R2", "nothing known": 0.0, "without": {"mel": 33.0}},
        "casing, control": {"metric": "accuracy", "nothing known": 50.0, "without": {"letter": 52.0}},
    }
    systems = {}
    for family in ("data2vec 1", "data2vec 2.0"):
        seeds = []
        for seed in range(3):
            encoders = {
                encoder: {
                    "speaker": {"test": [40.0 + 10 * rank, 50.0 + 10 * rank + seed], "validation": [50.0, 60.0]},
                    "pitch": {"test": [20.0 * rank - 10, 99.0], "validation": [5.0, 3.0]},
                    "casing, control": {"test": [50.0, 51.0], "validation": [1.0, 2.0]},
                }
                for rank, encoder in enumerate(knows.ENCODERS)
            }
            seeds.append({"seed": seed, "encoders": encoders})
        systems[family] = {"title": f"{family}, spoken digits", "seeds": seeds}
    return {"modalities": {"audio": {"questions": questions, "systems": systems}}}


def test_layers_are_chosen_on_held_out_examples_and_questions_averaged() -> None:
    rows = knows.compared(tiny())
    assert len(rows) == 4
    # student: rank 3, speaker 80 + seed at layer 1, pitch 50 at layer 0; untrained: 50 + seed, and below 0
    assert rows[0].said.startswith("data2vec 1, spoken digits, mean of the questions: student 65.5 (65.0 to 66.0)")
    assert "untrained 25.5 (25.0 to 26.0)" in rows[0].said and rows[0].holds == "yes"
    assert rows[0].effect[0] == pytest.approx(40) and rows[2].holds == "no, the reverse"


def test_the_table_and_the_picture_show_every_question(tmp_path: Path) -> None:
    *_, speaker, pitch, control = knows.table(tiny()).splitlines()
    assert speaker.startswith("| speaker, accuracy | 25 | 71 (mel) | 51 | 61 | 71 | 81 (layer 1) | 91 |")
    assert pitch.startswith("| pitch, R2 | 0 | 33 (mel) | -10 | 10 | 30 | 50 (layer 0) | 70 |")
    assert control.startswith("| casing, control, accuracy |")
    knows.draw(tiny(), tmp_path / "knows.png")
    assert [path.name for path in tmp_path.iterdir()] == ["knows_audio.png"]
    assert (tmp_path / "knows_audio.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("modality", knows.MODALITIES)
def test_the_whole_evaluation(modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = Path(__file__).parents[3] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("needs the data sets beside the repository")
    short = {"training.max_steps": 4, "training.logging_steps": 1, "training.warmup_steps": 1}
    found = knows.evaluate(data, tmp_path, (0,), (modality,), **short)
    assert found == knows.evaluate(data, tmp_path, (0,), (modality,), **short)  # all of it is found again
    questions = found["modalities"][modality]["questions"]
    for system in found["modalities"][modality]["systems"].values():
        assert list(system["seeds"][0]["encoders"]) == list(knows.ENCODERS)
        for scores in system["seeds"][0]["encoders"].values():
            assert list(scores) == list(questions)
