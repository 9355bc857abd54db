"""What a plan counts: laws, hand counts, and the UNet itself counting while a run is made in this process."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from running import carried_out, opened

from mudi.options import LayoutGuidance, Sampling
from mudi.passes import rows_of
from mudi.sampling import draw
from pipeline.cost.calibration import Rate
from pipeline.cost.count import ROWS, total, workload_of
from pipeline.cost.show import HEADINGS, disk, print_plan
from pipeline.ready import ready
from pipeline.settings.benchmark_config import load_benchmark, load_plan
from pipeline.settings.config import load_run
from pipeline.tables import store
from tests.pipeline.test_benchmark import FILE
from tests.pipeline.test_rounds import RUN_FILE, SMALL


def planned(config):
    return ready(config, absent_ok=True)


def workload(config):
    return workload_of(planned(config))


def whole(config):
    return table(workload(config), whole=True)


def left(config):
    return table(workload(config), whole=False)


def table(counted, *, whole):
    """The row of a plan's table, without what does not occur."""
    counts = total(counted.tasks(), whole=whole)
    return {name: counts[name] for name in HEADINGS if counts[name]}


@pytest.fixture
def rows_through_the_unet():
    """Rows of every forward pass of any UNet, with gradients and without, counted by a hook."""
    counted = Counter()

    def count(module, args, output):
        if isinstance(module, UNet2DConditionModel):
            counted["backward" if output.sample.requires_grad else "forward only"] += len(output.sample)

    handle = torch.nn.modules.module.register_module_forward_hook(count)
    yield counted
    handle.remove()


def sdxl(tmp_path, *overrides):
    combination = "combinations=[jobs/configs/miniature/two_dogs]"
    return load_run(Path("jobs/configs/sdxl.yaml"), [combination, f"runs={tmp_path}", *overrides])


def test_the_sdxl_file_takes_what_a_hand_count_takes(tmp_path):
    """One pair of five photos each. Fit: 1200 steps x 2 micro-batches x (1 photo + 1 prior) = 4800 rows; priors: 7 batches of 8 for
    50, two subjects, 112 images x 50 steps x 2 = 11,200. Two refits: 1000 x 2 x 1 = 2000 rows, as many of the reference, and
    20 x 10 photos for drift. Pictures: 3 rounds x (200 + 4 watched) = 612, x 50 x 2 = 61,200."""
    assert whole(sdxl(tmp_path)) == {
        "fits": 3, "steps": 1200 + 2 * 1000, "examples": 4800 + 2 * 2000, ROWS: 4800 + 11_200 + 2 * 4200 + 61_200,
        "backward": 4800 + 2 * 2000, "prior images": 112, "images": 612, "denoising steps": 612 * 50 + 112 * 50,
    }  # fmt: skip


def test_the_sdxl_files_adapters_and_checkpoints_are_sized_without_weights(tmp_path):
    """46,448,640 numbers x 4 bytes each; a checkpoint holds three copies, and of a fit there are two and one being
    written, one fit at a time with one pair: 3 x 557 MB. With two pairs and two workers it is twice that."""

    def sizes(config):
        return disk(planned(config), workload(config), None)

    config = sdxl(tmp_path)
    fits = workload(config).tasks("fit")
    assert {(fit.trained, fit.whole["adapter bytes"]) for fit in fits} == {(46_448_640, 4 * 46_448_640)}
    assert workload(config).architecture.assumed
    found = sizes(config)
    assert found["adapters"] == (3 * 4 * 46_448_640,) * 2
    assert found["checkpoints while fits run"][1] == 3 * 3 * 4 * 46_448_640
    assert found["images"] == (0, 612 * 3 * 1024 * 1024)
    pairs = "combinations=[jobs/configs/miniature/two_dogs, jobs/configs/miniature/tuning/cat_and_bear_tuning]"
    both = sizes(sdxl(tmp_path, pairs, "cluster.workers.count=2"))
    assert both["checkpoints while fits run"][1] == 2 * found["checkpoints while fits run"][1]
    few = sizes(sdxl(tmp_path, "method.steps=201", "retrain.steps=200"))
    assert few["checkpoints while fits run"][1] == 3 * 4 * 46_448_640


