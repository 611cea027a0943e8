"""What a study's file says, and every way to get it wrong."""

import re
from pathlib import Path

import pytest

from graphprune.core.errors import InputError
from graphprune.methods import Recipe
from graphprune.studies.study import Draw, Study
from tests.cli.runner import TEXTS
from tests.studies.made import CALIBRATION, EVALUATION, HEAD, SMALL, written


def read(folder: Path, text: str) -> Study:
    return Study.read(written(folder, text), data=TEXTS)


def test_cells_are_all_combinations_the_dense_model_first(tmp_path: Path) -> None:
    study = read(tmp_path, SMALL)
    cells = [(cell.method, cell.sparsity, cell.seed) for cell in study.cells()]
    wanda = "wanda, compensation obs"
    assert cells == [
        ("dense", 0.0, 0),
        *((method, s, seed) for seed in (0, 1) for method in ("magnitude", wanda) for s in (0.2, 0.4)),
    ]
    drawn = {cell.method: cell.draw for cell in study.cells()}
    assert drawn == {"dense": None, "magnitude": None, wanda: Draw(TEXTS / "calibration.txt", 8, 64)}
    assert study.title == "mine"


def test_several_values_of_an_option_are_several_methods(tmp_path: Path) -> None:
    methods = """methods = [
        {method = "slimgpt", allocation = ["uniform", "log"], head_mode = ["group", "balanced"]},
        {name = "rank", method = "llmrank", options = {gamma = [0.0, 0.9], theta = 0.5}},
    ]\n"""
    ways = {way.label: way.recipe for way in read(tmp_path, HEAD + methods + CALIBRATION + EVALUATION).ways}
    assert list(ways) == [
        *(f"slimgpt, allocation {a}, head_mode {h}" for a in ("uniform", "log") for h in ("group", "balanced")),
        "rank, gamma 0.0", "rank, gamma 0.9",
    ]  # fmt: skip
    recipe = ways["slimgpt, allocation uniform, head_mode group"]
    assert (recipe.cut.allocation, recipe.cut.head_mode, recipe.compensation) == ("uniform", "group", "obs")
    assert ways["rank, gamma 0.9"] == Recipe.of("llmrank", options={"gamma": 0.9, "theta": 0.5})


def test_a_table_a_method_says_the_same_as_a_list(tmp_path: Path) -> None:
    listed = read(tmp_path, HEAD + 'methods = ["wanda", {method = "flap", floor = 2}]\n' + CALIBRATION + EVALUATION)
    tables = '[[methods]]\nmethod = "wanda"\n[[methods]]\nmethod = "flap"\nfloor = 2\n'
    assert read(tmp_path, HEAD + tables + CALIBRATION + EVALUATION) == listed


def test_several_calibrations_are_an_axis_of_their_own(tmp_path: Path) -> None:
    sizes = "n_samples = [4, 8]\nseq_len = 64\n"
    study = read(tmp_path, HEAD + 'methods = "wanda"\n' + CALIBRATION + sizes + EVALUATION)
    assert [cell.draw.n_samples for cell in study.cells() if cell.draw is not None] == [4, 8]


def test_a_pattern_says_how_much_goes_and_a_method_may_say_so_itself(tmp_path: Path) -> None:
    methods = (
        'methods = [{method = "wanda", pattern = ["1:4", "unstructured"]}, {method = "taylor", sparsities = 0.3}]\n'
    )
    study = read(tmp_path, HEAD + methods + CALIBRATION + EVALUATION)
    assert [way.sparsities for way in study.ways] == [(0.75,), (0.2,), (0.3,)]


def test_random_scores_are_drawn_with_the_seed_unless_they_have_one(tmp_path: Path) -> None:
    methods = 'methods = ["random", {method = "random", options = {seed = 7}}]\nseeds = [3, 4]\n'
    study = read(tmp_path, HEAD + methods + CALIBRATION + EVALUATION)
    seeds = [(cell.seed, cell.recipe.options["seed"]) for cell in study.cells() if cell.recipe is not None]
    assert seeds == [(3, 3), (3, 7), (4, 4), (4, 7)]


def test_paths_begin_where_the_file_lies_or_where_the_data_are(tmp_path: Path) -> None:
    for name in ("calibration.txt", "evaluation.txt"):
        (tmp_path / name).write_text("text")
    assert Study.read(written(tmp_path)).judging.texts == (tmp_path / "evaluation.txt",)
    assert read(tmp_path, SMALL).judging.texts == (TEXTS / "evaluation.txt",)
    (tmp_path / "mine").mkdir()
    path = written(tmp_path, SMALL.replace('"tiny"', '"tiny", "mine", "org/name"'))
    assert Study.read(path).models == {"tiny": "tiny", "mine": str(tmp_path / "mine"), "org/name": "org/name"}


