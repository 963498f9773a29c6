"""train.py's command line and recipes: what is taken, what is refused, and in which words."""

import json
from pathlib import Path
from typing import Any

import pytest

from goodreads.common.errors import InputError
from goodreads.training import flags, launch
from goodreads.training.options import RunArguments, answer_help


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*launch.NUMBERS, *launch.LOGGED):
        monkeypatch.delenv(name, raising=False)


def parse(*words: Any) -> tuple[RunArguments, dict[str, Any]]:
    return flags.parse(None, [str(word) for word in words])


def complete(*words: Any, device: str = "cpu", devices: int = 1) -> Any:
    run, chosen = parse(*words)
    return flags.complete(run, chosen, device, devices)


def refusal(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """The one line that a command line is refused with."""
    try:
        complete(*words)
    except InputError as error:
        return str(error)
    except SystemExit as end:
        assert end.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line
    raise AssertionError(f"{words} was accepted")


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


# every honoured flag, with a value that is not its default, and what becomes of it
HONOURED = {
    "num_train_epochs": (0.5, 0.5),
    "max_steps": (7, 7),
    "learning_rate": ("1e-5", 1e-5),
    "lr_scheduler_type": ("cosine", "cosine"),
    "lr_scheduler_kwargs": ('{"num_cycles": 2}', {"num_cycles": 2}),
    "warmup_steps": (3, 3),
    "optim": ("adafactor", "adafactor"),
    "optim_args": ("momentum=0.5", "momentum=0.5"),
    "weight_decay": (0.5, 0.5),
    "adam_beta1": (0.5, 0.5),
    "adam_beta2": (0.5, 0.5),
    "adam_epsilon": ("1e-6", 1e-6),
    "max_grad_norm": (0, 0),
    "label_smoothing_factor": (0.1, 0.1),
    "per_device_train_batch_size": (4, 4),
    "bf16": ("true", True),
    "tf32": ("false", False),
    "use_cpu": ("true", True),
    "full_determinism": ("true", True),
    "eval_strategy": ("no", "no"),
    "save_strategy": ("no", "no"),
    "save_steps": (5, 5),
    "metric_for_best_model": ("f1_macro", "eval_validation_f1_macro"),
    "greater_is_better": ("false", False),
    "logging_steps": (9, 9),
    "logging_first_step": ("true", True),
    "run_name": ("mine", "mine"),
    "report_to": ("none", []),
    "disable_tqdm": ("false", False),
    "ddp_timeout": (60, 60),
    "ddp_bucket_cap_mb": (5, 5),
    "ddp_find_unused_parameters": ("true", True),
}
TOGETHER: dict[str, tuple[Any, ...]] = {
    "lr_scheduler_kwargs": ("--lr_scheduler_type", "cosine_with_restarts"),
    "optim_args": ("--optim", "sgd"),
    "save_steps": ("--save_strategy", "steps"),
    "metric_for_best_model": ("--validation-per-genre", 3),
    "greater_is_better": ("--validation-per-genre", 3),
}


@pytest.mark.parametrize("name", HONOURED)
@pytest.mark.parametrize("by", ["--under_score", "--hyp-hen", "recipe"])
def test_a_flag_is_honoured_on_the_command_line_and_in_a_recipe(recipe: Any, name: str, by: str) -> None:
    said, value = HONOURED[name]
    if by == "recipe":
        lines = [f"{name}: {json.dumps(said) if name.endswith('kwargs') else said}"]
        words: tuple[Any, ...] = ("--recipe", recipe("\n".join(lines).replace("'", "")))
        if name.endswith("kwargs"):
            words = ("--recipe", recipe(f"{name}: '{said}'"))
    else:
        words = (f"--{name.replace('_', '-') if '-' in by else name}", said)
    found = getattr(complete(*words, *TOGETHER.get(name, ()))[0], name)
    assert getattr(found, "value", found) == value


def test_the_flags_are_those_that_are_tested() -> None:
    # fp16 needs a GPU, ddp_backend several processes; save_total_limit is for callbacks.Checkpoints
    assert flags.HONOURED.keys() == HONOURED.keys() | {"fp16", "ddp_backend", "save_total_limit"}


@pytest.mark.parametrize("name", ["default", "report", "sample"])
def test_the_recipes_are_accepted(name: str) -> None:
    arguments, plan = complete("--recipe", name)
    assert arguments.learning_rate > 0 and plan.effective in (16, 32, 128)


def test_the_report_recipe_is_the_references_table_1() -> None:
    run, chosen = parse("--recipe", "report")
    assert (run.max_length, chosen["num_train_epochs"]) == (512, 3)
    assert (chosen["learning_rate"], chosen["weight_decay"]) == (2e-5, 0.01)
    assert 3 * 6400 / run.effective_batch_size == 150  # steps in the report


def test_the_command_line_wins_over_the_recipe(recipe: Any) -> None:
    path = recipe("max-length: 32\nlearning_rate: 5e-4\nwarmup_steps: 1")
    run, chosen = parse("--recipe", path, "--learning-rate", "2e-3", "--data-dir", "x", "--output_dir=y")
    assert (run.max_length, chosen["learning_rate"], chosen["warmup_steps"]) == (32, 2e-3, 1)
    assert (str(run.data_dir), str(run.output_dir), str(run.checkpoints)) == ("x", "y", "y-checkpoints")


@pytest.mark.parametrize(
    ("text", "words", "effective", "at_once"),
    [
        ("", (), 16, 16),
        ("effective_batch_size: 32", (), 32, 32),
        ("per_device_train_batch_size: 64", (), 64, 64),
        ("per_device_train_batch_size: 8\neffective_batch_size: 32", (), 32, 8),
        ("effective_batch_size: 32", ("--per_device_train_batch_size", 8), 8, 8),
        ("per_device_train_batch_size: 8", ("--effective-batch-size", 64), 64, 8),
        ("", ("--effective-batch-size", 64, "--per-device-train-batch-size", 5), 64, 5),
    ],
)
def test_the_batch_size_that_is_asked_for_is_the_effective_one(
    recipe: Any, text: str, words: tuple[Any, ...], effective: int, at_once: int
) -> None:
    _, plan = complete("--recipe", recipe(text), *words)
    assert (plan.effective, plan.per_device) == (effective, at_once)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "max_length": (1, 0, -5),
        "learning_rate": (0, -1, "nan", "inf"),
        "num_train_epochs": (0, -1, "nan", "inf"),
        "max_steps": (0, -2),
        "effective_batch_size": (0, -1),
        "per_device_train_batch_size": (0, -8),
        "warmup_steps": (-1, "nan"),
        "weight_decay": (-0.1, "inf"),
        "label_smoothing_factor": (1, -0.1),
        "adam_beta1": (1, -0.1),
        "adam_beta2": (1.5,),
        "adam_epsilon": (0,),
        "max_grad_norm": (-1, "nan"),
        "validation_per_genre": (-1,),
        "early_stopping_patience": (-1,),
        "save_total_limit": (0,),
        "save_steps": (0, -1),
        "logging_steps": (0, "nan"),
        "seed": (-1, 2**32),
        "ddp_timeout": (0,),
    }.items(),
)
def test_a_number_outside_its_range_is_refused(
    capsys: pytest.CaptureFixture[str], recipe: Any, name: str, values: tuple[Any, ...]
) -> None:
    for value in values:
        assert f"--{name} " in (line := refusal(capsys, f"--{name}", value)) and "must be" in line
        line = refusal(capsys, "--recipe", recipe(f"\n{name}: {value}"))
        assert f"mine.yaml, line 2: {name}: {value}: it must be" in line


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("--lr", 1), ("--lr", "did you mean --learning_rate")),
        (("--learning_rat", 1), ("did you mean --learning_rate",)),
        (("--num_train_epochs", "many"), ("invalid float value: 'many'",)),
        (("--recipe", "nothing"), ("--recipe nothing", "default, report, sample")),
        (("--fsdp", "full_shard"), ("--fsdp has no effect here", "torchrun")),
        (("--deepspeed", "x.json"), ("--deepspeed has no effect here", "torchrun")),
        (("--gradient-accumulation-steps", 4), ("has no effect here", "--effective_batch_size")),
        (("--average_tokens_across_devices", "false"), ("has no effect here", "the loss is the mean")),
        (("--save_only_model",), ("has no effect here", "could not be resumed")),
        (("--eval_on_start", "True"), ("has no effect here", "--eval_strategy no")),
        (("--eval_strategy", "steps"), ("--eval_strategy steps", "epoch or no")),
        (("--push_to_hub",), ("push_to_hub.py",)),
        (("--hub_token", "secret"), ("never goes on a command line",)),
        (("--load_best_model_at_end",), ("--validation-per-genre",)),
        (("--torch_compile", "True"), ("has no effect here", "--help-all")),
        (("--neftune_noise_alpha", 5), ("has no effect here",)),
        (("--per_device_eval_batch_size", 5), ("fit a number of tokens",)),
        (("--metric_for_best_model", "eval_test_accuracy"), ("the test split never selects",)),
        (
            ("--validation-per-genre", 5, "--metric_for_best_model", "eval_test_loss"),
            ("the test split never",),
        ),
        (("--validation-per-genre", 5, "--metric_for_best_model", "auc"), ("auc is none of loss, accuracy",)),
        (("--save_strategy", "best"), ("--validation-per-genre N selects",)),
        (("--validation-per-genre", 5, "--save_strategy", "no"), ("--save_strategy epoch",)),
        (("--lr_scheduler_type", "reduce_lr_on_plateau"), ("the test split never selects",)),
        (("--early_stopping_patience", 3), ("only with --validation-per-genre",)),
        (("--save_steps", 3), ("only with --save_strategy steps",)),
        (("--resume", "--force"), ("contradict",)),
        (("--lr_scheduler_type", "cosine_with_min_lr"), ("--lr_scheduler_type cosine_with_min_lr", "min_lr")),
        (("--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", "power=3"), ("not a JSON object",)),
        (("--lr_scheduler_type", "polynomial", "--lr_scheduler_kwargs", '{"power": "x"}'), ("polynomial",)),
        (("--lr_scheduler_type", "nonsense"), ("nonsense",)),
        (("--optim", "adamw_bnb_8bit"), ("--optim adamw_bnb_8bit", "bitsandbytes")),
        (("--optim", "galore_adamw"), ("--optim galore_adamw", "galore")),
        (("--optim_args", "momentum=0.9"), ("--optim_args momentum=0.9 has no effect",)),
        (("--report_to", "trackio"), ("--report_to trackio", "pip install trackio")),
        (("--fp16",), ("--fp16 needs a GPU",)),
        (("--effective_batch_size", 2, "--bf16", "maybe"), ("--bf16", "maybe")),
    ],
)
def test_a_bad_command_line_gets_one_line_before_anything_is_done(
    capsys: pytest.CaptureFixture[str], words: tuple[Any, ...], fragments: tuple[str, ...]
) -> None:
    line = refusal(capsys, *words)
    assert all(fragment in line for fragment in fragments), line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("a: [", ("is not YAML",)),
        ("- a\n- b", ("is not a mapping",)),
        ("just words", ("is not a mapping",)),
        ("model:\n  name: x", ("line 1: a nested value",)),
        ("report_to: [none]", ("line 1: a nested value",)),
        ("lr: 1e-3", ("line 1: lr: 1e-3", "no such option", "learning_rate")),
        ("learning_rate: fast", ("line 1: learning_rate: fast", "invalid float value: 'fast'")),
        ("max_length: true", ("max_length: true", "invalid int value: 'true'")),
        ("max_length: 12.5", ("max_length: 12.5", "invalid int value: '12.5'")),
        ("seed: 1\nseed: 2", ("line 2: seed: 2", "twice")),
        ("max_length: 9\nmax-length: 9", ("line 2: max-length: 9", "twice")),
        ("max_length:", ("line 1: max_length: ", "has no value")),
        ("seed: ~", ("seed: ~", "has no value")),
        ("resume: true", ("resume: true", "belongs on the command line")),
        ("fsdp: full_shard", ("fsdp: full_shard", "no effect here", "torchrun")),
        ("gradient_accumulation_steps: 4", ("no effect here", "--effective_batch_size")),
        ("save_only_model: yes", ("save_only_model: yes", "no effect here")),
        ("eval_strategy: steps", ("--eval_strategy steps",)),
        ("optim: best", ("optim: best", "invalid choice: 'best'")),
        ("learning_rate: 1e-5\x00", ("is not YAML",)),
    ],
)
def test_a_bad_recipe_gets_one_line_that_quotes_it(
    capsys: pytest.CaptureFixture[str], recipe: Any, text: str, fragments: tuple[str, ...]
) -> None:
    line = refusal(capsys, "--recipe", recipe(text))
    assert all(fragment in line for fragment in fragments), line


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a: &a [*a]"])
def test_a_recipe_that_is_no_text_file_gets_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "odd.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    assert "odd.yaml" in refusal(capsys, "--recipe", path)


