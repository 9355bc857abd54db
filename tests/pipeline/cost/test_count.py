"""What a plan counts: laws, hand counts, and the UNet itself counting while a run of the plain loop is made."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from mudi.adapter_folder import read_manifest
from mudi.methods import METHODS
from mudi.options import LayoutGuidance, Sampling
from mudi.sampling import draw
from pipeline import arms, assignments, rounds
from pipeline.benchmark import benchmark
from pipeline.benchmark_folder import open_benchmark
from pipeline.cost.calibration import Rate, architecture_of
from pipeline.cost.count import workload_of
from pipeline.cost.disk import adapter_numbers, disk
from pipeline.cost.show import print_plan
from pipeline.cost.workload import Counts, passes_of_sampling, total
from pipeline.settings.benchmark_config import load_benchmark, load_plan
from pipeline.settings.config import load_run
from pipeline.tables import journal, store
from pipeline.tables.run_folder import open_run
from pipeline.workers.fit_job import run_job
from pipeline.workers.in_process import PLAIN
from tests.pipeline.test_benchmark import FILE
from tests.pipeline.test_rounds import RUN_FILE, SMALL

QUIET = {"progress": lambda label, done, total: None}


def whole(config):
    return total(workload_of(config).phases, whole=True)


def left(config):
    return total(workload_of(config).phases, whole=False)


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
    assert whole(sdxl(tmp_path)) == Counts(
        fits=3, steps=1200 + 2 * 1000, examples=4800 + 2 * 2000, forward=4800 + 11_200 + 2 * 4200 + 61_200, backward=4800 + 2 * 2000,
        prior_pictures=112, pictures=612, denoising_steps=612 * 50 + 112 * 50,
    )  # fmt: skip


def test_the_sdxl_files_adapters_and_checkpoints_are_sized_without_weights(tmp_path):
    """46,448,640 numbers x 4 bytes and a header each; a checkpoint holds three copies, and of a fit there are two and one being
    written, one fit at a time with one pair: 3 x 557 MB. With two pairs and GPUs for two fits it is twice that."""
    config = sdxl(tmp_path)
    workload, architecture = workload_of(config), architecture_of(config)
    assert {adapter_numbers(fit, architecture)[0] for fit in workload.fits} == {46_448_640}
    assert architecture.assumed
    found = disk(workload, architecture, None, config.cluster, 2)
    assert found.checkpoints == 3 * 3 * 4 * 46_448_640
    pairs = sdxl(
        tmp_path, "combinations=[jobs/configs/miniature/two_dogs, jobs/configs/miniature/tuning/cat_and_bear_tuning]", "cluster.fit.gpus=1"
    )
    assert disk(workload_of(pairs), architecture, None, pairs.cluster, 2).checkpoints == 2 * found.checkpoints
    few = sdxl(tmp_path, "method.steps=201", "retrain.steps=200")
    assert disk(workload_of(few), architecture, None, few.cluster, 2).checkpoints == 3 * 4 * 46_448_640
    assert found.images == (0, 612 * 3 * 1024 * 1024)


def test_grams_and_pictures_of_subjects_are_sized_where_they_are_made(tmp_path, capsys):
    """Fusion of two SDXL subjects: two Grams (test_grams). MuDI's refinement: 5 pictures each out of a batch of 8, 3 x 1024^2 bytes raw,
    at most two batches. Without refinement there are none of these, and a sum has no Grams either. The plan names both."""
    sizes = {}
    for options in ("", "refine_steps: 0", "merge: sum, refine_steps: 0"):
        config = sdxl(tmp_path, f"method={{name: mudi_modular, {options}}}", "rounds=0")
        workload, architecture = workload_of(config), architecture_of(config)
        found = disk(workload, architecture, None, config.cluster, 2)
        sizes[options] = (found.grams, found.self_generated)
        print_plan(config, workload, architecture, found, [], 2)
        printed = capsys.readouterr().out
        assert ("of 2 subjects, each 1,671,954,432 bytes" in printed) == ("Grams 3.34 GB" in printed) == bool(found.grams)
        assert ("pictures by subjects' own fits at most 101 MB" in printed) == bool(found.self_generated[1])
    both, drawn = 2 * 1_671_954_432, (0, 2 * 2 * 8 * 3 * 1024 * 1024)
    assert list(sizes.values()) == [(both, drawn), (both, (0, 0)), (0, (0, 0))]


def test_grams_are_counted_where_a_sum_has_fitted_the_subjects_before(tmp_path):
    """The two subjects' fits count with the sum, Grams and pictures with the arms that make them: fusion, refinement, Grams of other
    tokens. A second refinement, which differs in its length alone, makes none."""
    fusion = "{like: a, merge: fusion}"
    arms = {
        "a": "{method: merged_loras, steps: 60}", "b": fusion, "c": "{method: mudi_modular, steps: 60}",
        "d": "{like: c, refine_steps: 9}", "e": "{like: b, kv_positions: concept}",
    }  # fmt: skip
    methods = ", ".join(f"{name}: {arm}" for name, arm in arms.items())
    overrides = [f"runs={tmp_path}", f"methods={{{methods}}}", "combinations=[jobs/configs/miniature/two_dogs]", "tables=[]", "claims=[]"]
    config = load_benchmark(Path("jobs/configs/benchmark_smoke.yaml"), overrides)
    found = {fit.owner: (fit.alone, fit.grams, fit.pictures) for fit in workload_of(config).fits}
    assert found == {"a": (2, 0, 0), "b": (0, 2, 0), "c": (0, 0, 16), "d": (0, 0, 0), "e": (0, 2, 0)}


def test_twice_the_candidates_are_twice_the_passes_of_drawing(tmp_path):
    """Without watched prompts, and with nothing else changed: fits stay as they are."""
    one, two = (whole(sdxl(tmp_path, "watched_prompts=[]", f"candidates={n}")) for n in (200, 400))
    fits = 4800 + 11_200 + 2 * 4200
    assert two.pictures == 2 * one.pictures == 1200
    assert two.forward - fits == 2 * (one.forward - fits)
    assert (two.steps, two.backward) == (one.steps, one.backward)


def test_guidance_doubles_and_dco_adds_a_reference(tmp_path):
    """At guidance 1 a picture takes one row a step; DCO one more forward row an example, no priors, and no more backward rows."""
    plain = whole(sdxl(tmp_path, "method.objective=denoising", "rounds=0"))
    assert plain.forward == 2400 + 204 * 100
    assert whole(sdxl(tmp_path, "method.objective=denoising", "rounds=0", "sampling.guidance_scale=1.0")).forward == 2400 + 204 * 50
    dco = whole(sdxl(tmp_path, "method.objective=dco", "rounds=0"))
    assert (dco.forward - plain.forward, dco.backward) == (2400, plain.backward)


def test_arms_that_only_draw_differently_share_a_fit(tmp_path):
    """Smoke: 2 arms x 2 pairs = 4 fits of 60 steps. An arm that changes gamma adds pictures and no fit; one that changes the
    rank adds two fits."""
    path, runs = Path("jobs/configs/benchmark_smoke.yaml"), f"runs={tmp_path}"
    smoke = whole(load_benchmark(path, [runs]))
    assert (smoke.fits, smoke.steps, smoke.pictures) == (4, 240, 2 * 2 * 2 * 6)
    drawn = load_benchmark(path, [runs, "methods.other={like: mudi, sampling: {gamma: 0.0}}"])
    assert (whole(drawn).fits, whole(drawn).pictures, workload_of(drawn).shared) == (4, 72, 2)
    assert whole(load_benchmark(path, [runs, "methods.other={like: mudi, rank: 8}"])).fits == 6


def test_the_papers_benchmark_is_counted_without_its_photos(tmp_path):
    """Photos are not in the project: eight pairs counted as such, and said. Fits: textual inversion, DreamBooth, Custom Diffusion
    twice, Cut-Mix, MuDI, three MuDIs that train otherwise (no Seg-Mix, equal sizes, no overlap), one without descriptive class,
    and the refit: 11 a pair; 14 arms x 8 pairs x 5 prompts x 10 images; a pool of 200 a pair."""
    config = load_benchmark(Path("jobs/configs/benchmark_mudi.yaml"), [f"runs={tmp_path}"])
    workload, counts = workload_of(config), whole(config)
    assert "8 of 8 combination folders are not here" in workload.assumed[0]
    assert counts.fits == 11 * 8
    assert workload.shared == (14 - 11) * 8
    assert counts.pictures == 14 * 400 + 200 * 8
    assert {judge.metric: judge.pictures for judge in workload.judged} == dict.fromkeys(("whole_image", "clip_score", "image_reward"), 5600)


def test_a_file_with_methods_is_a_benchmark():
    assert type(load_plan(Path("jobs/configs/benchmark_smoke.yaml"))).__name__ == "BenchmarkConfig"
    assert type(load_plan(Path("jobs/configs/miniature.yaml"))).__name__ == "RunConfig"
    with pytest.raises(ValueError, match="no such run file"):
        load_plan(Path("none.yaml"))


LEFT_OUT = {"custom_diffusion_merged"}
SMALLEST = {
    **{name: ("rank=2",) for name in METHODS if name not in {"textual_inversion", *LEFT_OUT}},
    "textual_inversion": (),
    "mix_of_show": ("rank=2", "class_row=false"),
    "mudi_modular": ("rank=2", "refine_steps=0", "merge=svd", "merge_rank=3"),
    "merged_loras union": ("single=textual_inversion",),
    "merged_loras values": ("single=custom_diffusion", "rank=2", "merge=fusion", "neutral_weight=0.5"),
    "merged_loras refined": (
        "single=ed_lora", "rank=2", "class_row=false", "merge=svd", "merge_rank=3", "refine_steps=1", "self_images=1", "self_steps=8",
    ),
}  # fmt: skip
FITTED_BEFORE = ("steps=1", "batch=1", "accumulation=1", "objective=denoising", "descriptive_class=false")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_the_files_of_every_methods_adapter_are_as_large_as_planned(tmp_path, name):
    """To the byte, after a fit of one step; a constrained merge is left out, whose rank comes from its words."""
    method = [f"method={{name: {name.split()[0]}}}", *(f"method.{option}" for option in (*FITTED_BEFORE, *SMALLEST[name]))]
    layout = ["sampling.layout=given"] if name == "concept_conductor" else []
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *method, *layout, "rounds=0"])
    (fit,) = workload_of(config).fits
    trained, planned = adapter_numbers(fit, architecture_of(config))
    (job,) = assignments.first_fits(config, open_run(config), assignments.load_combinations(config))
    run_job(job, "cpu")
    files = list(tmp_path.rglob("*.safetensors"))
    collected = [path.stat().st_size for path in files if ".grams" in str(path)]
    assert planned == sum(path.stat().st_size for path in files) - sum(collected)
    architecture = architecture_of(config)
    assert len(collected) == fit.grams
    assert 0 <= sum(collected) - disk(workload_of(config), architecture, None, config.cluster, 2).grams <= 16_384 * fit.grams
    if fit.alone is None or name == "merged_loras refined":
        assert trained == read_manifest(Path(job.out_dir))["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dco", "denoising"])
def test_a_run_of_the_plain_loop_passes_as_many_rows_as_planned(tmp_path, rows_through_the_unet, objective):
    """Two sweeps, a fit and a refit on the miniature, counted at the UNet; then nothing is left, and the folder is as large as said."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL, f"method.objective={objective}"])
    expected = left(config)
    assert expected == whole(config)
    run_dir = open_run(config)
    rounds.selftrain(config, assignments.load_combinations(config), run_dir, PLAIN, **QUIET)
    assert rows_through_the_unet["backward"] == expected.backward
    assert rows_through_the_unet.total() == expected.forward
    if journal.read_marker(run_dir, 0, "publish")["kept"]:
        assert left(config) == Counts()

    workload, architecture = workload_of(config), architecture_of(config)
    pngs = store.read_images(run_dir, set(store.read(run_dir, "candidates")["candidate_id"].to_pylist()))
    sizes = [len(png) for png in pngs.values()]
    found = disk(workload, architecture, Rate(low=min(sizes), high=max(sizes)), config.cluster, 2)
    files = [path for name in ("images", "scores", "candidates") for path in (run_dir / name).rglob("*-*-*.parquet")]
    low, high = (found.images[end] + found.tables[end] for end in (0, 1))
    assert low <= sum(path.stat().st_size for path in files) <= high
    written = sum(path.stat().st_size for path in (run_dir / "adapters").rglob("pytorch_lora_weights.safetensors"))
    assert written == found.adapters
    assert not list(run_dir.rglob("*.work"))


