"""One parser for the host's spelling and a person's."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.commands.command_line import DEFAULT_PORT, Arguments, parse

HOSTED = Arguments("ns/model:tag", "127.0.0.1", 4321, hosted=True)


@pytest.mark.parametrize(
    "words",
    [
        "runner --mlx-engine --model ns/model:tag --port 4321",
        "runner --model ns/model:tag --port 4321",
        "runner -model ns/model:tag -port 4321",
        "runner -model=ns/model:tag -port=4321 -verbose",
        "runner --verbose=true --model=ns/model:tag --port=4321 --mlx-engine=true",
        "runner -verbose=false -port 4321 -model ns/model:tag",
    ],
)
def test_every_spelling_that_go_takes_means_the_same(words: str) -> None:
    assert parse(words.split()) == HOSTED


def test_a_person_gets_the_demo_model_on_the_loopback_address() -> None:
    assert parse([]) == Arguments("demo", "127.0.0.1", DEFAULT_PORT, hosted=False)


def test_a_person_may_choose() -> None:
    assert parse(["--model", "/m", "--host", "::1", "--port", "0"]) == Arguments("/m", "::1", 0, hosted=False)


@pytest.mark.parametrize(
    ("word", "packed"),
    [("--packed", True), ("-packed", True), ("--packed=true", True), ("-packed=false", False)],
)
def test_weights_are_packed_where_somebody_says_so(word: str, packed: bool) -> None:
    assert parse([word]).packed is packed


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("--nope", "unrecognized arguments: --nope"),
        ("runner --port 1", "runner needs --model NAME"),
        ("--port x", "invalid int value: 'x'"),
        ("--port 70000", "--port 70000: expected 0 to 65535"),
        ("runner --model m --ollama-engine", "unrecognized arguments: --ollama-engine"),
    ],
)
def test_usage_errors_exit_with_2_and_say_what_is_wrong(
    words: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(words.split())
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("--model", "curl", "OLLAMA_DEBUG", "exit codes", "Hugging Face"):
        assert word in text


@pytest.mark.parametrize(
    ("words", "parallel"),
    [([], None), (["--parallel", "4"], 4), (["runner", "-model", "x", "-parallel=1"], 1)],
)
def test_how_many_at_once_is_a_number_or_left_to_the_environment(
    words: list[str], parallel: int | None
) -> None:
    assert parse(words).parallel == parallel


@pytest.mark.parametrize(
    ("words", "length"),
    [([], None), (["--context-length", "2"], 2), (["runner", "-model", "x", "-context-length=4096"], 4096)],
)
def test_the_context_is_a_number_of_tokens_or_left_to_the_environment(
    words: list[str], length: int | None
) -> None:
    assert parse(words).context_length == length


@pytest.mark.parametrize("number", ["1", "0", "-5", "4k"])
def test_a_context_that_holds_no_prompt_and_answer_is_a_usage_error(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["--context-length", number])
    assert left.value.code == 2
    assert number in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "processes"),
    [([], None), (["--tensor-parallel", "4"], 4), (["runner", "-model", "x", "-tensor-parallel=2"], 2)],
)
def test_how_many_processes_have_the_model(words: list[str], processes: int | None) -> None:
    assert parse(words).tensor_parallel == processes


@pytest.mark.parametrize("number", ["0", "65", "-1", "many"])
def test_a_number_of_processes_that_is_none_is_a_usage_error(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["--tensor-parallel", number])
    assert left.value.code == 2
    assert number in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "65", "-1", "many"])
def test_a_number_at_once_that_is_none_is_a_usage_error(
    number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["--parallel", number])
    assert left.value.code == 2
    assert number in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "memory"),
    [([], None), (["--memory", "8G"], 2**33), (["runner", "-model", "x", "-memory=1K"], 1024)],
)
def test_the_memory_is_a_size_or_left_to_the_environment(words: list[str], memory: int | None) -> None:
    assert parse(words).memory == memory


@pytest.mark.parametrize("text", ["much", "0", "8X"])
def test_a_memory_that_is_no_size_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(["--memory", text])
    assert left.value.code == 2
    assert f"--memory {text}: expected a size" in capsys.readouterr().err


def test_the_cache_has_a_folder_and_a_size_or_is_left_to_the_environment() -> None:
    assert (parse([]).cache_dir, parse([]).cache_size) == (None, None)
    given = parse(["runner", "-model", "x", "-cache-dir=/c", "-cache-size", "512M"])
    assert (given.cache_dir, given.cache_size) == (Path("/c"), 512 * 2**20)


@pytest.mark.parametrize("text", ["0", "-1", "many", "8 elephants"])
def test_a_size_that_is_none_is_a_usage_error(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse([f"--cache-size={text}"])
    assert left.value.code == 2
    assert f"--cache-size {text}: expected a size such as 8G" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--kv-type", "q8_0"], ["runner", "-model", "x", "-kv-type=q8_0"]])
def test_a_kv_type_is_named_or_left_to_the_environment(words: list[str]) -> None:
    assert parse(words).kv_type == "q8_0"
    assert parse([]).kv_type is None


@pytest.mark.parametrize("text", ["q5_0", "Q8_0", ""])
def test_a_kv_type_that_is_none_is_a_usage_error_that_names_all(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse([f"--kv-type={text}"])
    assert left.value.code == 2
    assert f"--kv-type {text}: expected one of f16, q8_0, q4_0" in capsys.readouterr().err