METHODS = 'methods = ["wanda"]\n'
WHOLE = HEAD + METHODS + CALIBRATION + EVALUATION


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = [1 2]", r"mine.toml is no TOML: .*line 1"),
        (HEAD + METHODS, "mine.toml has no evaluation"),
        (HEAD + CALIBRATION + EVALUATION, "mine.toml has no methods"),
        (METHODS + EVALUATION, "mine.toml has no models"),
        ("sparsity = 0.2\n" + WHOLE, "mine.toml has no key 'sparsity'; it has .*sparsities"),
        (WHOLE.replace("text =", "texts =", 1), r"\[calibration\] has no key 'texts'; it has text, n_samples, seq_len"),
        ('seeds = ["a"]\n' + WHOLE, "mine.toml: seeds is a whole number, not 'a'"),
        ("seeds = [true]\n" + WHOLE, "seeds is a whole number, not True"),
        ("seeds = [-1]\n" + WHOLE, "seeds are whole numbers from 0 .* not -1"),
        ("seeds = []\n" + WHOLE, "seeds is an empty list"),
        ("seeds = [1, 1]\n" + WHOLE, "seeds names 1 twice"),
        (WHOLE.replace("0.2", "1.2"), "sparsities are fractions removed, between 0 and 1, not 1.2"),
        (WHOLE.replace("0.2", "nan"), "between 0 and 1, not nan"),
        (WHOLE.replace("[0.2]", "'much'"), "sparsities is a number, not 'much'"),
        (WHOLE.replace("sparsities = [0.2]\n", ""), "method 'wanda': how much shall go"),
        (WHOLE.replace("wanda", "wnda"), "method 'wnda': no method is named 'wnda'; there are .*wanda"),
        (WHOLE.replace('"wanda"', "7"), "methods is a text or a table, not 7"),
        (WHOLE.replace('"wanda"', '{name = "x"}'), "a method has no key method"),
        (WHOLE.replace('"wanda"', '{method = "wanda", alocation = "log"}'), "'wanda' has no key 'alocation'; it has"),
        (WHOLE.replace('"wanda"', '{method = "wanda", floor = "low"}'), "floor is a whole number, not 'low'"),
        (WHOLE.replace('"wanda"', '{method = "wanda", head_mode = "x"}'), "head_mode is group or balanced, not 'x'"),
        (WHOLE.replace('"wanda"', '{method = "wanda", allocation = "x"}'), "method 'wanda': no allocation .* 'x'"),
        (WHOLE.replace('"wanda"', '{method = "wanda", options = {g = 1}}'), "method 'wanda': the scorer .* option 'g'"),
        (WHOLE.replace('"wanda"', '{method = "wanda", pattern = "2:4", sparsities = 0.3}'), "removes 0.5, not 0.3"),
        (WHOLE.replace('"wanda"', '"wanda", {name = "wanda", method = "taylor"}'), "two methods are called 'wanda'"),
        (HEAD + METHODS + EVALUATION, r"'wanda' needs calibration; give \[calibration\] a text"),
        (WHOLE.replace("calibration.txt", "none.txt"), r"\[calibration\]: the text .*none.txt is not there"),
        (WHOLE.replace("evaluation.txt", "none.txt"), r"\[evaluation\]: the text .*none.txt is not there"),
        (WHOLE.replace(CALIBRATION, CALIBRATION + "n_samples = 0\n"), r"at least 1 sample .* not 0 of 512"),
        (WHOLE + "seq_len = 1\n", r"\[evaluation\]: at least 1 window of 2 tokens"),
        (WHOLE + "limit = 3\n", r"\[evaluation\]: limit says more of tasks; give tasks"),
        (WHOLE.replace('text = "evaluation.txt"', "seq_len = 9"), r"\[evaluation\]: there is nothing to judge by"),
        (WHOLE + 'tasks = "x"\ntasks_dir = "none"\n', r"\[evaluation\]: the folder of tasks .*none is not there"),
        ('dtype = "int8"\n' + WHOLE, "dtype is one of float32, .*, not 'int8'"),
        ('sparsity_of = "all"\n' + WHOLE, "sparsity_of is prunable or blocks, not 'all'"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_it(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        read(tmp_path, text)
    assert "\n" not in str(raised.value)
    assert re.match(r"\S*mine\.toml", str(raised.value))


def test_files_and_folders_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the study .*none\.toml is not there"):
        Study.read(tmp_path / "none.toml")
    with pytest.raises(InputError, match=r"the folder .*none is not there"):
        Study.read(written(tmp_path), data=tmp_path / "none")


COMMITTED = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Stands for the folder with the texts and tasks that the committed studies name."""
    for name in ("wikitext2_valid.txt", "wikitext2_test.txt"):
        (tmp_path / name).write_text("text")
    for name in ("arc_easy.jsonl", "piqa.jsonl"):
        (tmp_path / name).write_text('{"question": "Why?", "choices": ["so", "thus"], "answer": 0}\n')
    return tmp_path


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_every_committed_study_can_be_read(path: Path, data: Path) -> None:
    if path.stem == "llmrank":
        pytest.importorskip("lm_eval")
    study = Study.read(path, data=data)
    assert list(study.models) == ["smollm2-135m"]
    assert len(study.cells()) > 8
    told = (path.parent / "README.md").read_text(encoding="utf-8")
    assert f"[`{path.name}`]({path.name})" in told


def test_the_published_schedules_are_compared_with_their_reverses(data: Path) -> None:
    study = Study.read(Path(__file__).parents[2] / "studies" / "slimgpt.toml", data=data)
    allocations = {way.recipe.cut.allocation for way in study.ways}
    assert allocations == {"uniform", "log", "linear", "log_reversed", "linear_reversed"}
