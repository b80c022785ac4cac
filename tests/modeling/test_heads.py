"""data2vec 2.0 with a task's head: the losses, pooling and padding that fine-tuning relies on."""

import pytest
import torch
from torch.nn import functional as F

from data2vec.modeling import (
    Data2Vec2AudioForAudioFrameClassification,
    Data2Vec2AudioForCTC,
    Data2Vec2AudioForSequenceClassification,
    Data2Vec2AudioModel,
    Data2Vec2TextForQuestionAnswering,
    Data2Vec2TextForSequenceClassification,
    Data2Vec2TextForTokenClassification,
    Data2Vec2VisionForImageClassification,
)
from tests.modeling.tiny_data2vec2 import build, inputs, same


def test_ctc_reads_real_frames_only():
    model = build(Data2Vec2AudioForCTC)  # the sum over clips
    labels = torch.tensor([[3, 4, 4, -100], [5, -100, -100, -100], [1, 2, 3, 10]])
    output = model(**inputs("audio", padded=True), labels=labels)
    assert output.logits.shape == (3, 30, 11)  # without the 2 extra tokens
    expected = torch.zeros(())
    for row, frames in enumerate([30, 22, 30]):
        said = labels[row][labels[row] >= 0]
        expected = expected + F.ctc_loss(
            output.logits[row, :frames].log_softmax(-1), said, torch.tensor(frames), torch.tensor(len(said))
        ) * len(said)
    same(output.loss, expected)
    with pytest.raises(ValueError, match="labels holds 11: vocab_size = 11 is too small"):
        model(**inputs("audio"), labels=torch.full((3, 4), 11))


@pytest.mark.parametrize("empty", [torch.zeros(2, 0, dtype=torch.long), torch.full((2, 4), -100)])
def test_clips_without_words_are_all_blank(empty):
    model, batch = build(Data2Vec2AudioForCTC), {"input_values": inputs("audio")["input_values"][:2]}
    output = model(**batch, labels=empty)
    blanks = output.logits.log_softmax(-1)[..., model.config.pad_token_id]
    same(output.loss, -blanks.sum())


def test_clip_is_the_mean_of_its_frames():
    model = build(Data2Vec2AudioForSequenceClassification, num_labels=5)
    padded, labels = inputs("audio", padded=True), torch.tensor([4, 0, 2])
    output = model(**padded, labels=labels)
    hidden = model.base_model(**padded).last_hidden_state[:, 2:]
    for row, frames in enumerate([30, 22, 30]):
        same(output.logits[row], model.classifier(model.projector(hidden[row, :frames]).mean(0)))
    same(output.loss, F.cross_entropy(output.logits, labels))


def test_weighted_sum_of_layers():
    model = build(Data2Vec2AudioForSequenceClassification, use_weighted_layer_sum=True)
    with torch.no_grad():
        model.layer_weights.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]))
    output = model(**inputs("audio"), output_hidden_states=True)
    states = model.base_model(**inputs("audio"), output_hidden_states=True).hidden_states
    shares = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0]).softmax(0)
    mixed = sum(share * state for share, state in zip(shares, states, strict=True))[:, 2:]
    same(output.logits, model.classifier(model.projector(mixed).mean(1)))
    assert len(output.hidden_states) == 5 and model(**inputs("audio")).hidden_states is None


def test_frames_take_classes_or_one_hot_labels():
    model = build(Data2Vec2AudioForAudioFrameClassification, num_labels=4)
    classes = torch.randint(0, 4, (3, 30), generator=torch.Generator().manual_seed(0))
    output = model(**inputs("audio"), labels=classes)
    assert output.logits.shape == (3, 30, 4)
    same(output.loss, F.cross_entropy(output.logits.transpose(1, 2), classes))
    same(model(**inputs("audio"), labels=F.one_hot(classes, 4)).loss, output.loss)
    several = F.one_hot(classes, 4).float()
    same(
        model(**inputs("audio"), labels=several).loss,
        F.binary_cross_entropy_with_logits(output.logits, several),
    )