@pytest.mark.slow
def test_a_run_killed_in_its_first_sweep_has_what_is_stored(tmp_path):
    """The driver dies when its first chunk is reported: that chunk and the first fit are there, and looking changes no file."""
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", *SMALL])

    def kill(label, done, total):
        if label == "round 0 sweep" and done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds.selftrain(config, assignments.load_combinations(config), open_run(config), PLAIN, kill)
    stored = store.read(tmp_path / "miniature", "candidates").num_rows
    assert 0 < stored < 8
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert left(config).pictures == whole(config).pictures - stored
    assert [fit.done for fit in workload_of(config).fits] == [True, False]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "a plan wrote something"


@pytest.mark.slow
def test_a_benchmark_of_the_plain_loop_passes_as_many_rows_as_planned(tmp_path, rows_through_the_unet):
    """Shared fits, a pool, a refit that keeps two at random, pictures and a metric: counted at the UNet, then nothing is left."""
    path = tmp_path / "benchmark.yaml"
    path.write_text(FILE.replace("RUNS", str(tmp_path / "runs")))
    config = load_benchmark(path, ["fits=1", "metrics=[detect_and_compare, whole_image]"])
    expected = left(config)
    resolved = arms.resolve(config)
    combinations = arms.load_combinations(config, resolved)
    benchmark(config, resolved, combinations, open_benchmark(config, combinations, {}), PLAIN, **QUIET)
    assert rows_through_the_unet["backward"] == expected.backward
    assert rows_through_the_unet.total() == expected.forward
    assert left(config) == Counts()
    assert all(judge.done for judge in workload_of(config).judged)


