"""The report: what it shows, what it says it cannot show, and that names of classes stay names."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import THEMES, opened, reached_by_tab, serious_faults
from planted import QUICK, planted_cache

from mgcli.cache import FeatureCache, FeatureSpec, PageError, check_clip_table, open_cache, remove_feature_set
from mgcli.fuse import Run, RunError, compare_heads, make_ensemble, train_head, write_report
from mgcli.fuse.report_group import group_runs
from mgcli.fuse.report_map import MapConfig, MapError, draw_map
from mgcli.fuse.run import HISTORY_FILE
from mgcli.fuse.run_names import varied_options

HOSTILE = "<img src=x onerror=alert(1)> & 'a' </script>"
SECTIONS = ["scores", "data", "confusion", "tail", "modalities", "calibration", "tokens", "training", "clips", "making"]
FIGURES = ["scores", "confusion", "tail", "modalities", "calibration", "tokens-video", "tokens-pose", "top1", "loss"]


def hostile_cache(path: Path) -> FeatureCache:
    """Four classes of clips in two modalities; one class has HTML for a name, another a colour of the page."""
    cache = planted_cache(path, rule="product", num_train=64, num_test=32)
    names = {"0": HOSTILE, "1": "--ink", "2": "shrug", "3": "nod"}
    table = cache.read_clips()
    cache.write_clips(check_clip_table(table.assign(gesture=table["gesture"].map(names))), "planted")
    return cache


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache and seven runs on it, which tests may copy and never change."""
    folder = tmp_path_factory.mktemp("project")
    cache = hostile_cache(folder / "features")
    compare_heads(
        cache, "gesture", seeds=2, runs=folder / "runs", config=QUICK, notes=[f"a note on {HOSTILE}"], processes=1
    )
    return folder


@pytest.fixture
def copied(project: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(project, tmp_path / "project"))


def runs_of(project: Path) -> list[Path]:
    """The fusion head first."""
    return sorted((project / "runs").glob("gesture-*"), key=lambda path: ("cross_modal" not in path.name, path.name))


def html_of(project: Path, runs: list[Path], *, cache: bool = True) -> str:
    out = project / "report.html"
    write_report(runs, out, **({"cache": open_cache(project / "features")} if cache else {}))
    return out.read_text(encoding="utf-8")


