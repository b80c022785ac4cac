"""Token classification and question answering with plain `transformers`: train, save, open.

No code of ours is between the encoder's folder and the Trainer: the Auto classes of both families must do.
"""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    default_data_collator,
    pipeline,
)

import data2vec.modeling  # noqa: F401  # registers the 2.0 classes
from tests.finetune.encoders import FAMILIES, encoder_folder
from tests.finetune.texts import BAD, GOOD, PLAIN, text


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request, tmp_path_factory):
    quiet = {
        "v1": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        "v2": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    }[request.param]
    return encoder_folder(tmp_path_factory.mktemp("encoder") / request.param, "text", request.param, **quiet)


def fit(model, rows, collator, tokenizer, folder, steps):
    """The losses over a stock training; the model is in `folder` afterwards."""
    arguments = TrainingArguments(
        str(folder),
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
        logging_steps=5,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model, arguments, train_dataset=rows, data_collator=collator, processing_class=tokenizer)
    trainer.train()
    trainer.save_model()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_token_classification(encoder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rng, names = np.random.default_rng(0), ["O", "B-GOOD", "B-BAD"]
    rows = []
    for _ in range(128):
        words = text(rng, str(rng.choice(GOOD + BAD))).split()
        tags = [1 if word in GOOD else 2 if word in BAD else 0 for word in words]
        encoded = tokenizer(words, is_split_into_words=True)
        encoded["labels"] = [-100 if word is None else tags[word] for word in encoded.word_ids()]
        rows.append(dict(encoded))
    id2label = dict(enumerate(names))
    model = AutoModelForTokenClassification.from_pretrained(
        encoder, id2label=id2label, label2id={name: i for i, name in id2label.items()}
    )
    losses = fit(model, rows, DataCollatorForTokenClassification(tokenizer), tokenizer, tmp_path, steps=30)
    assert losses[-1] < 0.2 * losses[0]

    tag = pipeline("token-classification", model=str(tmp_path), device="cpu")
    found = tag("the poor and of the good")
    assert [(entry["word"], entry["entity"]) for entry in found if entry["entity"] != "O"] == [
        ("poor", "B-BAD"),
        ("good", "B-GOOD"),
    ]


def test_question_answering(encoder, tmp_path):
    """What follows the word that is asked for?"""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    rng, rows = np.random.default_rng(0), []
    for _ in range(256):
        context = [str(word) for word in rng.choice(PLAIN[:12], 9)]
        place = int(rng.integers(1, 9))
        context[place] = str(rng.choice(PLAIN[12:]))
        asked = str(rng.choice(GOOD))
        encoded = tokenizer(asked, " ".join(context), padding="max_length", max_length=16)
        token = encoded.char_to_token(len(" ".join(context[:place])) + 1, sequence_index=1)
        rows.append({**encoded, "start_positions": token, "end_positions": token})
    model = AutoModelForQuestionAnswering.from_pretrained(encoder)
    losses = fit(model, rows, default_data_collator, tokenizer, tmp_path, steps=60)
    assert losses[-1] < 0.2 * losses[0]

    reopened = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, reopened.state_dict()[name])
    asked = AutoTokenizer.from_pretrained(tmp_path)(  # transformers 5 has no pipeline for it any more
        "good", f"the of and to {PLAIN[15]} the in is", return_tensors="pt"
    )
    with torch.no_grad():
        said = reopened.eval()(**asked)
    start, end = int(said.start_logits.argmax()), int(said.end_logits.argmax())
    assert tokenizer.decode(asked["input_ids"][0, start : end + 1]) == PLAIN[15]