def test_spec_augment_zeroes_spans_in_training_only():
    fields = {"mask_time_prob": 0.5, "mask_time_length": 4, "mask_feature_prob": 0.3, "mask_feature_length": 3}
    model, plain = build(Data2Vec2AudioModel, **fields), build(Data2Vec2AudioModel)
    padded = inputs("audio", padded=True)
    same(model(**padded).last_hidden_state, plain(**padded).last_hidden_state, 0.0)
    torch.manual_seed(0)
    tokens = model.embed((padded["input_values"],), padded["attention_mask"])
    zeroed = model.train()._spec_augment(tokens._replace(values=torch.ones(3, 30, 24))) == 0
    whole_frames, whole_channels = zeroed.all(2), zeroed.all(1)
    assert whole_frames.any(1).all() and whole_channels.any(1).all()
    assert (zeroed == whole_frames.unsqueeze(2) | whole_channels.unsqueeze(1)).all()
    assert not whole_frames[1, 22:].any()  # what is padding is not masked
    assert not torch.equal(model(**padded).last_hidden_state, plain(**padded).last_hidden_state)


def test_front_end_can_be_frozen():
    model = build(Data2Vec2AudioForCTC)
    model.freeze_feature_encoder()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"data2vec2.embeddings.{n}" for n in ("first_conv.weight", "convs.0.weight")} | {
        f"data2vec2.embeddings.conv_norms.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")
    }


@pytest.mark.parametrize("pooling", [True, False])
def test_image_is_the_mean_of_its_patches_or_its_extra_token(pooling):
    model = build(Data2Vec2VisionForImageClassification, num_labels=5, use_mean_pooling=pooling)
    output = model(**inputs("vision"), labels=torch.tensor([4, 0, 2]))
    hidden = model.base_model(**inputs("vision")).last_hidden_state
    pooled = hidden[:, 1:].mean(1) if pooling else hidden[:, 0]
    same(output.logits, model.classifier(model.norm(pooled)))
    same(output.loss, F.cross_entropy(output.logits, torch.tensor([4, 0, 2])))


def test_text_labels():
    model = build(Data2Vec2TextForSequenceClassification, num_labels=3)
    padded = inputs("text", padded=True)
    output = model(**padded, labels=torch.tensor([2, 0, 1]))
    first = model.base_model(**padded).last_hidden_state[:, 0]
    same(output.logits, model.classifier(torch.tanh(model.dense(first))))
    same(output.loss, F.cross_entropy(output.logits, torch.tensor([2, 0, 1])))

    regression = build(Data2Vec2TextForSequenceClassification, num_labels=1)
    scores = torch.tensor([0.5, 2.0, -1.0])
    output = regression(**padded, labels=scores)
    same(output.loss, (output.logits[:, 0] - scores).square().mean())

    several = build(Data2Vec2TextForSequenceClassification, num_labels=3, problem_type="multi_label_classification")
    chosen = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 0]])
    output = several(**padded, labels=chosen)
    same(output.loss, F.binary_cross_entropy_with_logits(output.logits, chosen.float()))


def test_token_labels():
    model = build(Data2Vec2TextForTokenClassification, num_labels=4)
    padded = inputs("text", padded=True)
    labels = torch.randint(0, 4, (3, 19), generator=torch.Generator().manual_seed(0))
    labels = labels.masked_fill(padded["attention_mask"] == 0, -100)
    output = model(**padded, labels=labels)
    real = labels >= 0
    same(output.loss, F.cross_entropy(output.logits[real], labels[real]))


def test_answers():
    model = build(Data2Vec2TextForQuestionAnswering)
    start, end = torch.tensor([1, 99, 4]), torch.tensor([2, 3, 6])  # the second starts outside the text
    output = model(**inputs("text"), start_positions=start, end_positions=end)
    assert output.start_logits.shape == output.end_logits.shape == (3, 19)
    known = torch.tensor([0, 2])
    expected = F.cross_entropy(output.start_logits[known], start[known]) + F.cross_entropy(output.end_logits, end)
    same(output.loss, expected / 2)
    columns = model(**inputs("text"), start_positions=start.unsqueeze(1), end_positions=end.unsqueeze(1))
    same(columns.loss, output.loss)