def test_precision_follows_the_flags_then_accelerate_then_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def precision(*words: str, device: str = "cuda", accelerate: str | None = None) -> list[str]:
        monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
        if accelerate is not None:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", accelerate)
        run, chosen = parse(*words)
        launch.check_environment(chosen)
        made: dict[str, Any] = {}
        with monkeypatch.context() as patch:
            patch.setattr(flags, "TrainingArguments", lambda **kwargs: made.update(kwargs))
            patch.setattr(flags, "_try_out", lambda arguments: None)
            patch.setattr(flags, "choose_precision", lambda device: ("bf16", ""))
            flags.complete(run, chosen, device, 1)
        return [name for name in ("bf16", "fp16") if made[name]]

    assert precision() == ["bf16"]
    assert precision(accelerate="no") == ["bf16"]
    assert precision("--fp16") == ["fp16"]
    assert precision("--bf16", "false") == []
    assert precision(accelerate="fp16") == ["fp16"]
    assert precision("--bf16", "false", accelerate="bf16") == []
    assert precision(device="cpu") == []
    assert precision(device="cpu", accelerate="bf16") == ["bf16"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
        ("ACCELERATE_MIXED_PRECISION", ""),
        ("ACCELERATE_USE_FSDP", "true"),
        ("ACCELERATE_USE_DEEPSPEED", "1"),
        ("ACCELERATE_USE_MEGATRON_LM", "TRUE"),
        ("ACCELERATE_USE_CPU", "perhaps"),
        ("ACCELERATE_DYNAMO_BACKEND", "inductor"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_TORCH_DEVICE", "meta"),
        ("OMP_NUM_THREADS", "many"),
        ("OMP_NUM_THREADS", "0"),
    ],
)
def test_an_environment_that_would_change_the_run_gets_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=name):
        launch.check_environment(parse()[1])


