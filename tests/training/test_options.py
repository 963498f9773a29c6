"""train.py's options, recipes and environment: what is taken, what is refused, and in which words."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import transformers

from goodreads.common.errors import InputError
from goodreads.training import launch, options

# every honoured flag with a value that is not its default, what becomes of it, and what it goes with
HONOURED: dict[str, tuple[Any, ...]] = {
    "num_train_epochs": ("0.5", 0.5),
    "max_steps": ("7", 7),
    "learning_rate": ("1e-5", 1e-5),
    "lr_scheduler_type": ("cosine", "cosine"),
    "lr_scheduler_kwargs": ('{"num_cycles": 2}', {"num_cycles": 2}, "--lr_scheduler_type=cosine"),
    "warmup_steps": ("3", 3),
    "optim": ("adafactor", "adafactor"),
    "weight_decay": ("0.5", 0.5),
    "adam_beta1": ("0.5", 0.5),
    "adam_beta2": ("0.5", 0.5),
    "adam_epsilon": ("1e-6", 1e-6),
    "max_grad_norm": ("0", 0),
    "label_smoothing_factor": ("0.1", 0.1),
    "per_device_train_batch_size": ("4", 4),
    "bf16": ("true", True),
    "tf32": ("false", False),
    "use_cpu": ("true", True),
    "full_determinism": ("true", True),
    "eval_strategy": ("no", "no"),
    "save_strategy": ("no", "no"),
    "save_steps": ("5", 5, "--save_strategy=steps"),
    "metric_for_best_model": ("f1_macro", "eval_validation_f1_macro", "--validation-per-genre=3"),
    "logging_steps": ("9", 9),
    "logging_first_step": ("true", True),
    "run_name": ("mine", "mine"),
    "report_to": ("none", []),
    "ddp_timeout": ("60", 60),
}


def complete(*words: Any, device: str = "cpu", devices: int = 1) -> Any:
    run, flags = options.parse(None, [str(word) for word in words])
    launch.honour_accelerate(flags)
    return launch.complete(run, flags, device, devices)


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("name", HONOURED)
@pytest.mark.parametrize("by", ["--under_score", "--hyp-hen", "recipe"])
def test_a_flag_is_honoured_on_the_command_line_and_in_a_recipe(recipe: Any, name: str, by: str) -> None:
    said, value, *others = HONOURED[name]
    words = [f"--{name.replace('_', '-') if '-' in by else name}", said]
    if by == "recipe":
        words = ["--recipe", recipe(f"{name}: '{said}'")]
    found = getattr(complete(*words, *others)[0], name)
    assert getattr(found, "value", found) == value


def test_every_flag_of_transformers_is_honoured_or_refused_with_a_reason() -> None:
    # fp16 needs a GPU; save_total_limit is for callbacks.Checkpoints
    assert options.FLAGS.keys() == HONOURED.keys() | {"fp16", "save_total_limit"}
    for field in dataclasses.fields(transformers.TrainingArguments):
        if field.init and field.name not in {*options.FLAGS, "output_dir", "seed", "debug"}:
            with pytest.raises(InputError, match=f"--{field.name} has no effect here: "):
                options.parse(None, [f"--{field.name}", "secret"])


@pytest.mark.parametrize(
    ("name", "effective"), [("default", 16), ("report", 128), ("sample", 32), ("more-data", 32)]
)
def test_the_recipes_are_accepted(name: str, effective: int) -> None:
    made, plan = complete("--recipe", name)
    assert plan.effective == effective
    if name == "report":  # the reference's table 1
        assert (made.num_train_epochs, made.learning_rate, made.weight_decay) == (3, 2e-5, 0.01)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("", (), (16, 16)),
        ("per_device_train_batch_size: 64", (), (64, 64)),
        ("per_device_train_batch_size: 8\neffective_batch_size: 32", (), (32, 8)),
        ("effective_batch_size: 32", ("--per_device_train_batch_size", 8), (8, 8)),
        ("per_device_train_batch_size: 8", ("--effective-batch-size", 64), (64, 8)),
        ("", ("--effective-batch-size", 64, "--per-device-train-batch-size", 5), (64, 5)),
    ],
)
def test_the_command_line_wins_and_the_batch_size_that_is_asked_for_is_the_effective_one(
    recipe: Any, text: str, words: tuple[Any, ...], expected: tuple[int, int]
) -> None:
    _, plan = complete("--recipe", recipe(text), *words)
    assert (plan.effective, plan.per_device) == expected


@pytest.mark.parametrize(
    "line",
    [
        "max_length 1", "learning_rate 0", "learning_rate nan", "learning_rate inf", "num_train_epochs 0",
        "max_steps 0", "effective_batch_size 0", "per_device_train_batch_size -8", "warmup_steps -1",
        "weight_decay inf", "label_smoothing_factor 1", "adam_beta1 1", "adam_beta2 -0.1", "adam_epsilon 0",
        "max_grad_norm nan", "validation_per_genre -1", "early_stopping_patience -1", "save_total_limit 0",
        "save_steps -1", "logging_steps 0", f"seed {2**32}", "seed -1", "ddp_timeout 0",
    ],
)  # fmt: skip
def test_a_number_outside_its_range_is_refused(recipe: Any, line: str) -> None:
    name, value = line.split()
    for words, place in (
        ([f"--{name}={value}"], ""),
        (["--recipe", recipe(f"{name}: {value}")], "mine.yaml: "),
    ):
        with pytest.raises(InputError, match=rf"{place}argument --{name}: .* must be "):
            complete(*words)


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ("--lr 1", ("--lr", "did you mean --learning_rate")),
        ("--num_train_epochs many", ("invalid float value: 'many'",)),
        ("--recipe nothing", ("--recipe nothing", "default, more-data, report, sample")),
        ("--gradient-accumulation-steps 4", ("--effective_batch_size",)),
        ("--fsdp full_shard", ("torchrun",)),
        ("--hub_token secret", ("never goes on a command line",)),
        ("--eval_strategy steps", ("--eval_strategy", "'steps'", "epoch")),
        ("--save_strategy best", ("--save_strategy", "'best'", "steps")),
        ("--metric_for_best_model eval_test_loss --validation-per-genre 5", ("'eval_test_loss'", "f1_macro")),
        ("--metric_for_best_model loss", ("the test split never selects", "--validation-per-genre")),
        ("--lr_scheduler_type reduce_lr_on_plateau", ("the test split never selects",)),
        ("--early_stopping_patience 3", ("--validation-per-genre",)),
        ("--validation-per-genre 5 --save_strategy no", ("--save_strategy epoch",)),
        ("--save_steps 3", ("--save_strategy steps",)),
        ("--resume --force", ("contradict",)),
        ("--lr_scheduler_type cosine_with_min_lr", ("--lr_scheduler_type", "min_lr")),
        ("--lr_scheduler_type polynomial --lr_scheduler_kwargs power=3", ("--lr_scheduler_type", "mapping")),
        ("--lr_scheduler_type nonsense", ("nonsense", "cosine")),
        ("--optim adamw_bnb_8bit", ("--optim", "bitsandbytes")),
        ("--optim galore_adamw", ("--optim", "galore")),
        ("--report_to trackio", ("--report_to", "pip install trackio")),
        ("--fp16", ("--fp16 needs a GPU",)),
        ("--bf16 maybe", ("--bf16", "maybe")),
    ],
)
def test_a_bad_command_line_gets_one_line_before_anything_is_done(
    words: str, fragments: tuple[str, ...]
) -> None:
    with pytest.raises(InputError) as end:
        complete(*words.split())
    assert all(fragment in str(end.value) for fragment in fragments), end.value
    assert "secret" not in str(end.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "mine.yaml is not a YAML mapping"),
        ("just words", "mine.yaml is not a YAML mapping"),
        ("learning_rate: 1e-5\x00", "mine.yaml is not a YAML mapping"),
        ("seed: &a [*a]", "mine.yaml is not a YAML mapping"),
        ("report_to: [none]", "--report_to: .*'none'"),
        ("lr: 1e-3", "mine.yaml: .*--lr=1e-3; did you mean --learning_rate"),
        ("max_length: true", "mine.yaml: .*--max_length.* invalid int value: 'true'"),
        ("seed: ~", "mine.yaml: .*--seed.*'~'"),
        ("fsdp: full_shard", "mine.yaml: --fsdp has no effect here: .*torchrun"),
        ("recipe: report", "mine.yaml: a recipe cannot name another"),
    ],
)
def test_a_bad_recipe_gets_one_line_that_quotes_it(recipe: Any, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        complete("--recipe", recipe(text))


@pytest.mark.parametrize(
    ("words", "device", "accelerate", "expected"),
    [
        ([], "cuda", None, ["bf16"]),
        (["--fp16"], "cuda", "no", ["fp16"]),
        (["--bf16", "false"], "cuda", "bf16", []),
        ([], "cuda", "fp16", ["fp16"]),
        ([], "cpu", None, []),
        ([], "cpu", "bf16", ["bf16"]),
    ],
)
def test_precision_follows_the_flags_then_accelerate_then_the_gpu(
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    device: str,
    accelerate: str | None,
    expected: list[str],
) -> None:
    if accelerate:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", accelerate)
    monkeypatch.setattr(launch.transformers, "TrainingArguments", lambda **given: given)
    monkeypatch.setattr(launch, "_try_out", lambda made: None)
    monkeypatch.setattr(launch.machine, "choose_precision", lambda device: "bf16")
    made, _ = complete(*words, device=device)
    assert [name for name in ("bf16", "fp16") if made.get(name)] == expected


def test_what_accelerate_announces_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for taken in ("DYNAMO_BACKEND=NO", "DYNAMO_USE_DYNAMIC=False", "CPU_AFFINITY=1", "USE_CPU=True"):
        monkeypatch.setattr(launch.os, "environ", dict([f"ACCELERATE_{taken}".split("=")]))
        flags: dict[str, Any] = {}
        launch.honour_accelerate(flags)
        assert flags == ({"use_cpu": True} if taken == "USE_CPU=True" else {})
    for refused in (
        "MIXED_PRECISION=fp8 USE_FSDP=true USE_DEEPSPEED=1 USE_CPU=perhaps DYNAMO_BACKEND=inductor "
        "GRADIENT_ACCUMULATION_STEPS=4 TORCH_DEVICE=meta"
    ).split():
        monkeypatch.setattr(launch.os, "environ", dict([f"ACCELERATE_{refused}".split("=")]))
        with pytest.raises(InputError, match=f"ACCELERATE_{refused} in the environment"):
            launch.honour_accelerate({})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ("", (0, 1)),
        ("RANK=5 WORLD_SIZE=1", (0, 1)),
        ("LOCAL_RANK=1 RANK=3 WORLD_SIZE=4", (3, 4)),
        ("WORLD_SIZE=4", "WORLD_SIZE=4"),
        ("OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_SIZE=2"),
        ("LOCAL_RANK=0", "LOCAL_RANK.*'RANK'"),
        ("LOCAL_RANK=0 RANK=x WORLD_SIZE=2", "LOCAL_RANK.*'x'"),
    ],
)
def test_the_processes_are_those_of_a_launcher(
    monkeypatch: pytest.MonkeyPatch, variables: str, expected: Any
) -> None:
    monkeypatch.setattr(launch.os, "environ", dict(word.split("=") for word in variables.split()))
    if isinstance(expected, tuple):
        assert launch.processes() == expected
    else:
        with pytest.raises(InputError, match=expected):
            launch.processes()
