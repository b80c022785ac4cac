"""The baseline does the same work as the package: with the same weights, the same loss."""

from typing import Any

import pytest
import torch
from baseline import MoveTeacher, plain_trainer
from systems import SYSTEMS, build


def batch_of(data: Any) -> dict[str, torch.Tensor]:
    keys = next(iter(data.batch_sampler))
    return data.collator([data.train_dataset[key] for key in keys])


@pytest.mark.parametrize("name", SYSTEMS)
def test_same_weights_same_loss(name: str, tmp_path: Any) -> None:
    run, data = build(name, size="tiny", output_dir=str(tmp_path))
    ours = run.model_class(run.config).train()
    plain: Any = plain_trainer(run, data).model.train()
    batch = batch_of(data)
    if name.endswith("v1"):
        plain.student.load_state_dict(ours.base_model.state_dict(), strict=False)
        inside = plain.student.encoder if name == "audio_v1" else plain.student
        plain.teacher.load_state_dict(inside.state_dict())
        pairs = zip(plain.head.parameters(), ours.head.parameters(), strict=True)
        for theirs, own in pairs:
            theirs.data.copy_(own)
    else:
        plain.load_state_dict(ours.state_dict())
        _, views, time = batch["masked"].shape
        noise = torch.randn(len(batch["masked"]), views, time, run.config.hidden_size)
        batch["mask_noise"] = noise
    losses = [model(**batch)["loss"] for model in (plain, ours)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-6)


def test_the_teacher_moves_towards_the_student(tmp_path: Any) -> None:
    run, data = build("audio_v1", size="tiny", output_dir=str(tmp_path))
    trainer = plain_trainer(run, data)
    model: Any = trainer.model
    [mover] = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, MoveTeacher)]
    before = {name: value.clone() for name, value in model.teacher.named_parameters()}
    with torch.no_grad():
        for value in model.student.parameters():
            value.add_(1.0)
    mover.on_optimizer_step(None, trainer.state, None)
    decay = run.objective.decay_at(1)
    for name, value in model.teacher.named_parameters():
        torch.testing.assert_close(value, before[name] + (1 - decay))
