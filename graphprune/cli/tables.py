"""Results for people, on stdout."""

from collections.abc import Sequence
from typing import Any

FOR_MACHINES = ("output_errors", "importance", "predicted_then_measured", "pareto", "curve")
TASK_COLUMNS = (
    "task", "questions", "acc", "acc_stderr", "acc_norm", "acc_norm_stderr", "retention", "retention_norm",
)  # fmt: skip


def show_facts(result: dict[str, Any]) -> None:
    """A result for people: one line a fact."""
    result = {key: value for key, value in result.items() if key not in FOR_MACHINES}
    width = max((len(key) for key in result), default=0)
    for key, value in result.items():
        if key == "tasks":
            show_table([TASK_COLUMNS, *([cell(row.get(column)) for column in TASK_COLUMNS] for row in value)])
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{key}:")
            for row in value:
                print("  " + "  ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in row.values()))
        elif isinstance(value, dict):
            print(f"{key:<{width}}  " + ", ".join(f"{name} {x}" for name, x in value.items()))
        else:
            print(f"{key:<{width}}  {f'{value:.6g}' if isinstance(value, float) else value}")


def cell(value: object) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def show_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) if rows else 0)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def nothing(_: dict[str, Any]) -> None:
    """For commands that speak for themselves."""