def test_grams_and_pictures_of_subjects_are_sized_where_they_are_made(tmp_path, capsys):
    """Fusion of two SDXL subjects: two Grams (test_grams). MuDI's refinement: 5 pictures each out of a batch of 8, 3 x 1024^2 bytes raw,
    at most two batches. Without refinement there are none of these, and a sum has no Grams either. The plan names both."""
    found = {}
    for options in ("", "refine: null", "merge: {name: sum}, refine: null"):
        config = sdxl(tmp_path, f"method={{name: mudi_modular, {options}}}", "rounds=0")
        run, counted = planned(config), workload(config)
        sizes = disk(run, counted, None)
        found[options] = (sizes["Grams"][1], sizes["pictures by subjects' own fits"])
        print_plan(run, counted, [], None)
        printed = capsys.readouterr().out
        assert ("of 2 subjects, each 1,671,954,432 bytes" in printed) == ("Grams 3.34 GB" in printed) == bool(sizes["Grams"][1])
        assert ("pictures by subjects' own fits at most 101 MB" in printed) == bool(found[options][1][1])
    both, drawn = 2 * 1_671_954_432, (0, 2 * 2 * 8 * 3 * 1024 * 1024)
    assert list(found.values()) == [(both, drawn), (both, (0, 0)), (0, (0, 0))]


def test_grams_are_counted_where_a_sum_has_fitted_the_subjects_before(tmp_path):
    """The two subjects' fits count with the sum, Grams and pictures with the arms that make them: fusion, refinement, Grams of other
    tokens. A second refinement, which differs in its length alone, makes none."""
    arms = {
        "a": "{method: merged_loras, single: {steps: 60}}", "b": "{like: a, merge: {name: fusion}}",
        "c": "{method: mudi_modular, single: {steps: 60}}", "d": "{like: c, refine: {steps: 9}}",
        "e": "{like: b, merge: {positions: concept}}",
    }  # fmt: skip
    methods = ", ".join(f"{name}: {arm}" for name, arm in arms.items())
    overrides = [f"runs={tmp_path}", f"methods={{{methods}}}", "combinations=[jobs/configs/miniature/two_dogs]", "tables=[]", "claims=[]"]
    config = load_benchmark(Path("jobs/configs/benchmark_smoke.yaml"), overrides)
    found = {name: [0, 0, 0] for name in arms}
    for task in workload(config).tasks("fit"):
        alone = not task.whole["fits"]
        found[task.owner] = [a + b for a, b in zip(found[task.owner], (alone, task.whole["grams"], task.whole["own images"]))]
    assert found == {"a": [2, 0, 0], "b": [0, 2, 0], "c": [0, 0, 16], "d": [0, 0, 0], "e": [0, 2, 0]}


def test_twice_the_candidates_are_twice_the_passes_of_drawing(tmp_path):
    """Without watched prompts, and with nothing else changed: fits stay as they are."""
    one, two = (whole(sdxl(tmp_path, "watched_prompts=[]", f"candidates={n}")) for n in (200, 400))
    fits = 4800 + 11_200 + 2 * 4200
    assert two["images"] == 2 * one["images"] == 1200
    assert two[ROWS] - fits == 2 * (one[ROWS] - fits)
    assert (two["steps"], two["backward"]) == (one["steps"], one["backward"])


def test_guidance_doubles_and_dco_adds_a_reference(tmp_path):
    """At guidance 1 a picture takes one row a step; DCO one more forward row an example, no priors, and no more backward rows."""
    plain = whole(sdxl(tmp_path, "method.objective=denoising", "rounds=0"))
    assert plain[ROWS] == 2400 + 204 * 100
    assert whole(sdxl(tmp_path, "method.objective=denoising", "rounds=0", "sampling.guidance_scale=1.0"))[ROWS] == 2400 + 204 * 50
    dco = whole(sdxl(tmp_path, "method.objective=dco", "rounds=0"))
    assert (dco[ROWS] - plain[ROWS], dco["backward"]) == (2400, plain["backward"])