def text_of(html: str, anchor: str) -> str:
    """What a section says, without its tags and data."""
    (section,) = re.findall(rf'<section id="{anchor}".*?</section>', html, flags=re.DOTALL)
    section = re.sub(r"<script.*?</script>", " ", section, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", section))


def figures_of(html: str) -> dict[str, dict[str, object]]:
    """Anchor -> figure, as the page carries it."""
    found = re.findall(r'<script type="application/json" id="([\w-]+)-plot-data">(.*?)</script>', html)
    return {anchor: json.loads(text) for anchor, text in found}


def test_the_page_has_every_section_and_every_figure(copied: Path) -> None:
    html = html_of(copied, runs_of(copied))
    assert re.findall(r'<section id="gesture-([\w-]+)"', html) == SECTIONS
    assert set(figures_of(html)) == {f"gesture-{name}" for name in FIGURES}


def test_plotly_accepts_every_figure(copied: Path) -> None:
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for figure in figures_of(html_of(copied, runs_of(copied))).values():
        without_colours = json.loads(re.sub(r'"--[a-z]+(-\d)?"', '"#123456"', json.dumps(figure)))
        graph_objects.Figure(**without_colours)  # raises on a key or value that plotly does not know


def test_the_numbers_are_those_of_the_run(copied: Path) -> None:
    runs = runs_of(copied)
    html = html_of(copied, runs)
    run = Run.load(runs[0])
    found = run.metrics["test"]["top1"]
    low, high = run.intervals["test"]["top1"]
    cell = f"{100 * found['mean']:.1f} ± {100 * found['std']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    assert cell in text_of(html, "gesture-scores")
    matrix = np.array(json.loads((runs[0] / "metrics.json").read_text())["confusion"]["test"])
    shown = figures_of(html)["gesture-confusion"]["data"][0]["text"]  # type: ignore[index]
    assert [[int(cell) for cell in row] for row in shown] == matrix.tolist()
    assert "64 clips" not in text_of(html, "gesture-data")
    assert "96 clips labelled for gesture, 4 classes" in text_of(html, "gesture-data")


def test_names_with_html_stay_names(copied: Path) -> None:
    html = html_of(copied, runs_of(copied))
    assert "<img" not in html
    labels = figures_of(html)["gesture-confusion"]["data"][0]["x"]  # type: ignore[index]
    assert "<" not in "".join(labels)
    assert any("&lt;img" in label for label in labels)


def test_warnings_stand_at_the_top_and_below_the_scores(copied: Path) -> None:
    html = html_of(copied, runs_of(copied))
    assert html.index('<div class="warning"') < html.index("<section")
    assert "Warning: a note on" in text_of(html, "gesture-scores")


def test_without_a_cache_the_page_says_what_it_lacks(copied: Path) -> None:
    html = html_of(copied, runs_of(copied), cache=False)
    for anchor in ("tokens", "modalities", "tail", "data"):
        assert "no cache was given" in text_of(html, f"gesture-{anchor}"), anchor
    assert "gesture-confusion" in figures_of(html)


def test_a_cache_that_lost_the_tokens_is_said(copied: Path) -> None:
    cache = open_cache(copied / "features")
    remove_feature_set(cache, next(each.name for each in cache.feature_sets() if each.spec.modality == "pose"))
    html = html_of(copied, runs_of(copied))
    assert "which the cache" in text_of(html, "gesture-tokens")
    assert "mgcli extract" in text_of(html, "gesture-tokens") or "pose" in text_of(html, "gesture-tokens")
    assert "gesture-scores" in figures_of(html)


def test_a_clip_table_that_changed_since_is_not_taken_for_the_runs(copied: Path) -> None:
    cache = open_cache(copied / "features")
    table = cache.read_clips()
    cache.write_clips(check_clip_table(table.iloc[4:].reset_index(drop=True)), "planted")
    assert "changed since" in text_of(html_of(copied, runs_of(copied)), "gesture-tokens")


@pytest.mark.parametrize(
    ("file", "anchor", "said"),
    [
        ("predictions.csv", "confusion", "predictions.csv"),
        (HISTORY_FILE, "training", "history.csv"),
        ("head-seed1.safetensors", "modalities", "head-seed1.safetensors"),
    ],
)
def test_a_missing_file_costs_its_own_section(copied: Path, file: str, anchor: str, said: str) -> None:
    runs = runs_of(copied)
    (runs[0] / file).unlink()
    html = html_of(copied, runs)
    assert said in text_of(html, f"gesture-{anchor}")
    assert re.findall(r'<section id="gesture-([\w-]+)"', html) == SECTIONS


def test_probabilities_that_are_no_numbers_cost_their_own_sections(copied: Path) -> None:
    runs = runs_of(copied)
    predictions = pd.read_csv(runs[0] / "predictions.csv")
    predictions.iloc[-1, -1] = np.inf
    predictions.to_csv(runs[0] / "predictions.csv", index=False)
    assert "some probabilities are no numbers" in text_of(html_of(copied, runs), "gesture-calibration")


def test_without_test_clips_those_of_validation_are_shown(tmp_path: Path) -> None:
    cache = planted_cache(tmp_path / "features", num_train=48, num_test=0)
    run = train_head(cache, "gesture", seeds=1, runs=tmp_path / "runs", config=QUICK, progress=False)
    report = write_report([run], tmp_path / "report.html", cache=cache)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report.groups[0].split == "val"
    assert "Scores of the val clips" in text_of(html, "gesture-scores")
    assert "No run was calibrated" in text_of(html, "gesture-calibration")
    assert {"gesture-tokens-video", "gesture-modalities"} <= set(figures_of(html))


@pytest.mark.parametrize("content", ["", "clip_id\n", "clip_id,subject_id,split,seed,true,predicted\n"])
def test_damaged_predictions_cost_their_own_sections(copied: Path, content: str) -> None:
    runs = runs_of(copied)
    (runs[0] / "predictions.csv").write_text(content)
    assert "Not shown" in text_of(html_of(copied, runs), "gesture-confusion")


def test_what_is_no_run_or_named_twice_is_refused(copied: Path) -> None:
    runs = runs_of(copied)
    with pytest.raises(RunError, match=r"no run folder: it has no config\.json"):
        write_report([copied / "features"], copied / "report.html")
    with pytest.raises(RunError, match="named twice"):
        write_report([runs[0], runs[0]], copied / "report.html")
    with pytest.raises(PageError, match="no page of mgcli"):
        write_report(runs, runs[0] / "metrics.json")
    assert not (copied / "report.html").exists()


def test_one_run_alone_has_a_page(copied: Path) -> None:
    html = html_of(copied, runs_of(copied)[:1])
    assert "name more behind it" in text_of(html, "gesture-scores")


def test_runs_of_two_protocols_stand_in_groups(copied: Path) -> None:
    runs = [Run.load(path) for path in runs_of(copied)]
    runs[1].config["protocol"] = "another"
    groups = group_runs(runs)
    assert [len(group.runs) for group in groups] == [6, 1]
    assert [group.key for group in groups] == ["gesture", "gesture-2"]
    assert groups[1].title == "Gesture (another, 2)"
    html = html_of(copied, runs)  # type: ignore[arg-type]
    anchors = re.findall(r' id="(gesture[\w-]*)"', html)
    assert len(anchors) == len(set(anchors)) > 40


def test_a_run_of_other_clips_is_not_tested_and_the_rest_are(copied: Path) -> None:
    runs = runs_of(copied)
    file = runs[1] / "predictions.csv"
    file.write_text(re.sub(r"^c0", "other0", file.read_text(), flags=re.MULTILINE))
    said = text_of(html_of(copied, runs), "gesture-scores")
    assert "Not tested: concat: concat was not scored on any of the 32 clips" in said
    assert "corrected for 5 comparisons" in said


def test_an_ensemble_has_a_page_without_what_it_has_not(copied: Path) -> None:
    ensemble = make_ensemble(runs_of(copied)[:2], copied / "runs").run
    html = html_of(copied, [ensemble.path, *runs_of(copied)[:2]])
    assert "not trained in epochs" in text_of(html, "gesture-training")
    assert "is an ensemble" in text_of(html, "gesture-tokens")
    assert "gesture-confusion" in figures_of(html)


def test_heads_of_one_name_are_told_apart(copied: Path) -> None:
    first = runs_of(copied)[0]
    second = Path(shutil.copytree(first, first.with_name("gesture-again")))
    (group,) = group_runs([Run.load(first), Run.load(second)])
    assert group.names == [first.name, "gesture-again"]


def test_a_run_older_than_a_setting_was_trained_as_usual(copied: Path) -> None:
    """What changes no score tells no runs apart."""
    first = runs_of(copied)[0]
    kept = json.loads((first / "config.json").read_text())
    own = kept["config"]
    older = {key: value for key, value in own.items() if key not in ("graphs", "views")}
    without = own | {"graphs": "off", "residency": "mapped", "head": own["head"] | {"without": "pose"}}
    paths = [first]
    for name, config in (("older", older), ("without", without)):
        paths.append(Path(shutil.copytree(first, first.with_name(f"gesture-{name}"))))
        (paths[-1] / "config.json").write_text(json.dumps(kept | {"config": config}))
    runs = [Run.load(path) for path in paths]
    assert varied_options(runs[:2]) == {}
    assert varied_options(runs) == {"without": ["''", "''", "pose"]}


def many_classes(folder: Path, num_classes: int, num_clips: int) -> Path:
    """A run of random answers, as a folder."""
    rng = np.random.default_rng(0)
    classes = [f"class {i}" for i in range(num_classes)]
    true, said = (rng.integers(num_classes, size=num_clips) for _ in range(2))
    table = pd.DataFrame(
        {
            "clip_id": [f"c{i}" for i in range(num_clips)],
            "subject_id": [f"s{i % 9}" for i in range(num_clips)],
            "split": "test",
            "seed": 0,
            "true": np.array(classes)[true],
            "predicted": np.array(classes)[said],
        }
    )
    scores = pd.DataFrame(np.eye(num_classes)[said], columns=[f"p_{name}" for name in classes])
    score = {"mean": 0.1, "std": 0.0, "values": [0.1]}
    config = {
        **{"run_version": 1, "created": "2026-01-01T00:00:00+00:00", "task": "gesture", "protocol": None},
        **{"head": "concat", "label": "concat", "features": {}, "classes": classes, "class_groups": {}, "seeds": [0]},
        "clips": {"counts": {"test": {"clips": num_clips, "subjects": 9}}, "drawn_val_subjects": []},
        **{"config": {"max_tokens": 512, "head": {}}, "packages": {}, "device": "cpu", "warnings": []},
    }
    results = {"metrics": {"val": {}, "test": {"top1": score}}, "intervals": {"val": {}, "test": {}}}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.json").write_text(json.dumps(results))
    pd.concat([table, scores], axis=1).to_csv(folder / "predictions.csv", index=False)
    return folder


def test_a_grid_has_a_map_of_its_validation_scores(tmp_path: Path) -> None:
    runs, scores = [], {}
    for head in ("concat", "mult"):
        for width in (128, 64):
            folder = many_classes(tmp_path / f"{head}-{width}", 3, 30)
            config = json.loads((folder / "config.json").read_text())
            config |= {"head": head, "label": head, "config": {"max_tokens": 512, "head": {"width": width}}}
            (folder / "config.json").write_text(json.dumps(config))
            results = json.loads((folder / "metrics.json").read_text())
            scores[head, width] = 0.5 + len(runs) / 10
            results["metrics"]["val"] = {"top1": {"mean": scores[head, width], "std": 0.0, "values": [0.5]}}
            (folder / "metrics.json").write_text(json.dumps(results))
            runs.append(folder)
    write_report(runs, tmp_path / "report.html")
    (trace,) = figures_of((tmp_path / "report.html").read_text())["gesture-grid"]["data"]  # type: ignore[misc]
    assert (trace["y"], trace["x"]) == (["concat", "mult"], ["width=64", "width=128"])
    assert trace["z"] == [[100 * scores[head, width] for width in (64, 128)] for head in ("concat", "mult")]
    (group,) = group_runs([Run.load(run) for run in runs])
    assert group.names[0] == "concat (width=128)"
    write_report(runs[:3], tmp_path / "report.html")
    assert "gesture-grid" not in figures_of((tmp_path / "report.html").read_text())


def test_classes_are_in_the_groups_that_the_run_was_scored_by(tmp_path: Path) -> None:
    """Validation clips that were drawn from training are no training clips any more; the groups stay."""
    folder = many_classes(tmp_path / "run", 3, 30)
    content = json.loads((folder / "config.json").read_text())
    content["class_groups"] = {"head": ["class 0"], "middle": [], "tail": ["class 1"]}
    (folder / "config.json").write_text(json.dumps(content))
    (group,) = group_runs([Run.load(folder)])
    found = [group.class_group(f"class {i}", num_train_clips=96) for i in range(3)]
    assert found == ["head", "tail", "middle"]


def test_a_thousand_classes_are_listed_by_their_confusions(tmp_path: Path) -> None:
    run = many_classes(tmp_path / "run", 1000, 500)
    report = write_report([run], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "1,000 classes are too many" in text_of(html, "gesture-confusion")
    assert "The first 60 of" in text_of(html, "gesture-confusion")
    assert report.num_bytes < 8e6


@pytest.mark.parametrize(("num_classes", "num_clips"), [(2, 1), (1, 3)])
def test_one_clip_or_one_class_has_a_page(tmp_path: Path, num_classes: int, num_clips: int) -> None:
    html_of_small = write_report([many_classes(tmp_path / "run", num_classes, num_clips)], tmp_path / "report.html")
    assert "gesture-confusion" in html_of_small.sections


def without_date(html: str) -> str:
    found, number = re.subn(r" on \d{4}-\d\d-\d\d \d\d:\d\d UTC;", "", html)
    assert number == 1
    return found


def test_a_report_is_the_same_twice(copied: Path) -> None:
    first, second = (without_date(html_of(copied, runs_of(copied))) for _ in range(2))
    assert first == second
    assert "principal components" in text_of(first, "gesture-tokens")


@pytest.mark.slow
def test_a_umap_is_the_same_twice_and_says_what_it_is(copied: Path) -> None:
    pytest.importorskip("umap")
    pages = []
    for seed in (3, 3, 4):
        write_report(
            runs_of(copied),
            copied / "report.html",
            cache=open_cache(copied / "features"),
            token_map=MapConfig(kind="umap", seed=seed),
        )
        pages.append(without_date((copied / "report.html").read_text(encoding="utf-8")))
    same, again, other = (figures_of(page)["gesture-tokens-video"]["data"] for page in pages)
    assert pages[0] == pages[1]
    assert same == again != other
    said = text_of(pages[0], "gesture-tokens")
    assert "laid out by UMAP (15 neighbours, seed 3)" in said
    assert "how far groups are from each other, how large they are, and the axes mean little" in said
    assert "mean on UMAP 1" in said
    assert "component" not in said


def test_a_map_that_cannot_be_drawn_is_refused_before_the_work(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # as where it is not installed
    with pytest.raises(MapError, match=r"umap-learn is not installed .*: pip install 'mgcli\[umap\]'"):
        write_report(runs_of(copied), copied / "report.html", token_map=MapConfig(kind="umap"))
    assert not (copied / "report.html").exists()
    with pytest.raises(MapError, match="unknown map 'tsne'; there are pca and umap"):
        MapConfig(kind="tsne")
    with pytest.raises(MapError, match="UMAP wants 5 clips with tokens or more, and there are 4"):
        draw_map(np.ones((4, 3)), MapConfig(kind="umap"))


@pytest.mark.parametrize("theme", THEMES)
def test_everyone_can_use_the_report(copied: Path, theme: str) -> None:
    html_of(copied, runs_of(copied))
    with opened(copied / "report.html", theme=theme) as browser:
        page = browser.page
        page.wait_for_selector("html[data-figures=drawn]", state="attached")
        assert page.locator(".plot .main-svg").count() >= page.locator(".plot").count() == len(FIGURES)
        assert page.evaluate("performance.getEntriesByType('paint')[0].startTime") < 3000
        assert page.locator("img").count() == 0
        assert "<img src=x" in page.locator("#gesture-confusion-plot").text_content()
        assert serious_faults(page) == []
        reached = reached_by_tab(page)
        assert sum(each.startswith("SUMMARY") for each in reached) == page.locator("summary").count()
        ink = page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.querySelector('.xtick text')).fill") != ink
        browser.expect_quiet()


def test_figures_fit_a_phone_and_a_sheet_of_paper(copied: Path) -> None:
    html_of(copied, runs_of(copied))
    with opened(copied / "report.html", width=390) as browser:
        page = browser.page
        page.wait_for_selector("html[data-figures=drawn]", state="attached")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.emulate_media(media="print")
        widths = page.evaluate("[...document.querySelectorAll('.main-svg')].map((each) => each.clientWidth)")
        assert max(widths) <= 640
        browser.expect_quiet()


def test_specs_and_failures_of_a_cache_stand_side_by_side(tmp_path: Path) -> None:
    from mgcli.cache import Failure
    from mgcli.cache.info_page import cache_page

    cache = open_cache(tmp_path / "features", create=True)
    fields = {"modality": "video", "backbone": "tiny", "reads": "video", "weights": "random:0", "weights_sha256": ""}
    for frames in (8, 16):
        spec = FeatureSpec(
            **fields, tokens="time", dim=4, dtype="float32", precision="float32", sampling={"num_frames": frames}
        )
        features = cache.create_feature_set(spec)
        features.write_failures([Failure(f"c{i}", "decode", HOSTILE) for i in range(4)])
    html = cache_page(cache).html()
    assert "<img" not in html
    assert '<span class="differs">sampling.num_frames</span>' in html
    assert '<span class="differs">backbone</span>' not in html
    assert "c0, c1, c2, ..." in text_of(html, "failures")
    assert "random weights" in html
    empty = cache_page(open_cache(tmp_path / "empty", create=True)).html()
    assert "The cache is empty." in empty