def test_a_plan_does_not_count_what_another_run_left_in_the_folder(tmp_path):
    """A start with other settings is refused, so a plan that called its pictures done would be wrong."""
    settings = ["combinations=[jobs/configs/miniature/two_dogs]", f"runs={tmp_path}"]
    open_run(load_run(Path("jobs/configs/miniature.yaml"), settings))
    with pytest.raises(ValueError, match="other settings"):
        workload_of(load_run(Path("jobs/configs/miniature.yaml"), [*settings, "sampling.steps=3"]))


def test_guidance_by_layout_is_counted_as_the_hook_counts_it(miniature, two_dogs, rows_through_the_unet):
    """Three steps of which two are done once again: five calls of two rows for each of two pictures, 20 rows; CFG++ alike."""
    a, b = (subject.key for subject in two_dogs.subjects)
    pair = replace(two_dogs, layouts=({a: (40.0, 300.0, 480.0, 960.0), b: (540.0, 300.0, 980.0, 960.0)},))
    options = Sampling(steps=3, guidance_scale=None, cfg_plus_plus=0.5, gamma=0.0, layout_guidance=LayoutGuidance(steps=2))
    draw(miniature, pair, pair.prompts[0], [1, 2], options)
    assert rows_through_the_unet["forward only"] == 2 * passes_of_sampling(options) == 20


def test_folders_that_are_not_here_have_the_subjects_that_their_prompts_name(tmp_path):
    """Two, two, three and two subjects of 4000 steps each: 9 x 4000 for Cones 2 where nothing is shared."""
    workload = workload_of(load_benchmark(Path("jobs/configs/benchmark_mcp.yaml"), [f"runs={tmp_path}"]))
    assert sum(fit.steps for fit in workload.fits if fit.method == "cones2") == 9 * 4000
