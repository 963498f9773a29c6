"""train.py's options, recipes and environment: what is taken, what is refused, and in which words."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import transformers

from goodreads.common.errors import InputError
from goodreads.training import launch, options

# every honoured flag with a value that is not its default
HONOURED = """
    num_train_epochs=0.5 max_steps=7 learning_rate=1e-05 lr_scheduler_type=cosine warmup_steps=3.0
    lr_scheduler_kwargs={"num_cycles":2} optim=adafactor weight_decay=0.5 adam_beta1=0.5 adam_beta2=0.5
    adam_epsilon=1e-06 max_grad_norm=0.0 label_smoothing_factor=0.1 per_device_train_batch_size=4 bf16=true
    tf32=false use_cpu=true full_determinism=true eval_strategy=no save_strategy=no save_steps=5
    metric_for_best_model=f1_macro logging_steps=9 logging_first_step=true run_name=mine report_to=none
    ddp_timeout=60
""".split()
SPECIAL = {  # what goes with a flag, and what becomes of its value
    "lr_scheduler_kwargs": (["--lr_scheduler_type=cosine"], "{'num_cycles': 2}"),
    "save_steps": (["--save_strategy=steps"], "5"),
    "metric_for_best_model": (["--validation-per-genre=3"], "eval_validation_f1_macro"),
    "report_to": ([], "[]"),
}


def complete(*words: Any, device: str = "cpu") -> Any:
    run, flags = options.parse(None, [str(word) for word in words])
    launch.honour_environment(flags)
    return launch.complete(run, flags, device)


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("flag", HONOURED)
@pytest.mark.parametrize("by", ["--under_score", "--hyp-hen", "recipe"])
def test_a_flag_is_honoured_on_the_command_line_and_in_a_recipe(recipe: Any, flag: str, by: str) -> None:
    name, said = flag.split("=")
    others, value = SPECIAL.get(name, ((), said))
    words = [f"--{name.replace('_', '-') if '-' in by else name}", said]
    if by == "recipe":
        words = ["--recipe", recipe(f"{name}: '{said}'")]
    found = getattr(complete(*words, *others)[0], name)
    assert str(getattr(found, "value", found)) in (value, value.capitalize())


def test_every_flag_of_transformers_is_honoured_or_refused_with_a_reason() -> None:
    # fp16 needs a GPU; save_total_limit is for Checkpoints
    honoured = {flag.split("=")[0] for flag in HONOURED}
    assert options.FLAGS.keys() == honoured | {"fp16", "save_total_limit"}
    for field in dataclasses.fields(transformers.TrainingArguments):
        if field.init and field.name not in {*options.FLAGS, "output_dir", "seed", "debug"}:
            with pytest.raises(InputError, match=f"--{field.name} has no effect here: "):
                options.parse(None, [f"--{field.name}", "secret"])


@pytest.mark.parametrize("recipe", ["default 16", "report 128", "sample 32", "more-data 32"])
def test_the_recipes_are_accepted(recipe: str) -> None:
    name, effective = recipe.split()
    made, plan = complete("--recipe", name)
    assert plan.effective == int(effective)
    if name == "report":  # the reference's table 1
        assert (made.num_train_epochs, made.learning_rate, made.weight_decay) == (3, 2e-5, 0.01)


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("", "", (16, 16)),
        ("per_device_train_batch_size: 64", "", (64, 64)),
        ("per_device_train_batch_size: 8\neffective_batch_size: 32", "", (32, 8)),
        ("effective_batch_size: 32", "--per_device_train_batch_size 8", (8, 8)),
        ("per_device_train_batch_size: 8", "--effective-batch-size 64", (64, 8)),
        ("", "--effective-batch-size 64 --per-device-train-batch-size 5", (64, 5)),
    ],
)
def test_the_command_line_wins_and_the_batch_size_that_is_asked_for_is_the_effective_one(
    recipe: Any, text: str, words: str, expected: tuple[int, int]
) -> None:
    made, plan = complete("--recipe", recipe(text), *words.split())
    assert (plan.effective, plan.per_device) == expected
    assert made.per_device_train_batch_size == plan.effective  # of the one device


@pytest.mark.parametrize(
    "line",
    [
        "max_length 1", "learning_rate 0", "learning_rate nan", "learning_rate inf", "num_train_epochs 0",
        "max_steps 0", "effective_batch_size 0", "per_device_train_batch_size -8", "warmup_steps -1",
        "weight_decay inf", "label_smoothing_factor 1", "adam_beta1 1", "adam_beta2 -0.1", "adam_epsilon 0",
        "max_grad_norm nan", "validation_per_genre -1", "save_total_limit 0", "save_steps -1",
        "logging_steps 0", f"seed {2**32}", "seed -1", "ddp_timeout 0",
    ],
)  # fmt: skip
def test_a_number_outside_its_range_is_refused(recipe: Any, line: str) -> None:
    name, value = line.split()
    places = {"": [f"--{name}={value}"], "mine.yaml: ": ["--recipe", recipe(f"{name}: {value}")]}
    for place, words in places.items():
        with pytest.raises(InputError, match=rf"{place}argument --{name}: .* must be "):
            complete(*words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lr 1", "--lr.* did you mean --learning_rate"),
        ("--recipe nothing", "--recipe nothing .*default or more-data or report or sample"),
        ("--hub_token secret", "never goes on a command line"),
        ("--eval_strategy steps", "--eval_strategy.*'steps'.*epoch"),
        ("--metric_for_best_model eval_test_loss --validation-per-genre 5", "'eval_test_loss'.*f1_macro"),
        ("--metric_for_best_model loss", "the test split never selects .*--validation-per-genre"),
        ("--lr_scheduler_type reduce_lr_on_plateau", "the test split never selects"),
        ("--validation-per-genre 5 --save_strategy no", "--save_strategy epoch"),
        ("--save_steps 3", "--save_strategy steps"),
        ("--resume --force", "contradict"),
        ("--lr_scheduler_type cosine_with_min_lr", "training arguments: .*min_lr"),
        (
            "--lr_scheduler_type polynomial --lr_scheduler_kwargs a=3",
            "training arguments: .*schedule.*mapping",
        ),
        ("--lr_scheduler_type nonsense", "nonsense.*cosine"),
        ("--optim adamw_bnb_8bit", "training arguments: .*bitsandbytes"),
        ("--report_to trackio", "pip install trackio"),
        ("--fp16", "--fp16 needs a GPU"),
        ("--bf16 maybe", "--bf16.*maybe"),
        *((text, "mine.yaml is not a YAML mapping") for text in ("a: [", "words", "seed: 1\x00", "&a [*a]")),
        ("lr: 1e-3", "mine.yaml: .*--lr=1e-3; did you mean --learning_rate"),
        ("max_length: true", "mine.yaml: .*--max_length.* invalid int value: 'true'"),
        ("seed: ~", "mine.yaml: .*--seed.*'~'"),
        ("recipe: report", "mine.yaml: a recipe cannot name another"),
    ],
)
def test_a_bad_command_line_or_recipe_gets_one_line(recipe: Any, words: str, said: str) -> None:
    given = words.split() if words.startswith("--") else ["--recipe", recipe(words)]
    with pytest.raises(InputError, match=re.compile(said, re.DOTALL)) as end:
        complete(*given)
    assert "secret" not in str(end.value)


@pytest.mark.parametrize(
    ("words", "device", "accelerate", "expected"),
    [
        ([], "cuda", "", "bf16"), ([], "cuda", "fp16", "fp16"), (["--bf16=false"], "cuda", "bf16", None),
        (["--fp16"], "cuda", "no", "fp16"), ([], "cpu", "", None), ([], "cpu", "bf16", "bf16"),
    ],
)  # fmt: skip
def test_precision_follows_the_flags_then_accelerate_then_the_gpu(
    monkeypatch: pytest.MonkeyPatch, words: list[str], device: str, accelerate: str, expected: str | None
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", accelerate)
    arguments = transformers.TrainingArguments  # which would look for the GPU
    monkeypatch.setattr(transformers, "TrainingArguments", lambda **it: arguments(**it | {"use_cpu": True}))
    monkeypatch.setattr(launch.machine, "choose_precision", lambda device: "bf16")
    made, _ = complete(*words, device=device)
    assert [name for name in ("bf16", "fp16") if getattr(made, name, False)] == [expected] * bool(expected)


TAKEN = "WORLD_SIZE=1 DYNAMO_BACKEND=NO DYNAMO_USE_DYNAMIC=False CPU_AFFINITY=1 USE_CPU=True".split()
REFUSED = """
    WORLD_SIZE=4 OMPI_COMM_WORLD_SIZE=2 MIXED_PRECISION=fp8 USE_FSDP=true USE_DEEPSPEED=1 USE_CPU=perhaps
    DYNAMO_BACKEND=inductor GRADIENT_ACCUMULATION_STEPS=4 TORCH_DEVICE=meta
""".split()


@pytest.mark.parametrize("word", TAKEN + REFUSED)
def test_what_a_launcher_announces_is_taken_or_refused(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    variable, flags = word if "SIZE" in word else f"ACCELERATE_{word}", dict[str, Any]()
    monkeypatch.setattr(launch.os, "environ", dict([variable.split("=")]))
    if word in REFUSED:
        with pytest.raises(InputError, match=f"{variable} in the environment.* unset it"):
            launch.honour_environment(flags)
    else:
        launch.honour_environment(flags)
        assert flags == ({"use_cpu": True} if "USE_CPU" in word else {})
