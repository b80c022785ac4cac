"""The online probe inside a real `Trainer`."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.svm import SVC
from transformers import Data2VecVisionConfig, TrainerControl, TrainerState, TrainingArguments

from data2vec.modeling import Data2VecVisionForPreTraining
from data2vec.pretraining.engine.distributed import EngineTrainer
from data2vec.pretraining.evaluation import online_probe, probe
from data2vec.pretraining.evaluation.online_probe import ProbeCallback, fitted_and_measured
from data2vec.pretraining.monitoring.clock import TrainingClock
from tests.pretraining.evaluation.pattern_images import collate


def model() -> Data2VecVisionForPreTraining:
    torch.manual_seed(0)
    objective = {"masking": {"method": "random", "prob": 0.5}, "top_k_layers": 2, "target_layer_norm": "layer"}
    config = Data2VecVisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=6, patch_size=2,
        num_channels=1, hidden_dropout_prob=0.3, initializer_range=0.2, objective=objective,
    )  # fmt: skip
    return Data2VecVisionForPreTraining(config)


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    noise = 2 * torch.randn(count, 1, 6, 6, generator=generator)
    return [{"pixel_values": centres[i % 3] + noise[i], "labels": i % 3} for i in range(count)]


def collate_masked(examples):
    return {
        "pixel_values": collate(examples)["pixel_values"],
        "masked": torch.arange(9).lt(4).expand(len(examples), 9),
    }


class Counted(list):
    reads = 0

    def __getitem__(self, i):
        self.reads += 1
        return super().__getitem__(i)


def train(folder, steps=7, probed=True):
    arguments = TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=5, learning_rate=3e-3, logging_steps=2,
        report_to="none", save_strategy="no", remove_unused_columns=False, use_cpu=True, disable_tqdm=True,
        label_names=["masked"],
    )  # fmt: skip
    trainer = EngineTrainer(model(), arguments, data_collator=collate_masked, train_dataset=images(40, seed=1))
    data = Counted(images(61, seed=2)), Counted(images(53, seed=3))
    if probed:
        trainer.add_callback(ProbeCallback(trainer, *data, collate, probe_steps=3, clock=TrainingClock()))
    trainer.train()
    return trainer, data


def test_it_is_fitted_to_and_measured_on_examples_that_are_not_the_tests():
    train, validation = images(17, seed=1), images(5, seed=2)
    assert fitted_and_measured(train, validation, seed=0) == (train, validation)
    drawn = [[part.indices for part in fitted_and_measured(train, None, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    fitted, measured = drawn[0]
    assert len(measured) == 3 and sorted(fitted + measured) == list(range(17))


def logged(trainer, key):
    return {log["step"]: log[key] for log in trainer.state.log_history if key in log}


def test_it_logs_before_every_so_often_and_at_the_end(tmp_path):
    trainer, data = train(tmp_path)
    for name in ("knn_student", "knn_teacher"):
        scores = logged(trainer, f"probe/{name}")
        assert list(scores) == [0, 3, 6, 7]
        assert all(0 <= score <= 1 for score in scores.values())
    assert [split.reads for split in data] == [61, 53]  # read once


def test_student_and_teacher_are_measured_as_the_encoders_they_are(tmp_path):
    trainer, (train_data, test_data) = train(tmp_path)
    students, teachers = logged(trainer, "probe/knn_student"), logged(trainer, "probe/knn_teacher")
    # this trainer never moves the teacher
    assert set(teachers.values()) == {students[0]}
    assert students[3] != students[0]
    features = [
        array
        for split in (train_data, test_data)
        for array in probe.extract_features(trainer.model.base_model, [collate(split)])
    ]
    assert students[7] == probe.knn_accuracy(*features)


def test_large_splits_are_read_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(online_probe, "MOST_EXAMPLES", 37)
    trainer, (train_data, test_data) = train(tmp_path, steps=1)
    assert (train_data.reads, test_data.reads) == (37, 37)
    train_part, test_part = (probe.subset(split, 37, seed=0) for split in (train_data, test_data))
    features = [
        array
        for split in (train_part, test_part)
        for array in probe.extract_features(trainer.model.base_model, [collate(split)])
    ]
    assert logged(trainer, "probe/knn_student")[1] == probe.knn_accuracy(*features)


def test_the_logs_of_its_steps_are_not_lost(tmp_path):
    trainer, _ = train(tmp_path)
    assert list(logged(trainer, "loss")) == [2, 4, 6]  # step 6 is probed too


def test_training_is_not_disturbed(tmp_path):
    (probed, _), (plain, _) = train(tmp_path / "a"), train(tmp_path / "b", probed=False)
    expected = plain.model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in probed.model.state_dict().items())
    assert logged(probed, "loss") == logged(plain, "loss")
    assert probed.model.training and not probed.model.teacher.training


def test_other_processes_go_on(tmp_path, monkeypatch):
    trainer, data = train(tmp_path, steps=1)
    monkeypatch.setattr(online_probe, "extract_features", lambda *args, **kwargs: pytest.fail("computed"))
    callback = ProbeCallback(trainer, *data, collate, probe_steps=1, clock=TrainingClock())
    state = dataclasses.replace(TrainerState(), global_step=1, is_world_process_zero=False)
    callback.on_step_end(trainer.args, state, TrainerControl(), model=trainer.model)


def test_a_support_vector_machine_is_logged_where_it_is_asked_for(tmp_path):
    trainer, _ = train(tmp_path, steps=2)
    assert not any(name.startswith("probe/svm") for log in trainer.state.log_history for name in log)
    data = images(61, seed=2), images(53, seed=3)
    callback = ProbeCallback(trainer, *data, collate, probe_steps=1, clock=TrainingClock(), svm=True)
    callback._measure(TrainerControl(), trainer.model)
    scores = trainer.state.log_history[-1]
    (train_x, train_y), (test_x, test_y) = (
        probe.extract_features(trainer.model.base_model, probe.batches_of(of, collate)) for of in data
    )
    machine = SVC(C=0.012, kernel="linear").fit(train_x, train_y)
    assert scores["probe/svm_student"] == np.mean(machine.predict(test_x) == test_y)
    assert {"probe/svm_teacher", "probe/knn_student"} <= scores.keys()