def test_what_accelerate_launch_sets_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "default",
        "ACCELERATE_USE_FSDP": "false",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_USE_CPU": "True",
        "OMP_NUM_THREADS": "2",
    }.items():
        monkeypatch.setenv(name, value)
    chosen = parse()[1]
    assert launch.check_environment(chosen) == {"OMP_NUM_THREADS": "2", "ACCELERATE_USE_CPU": "True"}
    assert chosen["use_cpu"]


TORCHRUN = {"LOCAL_RANK": "1", "RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "5", "WORLD_SIZE": "1"}, (0, 1)),
        ({"LOCAL_RANK": "-1"}, (0, 1)),
        (TORCHRUN, (3, 4)),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2"),
        ({"LOCAL_RANK": "abc"}, "LOCAL_RANK=abc"),
        ({"LOCAL_RANK": ""}, "LOCAL_RANK= "),
        ({"LOCAL_RANK": "0"}, "not RANK"),
        (TORCHRUN | {"RANK": "4"}, "contradict"),
        (TORCHRUN | {"MASTER_PORT": "x"}, "MASTER_PORT=x"),
    ],
)
def test_the_processes_are_those_of_a_launcher(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Any
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if isinstance(expected, tuple):
        assert launch.processes() == expected
    else:
        with pytest.raises(InputError, match=expected):
            launch.processes()


def test_help_needs_no_torch_and_names_both_spellings(capsys: pytest.CaptureFixture[str]) -> None:
    for words, fragments in (
        (["--help"], ("the docstring", "--max-length", "--max_length", "--resume")),
        (["--help-all"], ("--learning_rate", "--ddp_timeout")),
    ):
        with pytest.raises(SystemExit) as end:
            answer_help("the docstring", words)
            flags.parse(None, words)
        assert not end.value.code
        text = capsys.readouterr().out
        assert all(fragment in text for fragment in fragments)
    assert "--fsdp" not in text
