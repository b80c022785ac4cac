"""Reports of real runs of seconds, of all modalities and both families, and of folders that lack this and that."""

import html
import json
import re
import shutil

import datasets
import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from data2vec.model_cards.folder import open_folder, read_log_file, with_log_file
from data2vec.model_cards.report import command, page_facts
from data2vec.model_cards.report.command import main, pictures_folder, write_page
from data2vec.model_cards.report.inputs import FIRST, Inputs
from data2vec.pretraining import run
from data2vec.pretraining.arguments import resolve
from data2vec.pretraining.modalities.build import build_data
from data2vec.tests.model_cards.browser import LAPTOP, PHONE, Browser, chromium
from data2vec.tests.pretraining.tiny_runs import MODELS, recipe, write_sources


HOSTILE = "<script>document.title='taken'</script>"
REPORT = {
    "max_examples": 150, "neighbours": 3, "labels_per_class": 2, "draws": 2, "fine_tune_steps": 2,
    "fine_tune_batch_size": 8, "fine_tune_learning_rates": [0.001],
}  # fmt: skip


def write_labelled(folder):
    """Two classes of tones and of texts, in the splits that a probe reads; one is called what a page must not run."""
    for split in ("train", "test"):
        for number in range(12):
            place = folder / "sounds" / split / f"pitch{number % 2}"
            place.mkdir(parents=True, exist_ok=True)
            tone = np.sin(np.arange(4000) * (0.1 + 0.3 * (number % 2)))
            soundfile.write(place / f"{number}.wav", tone + np.random.default_rng(number).normal(0, 0.1, 4000), 16000)
    texts = {"text": [f"the {word} fox" for word in 12 * ["lazy", "quick"]], "label": 12 * [HOSTILE, "quick"]}
    splits = {split: datasets.Dataset.from_dict(texts) for split in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(folder / "texts")
    clouds = datasets.Dataset.from_parquet(str(folder.parent / "data" / "clouds.parquet"))
    clouds = clouds.add_column("label", 20 * [0, 1])
    datasets.DatasetDict(dict.fromkeys(("train", "test"), clouds)).save_to_disk(folder / "clouds")
    clips = datasets.Dataset.from_parquet(str(folder.parent / "data" / "speech.parquet"))
    clips = clips.add_column("label", 20 * [0, 1])
    datasets.DatasetDict(dict.fromkeys(("train", "test"), clips)).save_to_disk(folder / "mouths")
    return {
        "audio": {"path": str(folder / "sounds")},
        "eat": {"path": str(folder / "sounds")},
        "points": {"path": str(folder / "clouds")},
        "figures": {"path": "builtin:figures"},
        "av": {"path": str(folder / "mouths")},
        "emotion2vec": {"path": str(folder / "sounds")},
        "text": {"path": str(folder / "texts")},
        "vision": {"path": "builtin:digits"},
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of every system; that of vision-1 with probes and a report."""
    folder = tmp_path_factory.mktemp("runs")
    write_sources(folder / "data")
    probes = write_labelled(folder / "labelled")
    for system in MODELS:
        written = recipe(system, folder / "data", folder / system, save_steps=8)
        written["data"]["probe"] = probes[system.split("-")[0]]
        if system == "vision-1":
            written["training"]["probe_steps"] = 4
            written["report"] = REPORT
        path = folder / f"{system}.yaml"
        path.write_text(yaml.safe_dump(written))
        assert run.main([str(path)]) == 0
    return folder


@pytest.fixture(scope="module")
def curves(runs):
    return page_facts.curves({"vision-1": open_folder(runs / "vision-1")})


@pytest.fixture
def drawn_once(curves, monkeypatch):
    draw_once(monkeypatch, curves)


def draw_once(patch, curves):
    """The same curves on every page, and one picture for those put together: they take longest to draw."""
    patch.setattr(page_facts, "curves", lambda folders: curves)
    patch.setattr(command, "contact_sheet", lambda groups: groups[0].figures[0].png)


@pytest.fixture(scope="module")
def pages(runs, curves):
    """The page of every system, and one of two runs, which is drawn in full."""
    shown = {system: [runs / system] for system in MODELS} | {"two": [runs / "vision-1", runs / "vision-2"]}
    found = {name: runs / "pages" / f"{name}.html" for name in shown}
    write_page(shown["two"], found["two"])
    with pytest.MonkeyPatch.context() as patch:
        draw_once(patch, curves)
        for name in MODELS:
            write_page(shown[name], found[name])
    return found


def section(page, key):
    """The HTML of a section."""
    text = page.read_text(encoding="utf-8")
    return re.search(rf'<section id="{key}".*?</section>', text, re.DOTALL)[0]


def words(fragment):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", fragment)).split())


def png(page, name):
    return np.asarray(Image.open(pictures_folder(page) / f"{name}.png").convert("RGB"))


# ---- what a reader finds ----


@pytest.mark.parametrize("system", MODELS)
def test_a_finished_run_shows_everything(pages, system):
    for key in ("curves", "masks", "features", "attention"):
        assert "Not shown" not in section(pages[system], key), words(section(pages[system], key))
        assert "<figure" in section(pages[system], key)
    assert "of labelled" not in words(section(pages[system], "features")) and "coloured by label" in words(
        section(pages[system], "features")
    )
    assert "add --layers" in words(section(pages[system], "layers"))
    names = {path.stem for path in pictures_folder(pages[system]).glob("*.png")}
    assert names >= {"curve_loss", "curve_spread", "curve_effective_rank", "masks", "attention", "features"}


@pytest.mark.parametrize("system", MODELS)
def test_two_point_zero_shows_every_view(pages, system):
    views = len(set(re.findall(r"view \d+: ", words(section(pages[system], "masks")))))
    assert views == (2 if system.endswith("2") else 0)


def test_numbers_are_those_of_the_folder(runs, pages):
    report = json.loads((runs / "vision-1" / "report.json").read_text())
    log = json.loads((runs / "vision-1" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert f"loss {losses[0]:.3g} → {losses[-1]:.3g}" in words(section(pages["vision-1"], "health"))
    accuracy = report["rows"]["student"]["linear_probe"]["accuracy"]
    assert f"pretrained student {100 * accuracy:.1f} " in words(section(pages["vision-1"], "results"))
    assert "There is no report.json" in words(section(pages["text-1"], "results"))
    assert "objective.views 2" in words(section(pages["text-2"], "recipe"))


def test_covered_pixels_are_the_hidden_patches(pages):
    """Of 4 x 4 patches of the digits, those that the caption counts are covered, and the others are as they were."""
    whole, view = png(pages["vision-1"], "mask1_whole"), png(pages["vision-1"], "mask1_view1")
    size = whole.shape[0] // 4
    hidden = 0
    for row in range(4):
        for column in range(4):
            place = np.s_[row * size : (row + 1) * size, column * size : (column + 1) * size]
            changed = (whole[place] != view[place]).any(-1).mean()
            assert changed in (0, 1)
            hidden += changed
            assert changed == 0 or (view[place][..., 2] > view[place][..., 0]).all(), "blue stripes, no grey"
    said = re.search(r"(\d+) of 16 patches hidden", words(section(pages["vision-1"], "masks")))
    assert hidden == int(said[1]) > 0


def test_masks_are_those_of_the_run(runs):
    """The run's own data, collator and seed, opened as a run opens them, give the same examples and masks."""
    inputs = Inputs(open_folder(runs / "vision-2"))
    (shown,) = inputs.masked(inputs.examples(1))
    settings = resolve(yaml.safe_load((runs / "vision-2.yaml").read_text()))
    data = build_data(
        settings.data, config=settings.config, objective=settings.objective, seed=settings.training.seed, batch_size=4
    )
    names = [data.train_dataset[(0, index)]["name"] for index in range(FIRST)]
    batch = data.collator([data.train_dataset[(0, names.index(shown.name))]])
    assert np.array_equal(shown.masked, batch["masked"][0].numpy()) and shown.masked.shape == (2, 16)
    assert np.array_equal(shown.batch["pixel_values"], batch["pixel_values"])


def test_a_stream_is_shown_too(runs, tmp_path):
    folder = shutil.copytree(runs / "text-1", tmp_path / "stream")
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    written["data"] |= {"streaming": True, "shuffle_buffer": 20}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
    inputs = Inputs(open_folder(folder))
    shown = inputs.masked(inputs.examples(3))
    assert len(shown) == 3 and all(example.masked.shape[1] <= 24 for example in shown)


def test_hidden_tokens_are_marked(pages):
    fragment = section(pages["text-1"], "masks")
    said = [int(number) for number in re.findall(r"(\d+) of \d+ tokens hidden", words(fragment))]
    views = re.findall(r'<p class="passage".*?</p>', fragment, re.DOTALL)[1::2]
    assert [view.count("<mark>") for view in views] == said and sum(said) > 0
    whole, hidden = re.findall(r'<p class="passage".*?</p>', fragment, re.DOTALL)[:2]
    assert re.sub(r"<[^>]*>", "", whole) == re.sub(r"<[^>]*>", "", hidden), "what is hidden can still be read"


def test_layers_are_probed_when_asked(runs, drawn_once, tmp_path):
    page = write_page([runs / "audio-2"], tmp_path / "page.html", compute_layers=True)
    fragment = section(page, "layers")
    rows = re.findall(r"<tr><th scope=\"row\">(layer \d)</th>((?:<td.*?</td>)+)", fragment)
    assert [name for name, _ in rows] == ["layer 0", "layer 1", "layer 2"]
    cells = [[float(cell) for cell in re.findall(r">([\d.]+)<", row)] for _, row in rows]
    assert all(len(row) == 4 and all(0 <= number <= 100 for number in row) for row in cells)
    assert (pictures_folder(page) / "layers.png").is_file()


@pytest.mark.parametrize(
    ("metric", "head", "last"),
    [({}, "Accuracy in %, by layer", "61.3 70.0"), ({"metric": "r2"}, "R², by layer", "0.613 0.700")],
)
def test_a_probe_run_in_the_folder_gives_the_layers(runs, drawn_once, tmp_path, metric, head, last):
    folder = shutil.copytree(runs / "text-1", tmp_path / "run")
    layers = {f"layer_{number}": {"knn": 0.5 + number / 10, "linear": 0.613} for number in range(3)}
    results = {
        **metric,
        "model": "elsewhere",
        "probed": {"pretrained": {"layers": layers}, "pixels": {"layers": {"raw": {}}}},
    }
    (folder / "probe").mkdir()
    (folder / "probe" / "results.json").write_text(json.dumps(results))
    found = words(section(write_page([folder]), "layers"))
    assert head in found and f"layer 2 {last}" in found and "pixels" not in found


def test_two_runs_stand_side_by_side(pages):
    differences = words(section(pages["two"], "recipe"))
    assert "objective.views – 2" in differences and "model.model_type data2vec-vision data2vec2-vision" in differences
    assert "model.image_size" not in differences.split("Every field")[0]
    assert section(pages["two"], "masks").count('<h3 class="run">') == 2
    assert "vision-1 is the solid line, vision-2 the dashed one" in words(section(pages["two"], "curves"))


def test_a_log_file_holds_what_the_state_holds(runs, tmp_path):
    """A run that was stopped or killed leaves its end there alone."""
    state = json.loads((runs / "vision-1" / "trainer_state.json").read_text())["log_history"]
    found = read_log_file(runs / "vision-1")
    assert [entry["step"] for entry in found] == [entry["step"] for entry in state]
    for before, after in zip(state, found, strict=True):
        assert after == pytest.approx({name: before[name] for name in after}, rel=1e-4)
        assert set(before) - set(after) <= {"epoch", "total_flos"}
    shutil.copytree(runs / "vision-1" / "logs", tmp_path / "logs")
    early = [entry for entry in state if entry["step"] <= 3]
    merged = with_log_file(early, tmp_path)
    assert [entry["step"] for entry in merged] == [entry["step"] for entry in state]
    with (tmp_path / "logs" / "rank-0.log").open("a") as file:
        file.write("x INFO data2vec.pretraining.monitoring.health: continues from checkpoint-4, of 8 steps\n")
        file.write("x INFO data2vec.pretraining.monitoring.health: step 6 of 8: loss 7.5, target_std nan\n")
    steps = [entry["step"] for entry in read_log_file(tmp_path)]
    assert steps == [entry["step"] for entry in state if entry["step"] <= 4] + [6]


# ---- folders that lack something ----


def test_a_running_run_has_a_page(runs, tmp_path):
    """Only a checkpoint and health.json, as while it runs."""
    folder = tmp_path / "running"
    folder.mkdir()
    for name in ("recipe.yaml", "run.json", "health.json", "checkpoint-8"):
        source = runs / "audio-1" / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    page = write_page([folder])
    assert "<figure" in section(page, "masks") and "<figure" in section(page, "attention")
    assert "report.json" in words(section(page, "missing")) and "<figure" in section(page, "curves")


@pytest.mark.parametrize("kept", ["trainer_state.json", "recipe.yaml", "health.json"])
def test_a_single_file_is_enough_for_a_page(runs, tmp_path, kept):
    folder = tmp_path / "rest"
    folder.mkdir()
    shutil.copy(runs / "vision-1" / kept, folder)
    page = write_page([folder])
    found = words(section(page, "missing"))
    assert all(name in found for name in {"trainer_state.json", "recipe.yaml", "weights"} - {kept})
    assert "Not shown" in section(page, "masks")


def test_data_out_of_reach_is_said_and_the_rest_shown(runs, drawn_once, tmp_path):
    folder = shutil.copytree(runs / "audio-1", tmp_path / "moved")
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    written["data"]["sources"] = [{"path": "./gone/clips"}]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(written))
    page = write_page([folder])
    assert "'./gone/clips'" in words(section(page, "masks")) and "start this command there" in section(page, "masks")
    assert "<figure" in section(page, "features") and "<figure" in section(page, "attention"), "from data.probe"


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "holds nothing of a run" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_a_map_that_is_not_installed_is_refused(runs, monkeypatch, capsys):
    monkeypatch.setattr("data2vec.model_cards.command_line.find_spec", lambda name: None)
    assert main([str(runs / "vision-1"), "--map", "umap"]) == 2
    assert "pip install umap-learn" in capsys.readouterr().err


def test_nothing_of_this_machine_and_no_script_in_a_page(runs, pages):
    for page in pages.values():
        text = page.read_text(encoding="utf-8")
        assert str(runs) not in text and "<script" not in text
    assert html.escape(HOSTILE)[:10] in section(pages["text-1"], "features")


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser():
    program = chromium()
    if program is None:
        pytest.skip("no chromium or google-chrome in PATH: apt-get install chromium")
    with Browser(program) as opened:
        yield opened


LOADED = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
DRAWN = "[...document.querySelectorAll('svg')].every(svg => svg.getBoundingClientRect().width > 150)"
OUTSIDE = """[...document.querySelectorAll('main *, header *')].filter(element => {
    const box = element.getBoundingClientRect();
    return box.width && box.right > innerWidth + 1 && !element.closest('.scroll') && !element.closest('svg');
}).map(element => element.outerHTML.slice(0, 80))"""
NAMED = "[...document.images].every(image => image.alt) && document.querySelectorAll('h1').length == 1"


@pytest.mark.parametrize("size", [PHONE, LAPTOP], ids=["phone", "laptop"])
@pytest.mark.parametrize("name", [*MODELS, "two"])
def test_pages_in_a_browser(pages, browser, name, size):
    address = pages[name].as_uri()
    browser.open(address, size)
    assert browser.errors == []
    assert [asked for asked in browser.requests if not asked.startswith("data:")] == [address]
    assert browser.run("document.documentElement.scrollWidth") <= size[0] == browser.run("innerWidth")
    assert browser.run(OUTSIDE) == []
    assert browser.run(LOADED) and browser.run(DRAWN) and browser.run(NAMED)
    assert browser.run("document.title") != "taken"


def test_letters_contrast_with_the_paper_by_day_and_night(pages, browser):
    for dark in (False, True):
        browser.open(pages["text-2"].as_uri(), LAPTOP, dark=dark)
        for chosen in ("p", "figcaption", "th", "a", "mark", ".state", "figure svg text"):
            script = f"(({CONTRAST}))(document.querySelector('main {chosen}, header {chosen}'))"
            assert browser.run(script) >= 4.5, (chosen, dark)


CONTRAST = """element => {
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map(
            part => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const style = getComputedStyle(element);
    let behind = element;
    while (behind && getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
    const ink = element.tagName === 'text' ? style.fill : style.color;
    const both = [light(ink), light(getComputedStyle(behind).backgroundColor)].sort((a, b) => a - b);
    return (both[1] + 0.05) / (both[0] + 0.05);
}"""