def test_arms_that_only_draw_differently_share_a_fit(tmp_path, capsys):
    """Smoke: 2 arms x 2 pairs = 4 fits of 60 steps. An arm that changes gamma adds pictures and no fit; one that changes the
    rank adds two fits."""
    path, runs = Path("jobs/configs/benchmark_smoke.yaml"), f"runs={tmp_path}"
    smoke = whole(load_benchmark(path, [runs]))
    assert (smoke["fits"], smoke["steps"], smoke["images"]) == (4, 240, 2 * 2 * 2 * 6)
    drawn = load_benchmark(path, [runs, "methods.other={like: mudi, sampling: {gamma: 0.0}}"])
    assert (whole(drawn)["fits"], whole(drawn)["images"]) == (4, 72)
    print_plan(planned(drawn), workload(drawn), [], None)
    assert "shared      2 cells use the adapter of another arm" in capsys.readouterr().out
    assert whole(load_benchmark(path, [runs, "methods.other={like: mudi, rank: 8}"]))["fits"] == 6


def test_the_papers_benchmark_is_counted_without_its_photos(tmp_path, capsys):
    """Photos are not in the project: eight pairs counted as such, and said. Fits: textual inversion, DreamBooth, Custom Diffusion
    twice, Cut-Mix, MuDI, three MuDIs that train otherwise (no Seg-Mix, equal sizes, no overlap), one without descriptive class,
    and the refit: 11 a pair; 14 arms x 8 pairs x 5 prompts x 10 images; a pool of 200 a pair; three further metrics."""
    config = load_benchmark(Path("jobs/configs/benchmark_mudi.yaml"), [f"runs={tmp_path}"])
    counted, counts = workload(config), whole(config)
    assert counts["fits"] == 11 * 8
    assert counts["images"] == 14 * 400 + 200 * 8
    assert total(counted.tasks())["scores"] == 3 * 5600
    assert {task.kind.split(" clip=")[0] for task in counted.tasks("judge")} == {"judge clip_score + image_reward + whole_image"}
    print_plan(planned(config), counted, [], None)
    printed = capsys.readouterr().out
    assert "8 of 8 combination folders are not here" in printed
    assert f"shared      {(14 - 11) * 8} cells" in printed
    assert "left out    " in printed


def test_a_file_with_methods_is_a_benchmark():
    assert type(load_plan(Path("jobs/configs/benchmark_smoke.yaml"))).__name__ == "BenchmarkConfig"
    assert type(load_plan(Path("tests/data/miniature.yaml"))).__name__ == "RunConfig"
    with pytest.raises(ValueError, match="no such run file"):
        load_plan(Path("none.yaml"))


def test_a_plan_says_how_much_memory_the_models_of_a_worker_take(tmp_path, capsys):
    """The miniature's weights lie here; SDXL's do not, and where no GPU is asked for nothing is said."""
    for overrides, said in (
        (("cluster.workers.gpus=1",), "of weights a worker, as they are stored (backbone "),
        (("cluster.workers.gpus=1",), "on a card under 32 GiB the scorers move to the CPU while a fit runs"),
        (("cluster.workers.gpus=1", "models.backbone=nowhere/sdxl"), "(backbone not here, detector "),
    ):
        config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *overrides])
        print_plan(planned(config), workload(config), [], None)
        assert said in capsys.readouterr().out
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}"])
    print_plan(planned(config), workload(config), [], None)
    assert "memory " not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dco", "denoising"])
