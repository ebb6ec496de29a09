"""The command: its verbs, the stages they call, and their exit codes."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import crosscoder.command.app as command
import crosscoder.command.harvest as harvest_verb
import crosscoder.command.stages_in_turn as stages_in_turn
from analysis.bench.page import find_chromium
from crosscoder.config import RunConfig
from crosscoder.config.load import load_config
from crosscoder.errors import DataError
from crosscoder.run.folder import RunFolder
from tests.analysis.handmade_runs import record_files
from tests.analysis.run_folder import make_run_folder
from tests.processes import ROOT, run_python, start_python

VERBS = [
    "demo",
    "run",
    "harvest",
    "train",
    "sweep",
    "analyze",
    "attribute",
    "discover",
    "explain",
    "report",
    "browse",
    "compare",
    "plot",
    "doctor",
    "export",
    "import",
    "push",
    "copy",
    "bench",
    "evaluate",
]
FILES = "output: {}\nactivations: {{kind: files, reference: a.npy, intervened: b.npy}}\n"
PAIR = """
output: {}
pair: {{reference: {{model: a}}, intervened: {{model: b}}, hookpoint: model.layers.3}}
text: {{sources: [{{path: t.jsonl, name: chat}}]}}
"""


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(command.app, [str(word) for word in words], catch_exceptions=False)


def shell(*words: str | Path, folder: Path, module: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command in its own process, from `folder`."""
    program = ["-m", "crosscoder"] if module else []
    return run_python(*program, *words, folder=folder, timeout=120)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(FILES.format(tmp_path / "run"))
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, Any]]:
    """Replace the stages by stubs that record their calls."""
    seen: list[tuple[str, Any]] = []

    def stage(name: str, answer: Callable[..., object]) -> Callable[..., object]:
        def record(*arguments: Any, **options: Any) -> object:
            seen.append((name, arguments[-1]))
            return answer(*arguments, **options)

        return record

    def nothing(*arguments: object, **options: object) -> None:
        return None

    def demo_config(folder: Path, toy: bool) -> tuple[RunConfig, str]:
        text = tmp_path / "demo.yaml"
        text.write_text(FILES.format(folder))
        return load_config(text), f"the toy pair: {toy}"

    stages = SimpleNamespace(
        check_processes=lambda config: None,
        check_texts=lambda config, behaviors: None,
        check_attributable=lambda config, behaviors: None,
        harvest=stage("harvest", nothing),
        train=stage("train", nothing),
        doctor=stage("doctor", lambda config, behaviors, reading: "all is well"),
        stage_times=nothing,
        foreseen_shifts=lambda behaviors: "",
        analyze=stage("analyze", nothing),
        discover=stage("discover", nothing),
        settle_hookpoint=lambda folder, config: config,
        attribute_each=lambda folder, config, behaviors: [],
        report=stage("report", nothing),
        unmet=stage("unmet", lambda folder, requirements: ["validity.lever: not measured"]),
        browse=stage("browse", lambda folder, written=None: folder.browser / "index.html"),
        demo_config=demo_config,
        wandb_run=lambda folder, config: nullcontext(),
    )
    monkeypatch.setattr(command, "module", lambda name: stages)
    monkeypatch.setattr(harvest_verb, "module", lambda name: stages)
    monkeypatch.setattr(stages_in_turn, "module", lambda name: stages)
    return seen


# --- help and verbs ---------------------------------------------------------------------------------------------------


