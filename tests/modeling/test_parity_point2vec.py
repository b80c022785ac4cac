"""Point2Vec computes what the original does (kabouzeid/point2vec): its own checkpoints, steps and gradients."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from data2vec.modeling.convert.checkpoint import read_checkpoint
from data2vec.modeling.convert.keys import translated
from data2vec.modeling.convert.sources import source_of
from data2vec.modeling.convert.weights import load
from data2vec.tests.reference import cases, folder_of


PRETRAINED = cases("point2vec_?") + cases("data2vec_pc_?")
CLASSIFIERS, PARTS = cases("point2vec_cls_?"), cases("point2vec_seg_?")
FIRST = 1024  # numbers that a large tensor is stored with, besides its sums


class Case:
    """A converted checkpoint, and what the original makes of its inputs."""

    def __init__(self, name: str):
        folder = folder_of(name)
        self.name = name
        self.config = json.loads((folder / "config.json").read_text())
        self.io, self.step = load_file(folder / "io.safetensors"), load_file(folder / "step.safetensors")
        read = read_checkpoint(folder / "checkpoint.pt")
        self.source, self.tuned = source_of(read)
        configure = self.source.tuned.config if self.tuned else self.source.config
        config, _ = configure(read.cfg, read.tensors)
        self.model, _ = load(read.tensors, self.source, self.tuned, config, encoder_only=False)
        self.rows = self.source.tuned_rows() if self.tuned else self.source.rows
        self.updates = read.num_updates
        for name, weight in self.model.named_parameters():
            if name in {self.ours(theirs) for theirs in self.config["no_grad_params"]}:
                weight.requires_grad_(False)

    def ours(self, name: str) -> str:
        name = name.replace("encoder.", "student.", 1) if self.tuned and name.startswith("encoder.") else name
        found = translated(name, self.rows)
        assert found is not None, name
        return found

    def compare(self, kind: str, stored: dict, found: dict) -> None:
        """Whole tensors, or the first numbers and the sums of large ones.

        Adam's first step is the sign of a gradient: of parameters those whose gradient is nothing but rounding, such
        as the bias of keys, are passed over.
        """
        weights = dict(self.model.named_parameters())
        seen = 0
        for name, expected in stored.items():
            part, _, theirs = name.partition(".")
            if part not in (kind, f"{kind}_head", f"{kind}_stat"):
                continue
            own = self.ours(theirs)
            actual, expected = found[own].detach().float(), expected.float()
            if part.endswith("_stat"):
                sums = torch.stack((actual.sum(), actual.abs().sum(), actual.norm()))
                slack = 1e-4 if kind == "grad" else 1e-3 * len(actual.flatten()) ** 0.5
                torch.testing.assert_close(sums, expected, rtol=1e-4, atol=slack, msg=lambda m, n=name: f"{n}: {m}")
                continue
            gradient = weights[own].grad if kind == "param" and own in weights else None
            sure = torch.ones_like(actual, dtype=torch.bool) if gradient is None else gradient.abs() > 1e-6
            actual, sure = actual.flatten()[: expected.numel()], sure.flatten()[: expected.numel()]
            slack = 1e-5 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(
                actual[sure], expected.flatten()[sure], rtol=1e-5, atol=slack, msg=lambda m, n=name: f"{n}: {m}"
            )
            seen += 1
        assert seen > 20


@pytest.fixture(scope="module")
def opened():
    return {}


@pytest.fixture
def case(request, opened):
    if request.param not in opened:
        opened[request.param] = Case(request.param)
    return copy.deepcopy(opened[request.param])


def close(actual, expected, rtol=1e-5, atol=1e-5):
    torch.testing.assert_close(actual.detach().view_as(expected), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("case", PRETRAINED, indirect=True)
def test_features_of_the_encoder(case):
    io, encoder = case.io, case.model.point2vec.eval()
    tokens = encoder.embed((io["in.points"], None, None))
    close(tokens.coordinates, io["group.centers"])
    close(tokens.values, io["feat.tok.tokens"])
    close(encoder.positions(tokens), io["feat.pos"])
    out = encoder(io["in.points"], output_hidden_states=True)
    close(out.last_hidden_state, io["feat.student.out"])
    for number, states in enumerate(out.hidden_states[1:]):
        close(states, io[f"feat.student.block_out.{number}"])


@pytest.mark.parametrize("case", PRETRAINED, indirect=True)
def test_step_of_pretraining(case):
    io, model = case.io, case.model.train()
    masked = io["in.mask"].bool()
    out = model(io["in.points"], masked=masked, output_teacher_layers=True)
    close(out.all_targets, io["target.full"])
    close(out.targets, io["target.masked"])
    close(out.predictions, io["pred"])
    close(out.loss, io["loss"], rtol=1e-6, atol=1e-6)
    if model.objective.decoder is not None:
        close(out.last_hidden_state, io["student.out"])
    tap = "ffn" if model.objective.target_tap == "ffn" else "block_out"
    for number, layer in enumerate(out.teacher_layers):
        close(layer, io[f"teacher.{tap}.{number}"])
    out.loss.backward()
    case.compare("grad", io, {name: weight.grad for name, weight in model.named_parameters()})


@pytest.mark.parametrize("case", PRETRAINED, indirect=True)
def test_weights_and_teacher_after_a_step(case):
    io, model = case.io, case.model.train()
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    how = case.config["optimizer"]
    optimizer = torch.optim.AdamW(
        trained, lr=case.config["lr"], betas=tuple(how["betas"]), eps=how["eps"], weight_decay=how["weight_decay"]
    )
    model(io["in.points"], masked=io["in.mask"].bool()).loss.backward()
    optimizer.step()
    model.objective.ema_anneal_steps = round(case.config["tau_steps"])  # the file does not hold it
    decay = model.objective.decay_at(case.updates + 1)
    assert decay == pytest.approx(case.config["decay_used"], abs=1e-12)
    model.update_teacher(decay)
    case.compare("param", case.step, dict(model.named_parameters()) | dict(model.named_buffers()))
    case.compare("ema", {named(name): tensor for name, tensor in case.step.items()}, dict(model.named_parameters()))


def named(name: str) -> str:
    """Averages are stored without their place in the checkpoint."""
    kind, _, theirs = name.partition(".")
    return name if not kind.startswith("ema") else f"{kind}.teacher.ema_model.{theirs.removeprefix('ema_model.')}"


@pytest.mark.parametrize("case", CLASSIFIERS, indirect=True)
def test_classifier(case):
    io, model = case.io, case.model.eval()
    labels = io["in.label"].long()
    out = model(io["in.points"], labels=labels)
    close(out.logits, io["feat.logits"])
    close(out.loss, io["feat.loss"])
    out = model.train()(io["in.points"], labels=labels)
    close(out.logits, io["train.out"])
    close(out.loss, io["loss"])
    after_a_step(case, out)


@pytest.mark.parametrize("case", PARTS, indirect=True)
def test_part_segmentation(case):
    io, model = case.io, case.model.eval()
    given = {"categories": io["in.label"].long(), "labels": io["in.seg_label"].long()}
    out = model(io["in.points"], **given)
    close(out.logits.log_softmax(-1), io["feat.log_prob"])
    close(out.loss, io["feat.loss"])
    out = model.train()(io["in.points"], **given)
    close(out.logits.log_softmax(-1), io["train.out"], rtol=1e-4)
    close(out.loss, io["loss"])
    after_a_step(case, out)


def after_a_step(case, out):
    model = case.model
    out.loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    without = {case.ours(name) for name in case.config["no_grad_params"]}
    assert {name for name, gradient in gradients.items() if gradient is None} == without
    case.compare("grad", case.io, gradients)
    how, rate = case.config["optimizer"], case.config["lr"][0]
    trained = [weight for weight in model.parameters() if weight.grad is not None]
    torch.optim.AdamW(
        trained, lr=rate, betas=tuple(how["betas"]), eps=how["eps"], weight_decay=how["weight_decay"]
    ).step()
    case.compare("param", case.step, dict(model.named_parameters()) | dict(model.named_buffers()))
