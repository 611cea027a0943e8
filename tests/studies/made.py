"""A study of seconds on the shipped model."""

from pathlib import Path

SMALL = """
models = ["tiny"]
methods = ["magnitude", {method = "wanda", compensation = "obs"}]
sparsities = [0.2, 0.4]
seeds = [0, 1]

[calibration]
text = "calibration.txt"
n_samples = 8
seq_len = 64

[evaluation]
text = "evaluation.txt"
seq_len = 32
max_windows = 2
"""
HEAD, CALIBRATION, EVALUATION = (
    'models = ["tiny"]\nsparsities = [0.2]\n',
    '[calibration]\ntext = "calibration.txt"\n',
    '[evaluation]\ntext = "evaluation.txt"\n',
)


def written(folder: Path, text: str = SMALL) -> Path:
    """A study's file."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path