def test_help_lists_the_verbs_that_exist() -> None:
    listed = re.findall(r"^  (\w+)  ", call("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == VERBS
    for verb in VERBS:
        assert call(verb, "--help").stdout.startswith(f"Usage: crosscoder {verb} ")


def test_evaluate_planted_refuses_unknown_names(tmp_path: Path) -> None:
    for words, said in (
        (["--regimes", "standrad"], "regimes: 'standrad' is not known"),
        (["--methods", "batchtopk"], "methods: 'batchtopk' is not known"),
        (["--k", "6,many"], "k: 'many' is not a number of latents"),
    ):
        done = call("evaluate", "planted", tmp_path / "out", *words)
        assert (done.exit_code, done.stdout) == (2, "")
        assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_and_bad_settings_answer_without_torch(tmp_path: Path) -> None:
    program = """
import sys
from crosscoder.command.app import app
for words in (["--help"], ["train", "--help"], ["train", "missing.yaml"]):
    try:
        app(words)
    except SystemExit:
        pass
heavy = {"torch", "transformers", "sae_lens", "wandb", "pandas", "pyarrow", "numpy"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = shell("-c", program, folder=tmp_path, module=False)
    assert (done.returncode, done.stderr) == (0, "crosscoder: missing.yaml: no such file\n")


def test_report_and_page_are_written_without_torch(tmp_path: Path) -> None:
    """They only read files; importing torch would take several times the time and memory of a small run's page."""
    folder = make_run_folder(tmp_path / "run")
    folder.config.write_text(FILES.format(folder.path))
    record_files(folder.path)
    program = """
import sys
from crosscoder.command.app import app
for verb in ("report", "browse"):
    try:
        app([verb, sys.argv[1]])
    except SystemExit as end:
        assert not end.code, end.code
heavy = {"torch", "transformers", "sae_lens", "wandb", "scipy", "matplotlib"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = shell("-c", program, folder.path, folder=tmp_path, module=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder.browser / "index.html").is_file() and (folder.report / "report.json").is_file()


def test_run_goes_through_all_stages_in_order(tmp_path: Path, calls: list[tuple[str, Any]]) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text(PAIR.format(tmp_path / "run"))
    done = call("run", path, "seed=3")
    assert [name for name, _ in calls] == ["discover", "train", "analyze", "report", "browse"]
    assert load_config(tmp_path / "run" / "config.yaml").seed == 3
    printed = [line.split()[-1] for line in done.stdout.splitlines()]
    folder = RunFolder(tmp_path / "run")
    places = [
        folder.metrics,
        folder.crosscoder,
        folder.features,
        folder.report,
        folder.browser / "index.html",
    ]
    assert printed == [str(place) for place in places]


def test_discover_needs_models_and_prompts(
    tmp_path: Path, config: Path, calls: list[tuple[str, Any]]
) -> None:
    done = call("discover", config)
    assert done.exit_code == 2 and "activations came from files" in done.stderr
    path = tmp_path / "pair.yaml"
    path.write_text(PAIR.format(tmp_path / "pair"))
    done = call("discover", path, "discovery.prompts=0")
    assert done.exit_code == 2 and "discovery.prompts is 0" in done.stderr
    done = call("discover", path)
    assert done.exit_code == 0 and done.stdout.split()[-1] == str(RunFolder(tmp_path / "pair").findings)
    assert [name for name, _ in calls] == ["discover"]


@pytest.mark.parametrize("verb", ["harvest", "train", "doctor"])
def test_a_verb_gets_the_settings_with_overrides(
    config: Path, calls: list[tuple[str, Any]], verb: str
) -> None:
    done = call(verb, config, "training.lr=1e-4", "crosscoder.sparsity.kind=topk", "crosscoder.sparsity.k=8")
    ((name, settings),) = calls
    assert (done.exit_code, name) == (0, verb)
    assert settings == load_config(
        config, ["training.lr=1e-4", "crosscoder.sparsity.kind=topk", "crosscoder.sparsity.k=8"]
    )


def test_doctor_asks_for_a_number_of_ranks(config: Path, calls: list[tuple[str, Any]]) -> None:
    assert call("doctor", config, "seed=3", "--ranks", "4").exit_code == 0
    ((_, settings),) = calls
    assert settings == load_config(config, ["seed=3", "training.latent_shards=4"])
    assert call("doctor", config, "--ranks", "1").exit_code == 2


@pytest.mark.parametrize("verb", ["train", "analyze", "doctor"])
def test_a_run_folder_provides_its_settings(
    tmp_path: Path, config: Path, calls: list[tuple[str, Any]], verb: str
) -> None:
    RunFolder.create(tmp_path / "run", load_config(config))
    (tmp_path / "run").rename(tmp_path / "moved")
    assert call(verb, tmp_path / "moved").exit_code == 0
    ((_, settings),) = calls
    assert settings == load_config(config, [f"output={tmp_path / 'moved'}"])


def test_a_run_folder_can_provide_the_settings_of_another_run(
    tmp_path: Path, config: Path, calls: list[tuple[str, Any]]
) -> None:
    RunFolder.create(tmp_path / "run", load_config(config))
    call("train", tmp_path / "run", f"output={tmp_path / 'next'}", "seed=5")
    ((_, settings),) = calls
    assert (settings.output, settings.seed) == (tmp_path / "next", 5)


def test_analyze_takes_other_analysis_settings_and_stores_them(
    tmp_path: Path, config: Path, calls: list[tuple[str, Any]]
) -> None:
    folder = RunFolder.create(tmp_path / "run", load_config(config))
    folder.crosscoder.mkdir()
    (folder.crosscoder / "model.safetensors").write_text("weights")
    assert call("analyze", folder.path, "analysis.top_examples=3").exit_code == 0
    assert calls[0][1].analysis.top_examples == 3
    assert folder.read_config().analysis.top_examples == 3
    refused = call("analyze", folder.path, "crosscoder.n_latents=64")
    assert (refused.exit_code, len(calls)) == (2, 1)
    assert "crosscoder.n_latents: the run in" in refused.stderr


@pytest.mark.parametrize("verb", ["report", "browse"])
def test_reading_a_run_refuses_overrides_that_it_cannot_apply(
    tmp_path: Path, config: Path, calls: list[tuple[str, Any]], verb: str
) -> None:
    folder = RunFolder.create(tmp_path / "run", load_config(config))
    refused = call(verb, folder.path, "analysis.top_examples=3")
    assert (refused.exit_code, calls) == (2, [])
    assert "analysis.top_examples: the run in" in refused.stderr
    assert call(verb, config).exit_code == 0
    assert calls[0][1].path == folder.path


@pytest.mark.parametrize("verb", ["analyze", "report", "browse"])
def test_reading_needs_a_run(config: Path, calls: list[tuple[str, Any]], verb: str) -> None:
    refused = call(verb, config)
    assert (refused.exit_code, calls) == (2, [])
    assert refused.stderr.endswith("run: no such run folder\n")
    assert not config.with_name("run").exists()


def test_demo_takes_a_folder_and_overrides(
    tmp_path: Path, calls: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call("demo", "--toy", "seed=4")
    assert done.stdout.splitlines()[0] == "the toy pair: True"
    assert load_config(Path("runs/demo/config.yaml")).seed == 4
    assert call("demo", "elsewhere").stdout.splitlines()[0] == "the toy pair: False"
    assert Path("elsewhere/config.yaml").exists()
    assert [name for name, _ in calls] == ["discover", "train", "analyze", "report", "browse"] * 2
    Path("taken").touch()
    assert call("demo", "taken").stderr == "crosscoder: output: 'taken' is a file; name a folder\n"


# --- how it ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "nowhere.txt"], "crosscoder: nowhere.txt: no such file\n"),
        (
            ["train", "tiny.yaml", "sed=1"],
            "crosscoder: sed: no such setting (did you mean 'seed'?) (on the command line)\n",
        ),
        (
            ["train", "."],
            "crosscoder: .: not a run folder, it contains no config.yaml; create a run with `crosscoder run CONFIG`\n",
        ),
        (
            ["run", "tiny.yaml", "output=tiny.yaml"],
            "crosscoder: output: 'tiny.yaml' is a file or lies under one; name a folder\n",
        ),
        (["browse", "run"], "crosscoder: run: no such file\n"),
    ],
)
def test_an_error_that_a_user_can_fix_is_one_line(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*words)
    assert (done.exit_code, done.stderr, done.stdout) == (2, message, "")


@pytest.mark.parametrize(
    "words", [["train"], ["trian", "x"], ["browse", "run", "--port", "many"], ["--nonsense"]]
)
def test_wrong_usage_exits_with_2(words: list[str]) -> None:
    done = call(*words)
    assert done.exit_code == 2
    assert "Usage" in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (DataError("a.npy: holds NaN"), 2, "crosscoder: a.npy: holds NaN\n"),
        (
            KeyboardInterrupt(),
            130,
            "crosscoder: interrupted; run the same command again to continue\n",
        ),
    ],
)
def test_a_stage_that_stops_is_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, message: str
) -> None:
    def train(config: RunConfig) -> None:
        raise raised

    monkeypatch.setattr(command, "module", lambda name: SimpleNamespace(train=train))
    done = call("train", config)
    assert (done.exit_code, done.stderr) == (code, message)


def test_sigterm_is_an_interrupt(tmp_path: Path, config: Path) -> None:
    """In its own process, as under a scheduler."""
    program = """
import sys, time
from types import SimpleNamespace
import crosscoder.command.app as command
def train(config):
    print("at work", flush=True)
    time.sleep(600)
command.module = lambda name: SimpleNamespace(train=train)
command.main()
"""
    with start_python("-c", program, "train", config, folder=tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "at work\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "crosscoder: interrupted; run the same command again to continue\n"


def test_a_bug_keeps_its_traceback(tmp_path: Path, config: Path) -> None:
    program = """
import sys
import crosscoder.command.app as command
command.module = lambda name: 1 / 0
sys.argv = ["crosscoder", "train", "tiny.yaml"]
command.main()
"""
    done = shell("-c", program, folder=tmp_path, module=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


@pytest.mark.parametrize("decoy", ["training.py", "training/__init__.py"])
def test_a_module_of_the_same_name_in_the_working_directory_is_refused(
    tmp_path: Path, config: Path, decoy: str
) -> None:
    path = tmp_path / decoy
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('the decoy ran')")
    done = shell("train", "tiny.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"crosscoder: training: Python finds {path}, expected {ROOT / 'training'}; use"
    )
    assert done.stderr.count("\n") == 1


def test_a_plain_folder_of_the_same_name_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "stages.py").write_text("raise SystemExit('the decoy ran')")
    program = "from crosscoder.command.packages import module; print(module('training').__file__)"
    done = shell("-c", program, folder=tmp_path, module=False)
    assert done.stdout.strip() == str(ROOT / "training" / "__init__.py")


# --- serving ----------------------------------------------------------------------------------------------------------


def test_the_live_page_is_refused_before_any_work_if_unavailable(config: Path, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", load_config(config))
    for words, said in (
        (["--live"], "--live: the live page is served, not written; give --serve as well"),
        (
            ["--serve", "--live"],
            f"{folder.path}: its activations came from files, but the live page needs the models themselves; make a run with a pair",
        ),
    ):
        done = call("browse", folder.path, *words)
        assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"crosscoder: {said}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["stepp"],
            "bench: 'stepp' is not one of step, growth, harvest, shards, analysis, page, coverage, stability, ranks, gpu-grid, all (did you mean 'step'?)",
        ),
        (["step", "shape.k=9000"], "shape: k is 9000, which is larger than n_latents 8192"),
        (["step", "--repeats", "0"], "repeats: should be greater than or equal to 1, got 0"),
        (
            ["step", "--log", "nowhere.md"],
            "--log: 'nowhere.md' cannot be read; name a log such as docs/benchmarks.md",
        ),
    ],
)
def test_bench_refuses_in_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = call("bench", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"crosscoder: {message}")
    assert done.stderr.count("\n") == 1


def test_an_unmet_requirement_exits_with_3(
    calls: list[tuple[str, Any]], config: Path, tmp_path: Path
) -> None:
    (tmp_path / "require.yaml").write_text("validity: {robustness: {at_least: 0.5}}")
    RunFolder.create(tmp_path / "run", load_config(config))
    done = call("report", tmp_path / "run", "--require", tmp_path / "require.yaml")
    assert done.exit_code == 3
    assert "not met      validity.lever: not measured" in done.stdout
    assert calls[-1][1].validity.robustness.at_least == 0.5
    assert call("report", tmp_path / "run").exit_code == 0
    (tmp_path / "require.yaml").write_text("validity: {robust: 1}")
    assert call("report", tmp_path / "run", "--require", tmp_path / "require.yaml").exit_code == 2


# --- for real ---------------------------------------------------------------------------------------------------------


def test_bench_writes_figures_and_appends_to_a_log(tmp_path: Path) -> None:
    log = tmp_path / "benchmarks.md"
    log.write_text("# Benchmarks\n")
    shape = "shape={batch_tokens: 32, d_model: 8, n_latents: 32, k: 2}"
    small = [shape, "axes.k=[2,4]", "large=null", "precisions=[float32]", "shard_tokens=64", "warmup=1"]
    done = call("bench", "shards", *small, "--repeats", "1", "--output", tmp_path / "f.json", "--log", log)
    assert done.exit_code == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["machine"]["torch"]
    (reading,) = figures["figures"]
    assert reading["reference"] == "files, in order"
    assert reading["title"] in done.stdout
    assert reading["title"] in log.read_text()


@pytest.mark.slow
def test_bench_of_the_page_measures_building_and_opening(tmp_path: Path) -> None:
    done = call("bench", "page", "page_latents=[300]", "--repeats", "1", "--output", tmp_path / "f.json")
    assert done.exit_code == 0
    (figures,) = json.loads((tmp_path / "f.json").read_text())["figures"]
    assert figures["title"] == "Page: 300 latents, 20 examples of 40 tokens each"
    assert figures["build_seconds"] > 0
    assert figures["peak_bytes"] >= figures["held_bytes"] > 0
    assert figures["index_bytes"] > 100_000
    assert len(figures["openings"]) == (find_chromium() is not None)
    for opening in figures["openings"]:
        assert len(opening["latents"]) == 30
        assert all(time > 0 for name in ("latents", "sorts", "filters") for time in opening[name])


@pytest.mark.slow
def test_bench_of_analysis_measures_the_shape_and_the_pair(tmp_path: Path) -> None:
    shape = "shape={batch_tokens: 512, d_model: 8, n_latents: 32, k: 2}"
    small = [shape, "axes.k=[2,4]", "large=null", "precisions=[float32]", "warmup=2"]
    done = call("bench", "analysis", *small, "--repeats", "1", "--toy", "--output", tmp_path / "f.json")
    assert done.exit_code == 0
    planted, toy = json.loads((tmp_path / "f.json").read_text())["figures"]
    assert planted["title"].startswith("Analysis: batch 512, 2 × 8 wide")
    assert toy["title"] == "Analysis: the toy pair"
    assert {planted["reference"], toy["reference"]} == {"encode"}


@pytest.mark.slow
def test_a_pair_of_files_becomes_a_page(tmp_path: Path, config: Path) -> None:
    generator = np.random.default_rng(0)
    shared = generator.standard_normal((4096, 16)).astype(np.float32)
    np.save(tmp_path / "a.npy", shared)
    np.save(tmp_path / "b.npy", shared + generator.standard_normal((4096, 16)).astype(np.float32) * 0.1)
    words = [
        "crosscoder.n_latents=32",
        "crosscoder.sparsity.k=4",
        "training.n_tokens=20_000",
        "training.batch_tokens=256",
    ]
    done = shell("run", "tiny.yaml", *words, "threads=1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.splitlines()[-1].split()[-1])
    assert page.read_text(encoding="utf-8").lstrip().lower().startswith("<!doctype html>")
    again = shell("report", "run", folder=tmp_path)
    assert again.returncode == 0, again.stderr