def test_a_run_passes_as_many_rows_as_planned(tmp_path, rows_through_the_unet, objective):
    """Two sweeps, a fit and a refit on the miniature, counted at the UNet; then nothing is left, and the folder is as large as said."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, f"method.objective={objective}"])
    expected = left(config)
    assert expected == whole(config)
    run_dir = carried_out(opened(config))
    kept = len(store.read(run_dir, "selections", 0))
    refit = 0 if kept else 4 * 2 * 2
    assert rows_through_the_unet["backward"] == expected["backward"] - refit // 2
    assert rows_through_the_unet.total() == expected[ROWS] - (refit + 200 if refit else 0)
    assert left(config) == {}

    run, counted = planned(config), workload(config)
    pngs = store.read_images(run_dir, set(store.read(run_dir, "candidates")["candidate_id"].to_pylist()))
    sizes = [len(png) for png in pngs.values()]
    found = disk(run, counted, Rate(low=min(sizes), high=max(sizes)))
    files = [path for name in ("images", "scores", "candidates") for path in (run_dir / name).rglob("*-*-*.parquet")]
    low, high = (found["images"][end] + found["other tables"][end] for end in (0, 1))
    assert low <= sum(path.stat().st_size for path in files) <= high
    written = sum(path.stat().st_size for path in (run_dir / "adapters").rglob("pytorch_lora_weights.safetensors"))
    assert written == pytest.approx(found["adapters"][1], rel=0.02)
    assert not list(run_dir.rglob("*.work"))


@pytest.mark.slow
def test_a_run_killed_in_its_first_sweep_has_what_is_stored(tmp_path):
    """The driver dies when its first chunk is reported: that chunk and the first fit are there, and looking changes no file."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL])

    def kill(label, done, total):
        if label == "round 0 sweep" and done >= 2:
            raise KeyboardInterrupt

    run = opened(config)
    with pytest.raises(KeyboardInterrupt):
        carried_out(run, kill)
    stored = store.read(tmp_path / "miniature", "candidates").num_rows
    assert 0 < stored < 8
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert left(config)["images"] == whole(config)["images"] - stored
    assert [fit.done for fit in workload(config).tasks("fit")] == [True, False]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "a plan wrote something"


@pytest.mark.slow
def test_a_fit_that_left_a_checkpoint_has_the_steps_after_it_left(tmp_path):
    """201 steps, killed at the report of the 200th or the last: one step of two rows, each with its reference, is left."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, "rounds=0", "method.steps=201", "method.batch=1", "method.rank=1"])

    def kill(label, done, total):
        if done >= 201:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carried_out(opened(config), kill)
    (fit,) = workload(config).tasks("fit")
    assert (fit.done, fit.begun, fit.units, fit.left["steps"], fit.left[ROWS]) == (False, True, 1, 1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [[], ["methods.refitted.refit.rounds=2", "methods.refitted.refit.sampling={guidance_scale: 1.0}"]])
def test_a_benchmark_passes_as_many_rows_as_planned(tmp_path, rows_through_the_unet, overrides):
    """Shared fits, pools, refits that keep two at random, pictures and a metric: counted at the UNet, then nothing is left."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(tmp_path / "runs")))
    config = load_benchmark(path, ["fits=1", "metrics=[detect_and_compare, whole_image]", *overrides])
    expected = left(config)
    carried_out(opened(config))
    assert rows_through_the_unet["backward"] == expected["backward"]
    assert rows_through_the_unet.total() == expected[ROWS]
    assert left(config) == {}
    assert all(task.done for task in workload(config).tasks())


def test_a_plan_does_not_count_what_another_run_left_in_the_folder(tmp_path):
    """A start with other settings is refused, so a plan that called its pictures done would be wrong."""
    settings = ["combinations=[jobs/configs/miniature/two_dogs]", f"runs={tmp_path}"]
    opened(load_run(Path("tests/data/miniature.yaml"), settings))
    with pytest.raises(ValueError, match="other settings"):
        workload(load_run(Path("tests/data/miniature.yaml"), [*settings, "sampling.steps=3"]))


def test_guidance_by_layout_is_counted_as_the_hook_counts_it(miniature, two_dogs, rows_through_the_unet):
    """Three steps of which two are done once again: five calls of two rows for each of two pictures, 20 rows; CFG++ alike."""
    a, b = (subject.key for subject in two_dogs.subjects)
    pair = replace(two_dogs, layouts=({a: (40.0, 300.0, 480.0, 960.0), b: (540.0, 300.0, 980.0, 960.0)},))
    options = Sampling(steps=3, guidance_scale=None, cfg_plus_plus=0.5, gamma=0.0, layout_guidance=LayoutGuidance(steps=2))
    draw(miniature, pair, pair.prompts[0], [1, 2], options)
    assert rows_through_the_unet["forward only"] == 2 * rows_of(options) == 20


def test_folders_that_are_not_here_have_the_subjects_that_their_prompts_name(tmp_path):
    """Two, two, three and two subjects of 4000 steps each: 9 x 4000 for Cones 2 where nothing is shared."""
    fits = workload(load_benchmark(Path("jobs/configs/benchmark_mcp.yaml"), [f"runs={tmp_path}"])).tasks("fit")
    assert sum(fit.whole["steps"] for fit in fits if fit.owner == "cones2") == 9 * 4000
