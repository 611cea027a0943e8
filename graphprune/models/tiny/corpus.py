"""The text that the `tiny` model is trained on: documentation that graphprune's own dependencies install.

`collect` gathers the prose of the doc strings of networkx, numpy, scipy and torch and of Python's language
reference; `split` deals it into three parts. Sources are parsed, never imported or run. The same versions of the
packages (`LICENSE-TEXTS.md` names them) give the same texts.
"""

import ast
import hashlib
import importlib.util
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics

PACKAGES = ("networkx", "numpy", "scipy", "torch")
# Folders with code of other projects, whose licences differ, and with tests.
FOREIGN = re.compile(r"/_?test(s|ing)?/|vendor|extern|array_api_(compat|extra)|cobyqa|pyprima|_uarray|_pep440")
# A file with a notice of its own may have terms of its own: left out.
NOTICE = re.compile(r"copyright|licen[sc]ed? |SPDX|public domain", re.IGNORECASE)
DOCUMENTERS = re.compile(r"add_(doc_?str|newdoc)")  # functions that attach doc strings to compiled code
EVALUATION_CHARS, CALIBRATION_CHARS = 80_000, 150_000

UNDERLINE = re.compile(r"[-=~*^]{3,}")
ITEM = re.compile(r"(?:[-*+•]|\.\.(?= \[)|\d+[.)]|\w+ \([^)]*\):|\w+:)\s+(?=\S)")
MARKUP = (
    (re.compile(r":[\w:]+:`[~!]?([^`<]+?)(?:\s*<[^>]*>)?`"), r"\1"),  # :func:`torch.add`
    (re.compile(r"`([^`<]+?)\s*<[^>]*>`_+"), r"\1"),  # `text <link>`_
    (re.compile(r"\s*\[[\w, ]+\]_"), ""),  # [1]_
    (re.compile(r"`+([^`]*)`+_?"), r"\1"),
    (re.compile(r"(?<![\w*])\*{1,2}(\w[^*]*)\*{1,2}(?!\w)"), r"\1"),
    (re.compile(r"\s+"), " "),
)
# Code, formulas, tables, templates, links.
NOT_PROSE = re.compile(r">>>|[\\{}|@^<>~]|==|\s=\s|::|://|www\.|\.(?:org|com|net|io)\b|noqa|\$|__ |_$")
PROSE = re.compile(r"[A-Z\"'(].*[.!?][\"')]?")
MIN_WORDS, MAX_CHARS, MIN_LETTERS = 8, 3000, 0.93


@dataclass(frozen=True)
class Document:
    """The prose about one documented object."""

    owner: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        """The paragraphs with an empty line between them."""
        return "\n\n".join(self.paragraphs)


@dataclass(frozen=True)
class Corpus:
    """Documents in three parts that share no paragraph."""

    train: tuple[Document, ...]
    calibration: str
    evaluation: str


def doc_strings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (qualified name, doc string) of the module and of every public class and function."""
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    while pending:
        name, node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, ast.get_docstring(node) or ""
        elif isinstance(node, ast.Call) and DOCUMENTERS.search(str(getattr(node.func, "id", ""))):
            target = ".".join(ast.unparse(argument) for argument in node.args[:2])[:80]
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            yield target, "\n\n".join(inspect.cleandoc(t) for t in texts if isinstance(t, str))
        for child in reversed(list(ast.iter_child_nodes(node))):
            own = getattr(child, "name", "") or ""
            if not own.startswith("_"):
                pending.append((f"{name}.{own}" if own else name, child))


def raw_documents() -> Iterator[tuple[str, str]]:
    """Yield (owner, doc string) for all packages and for Python's topics, in a fixed order."""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"{package} is not installed; graphprune's dependencies include it")
        root = Path(spec.origin).parent
        for path in sorted(root.rglob("*.py")):
            module = path.relative_to(root.parent).with_suffix("").as_posix()
            source = path.read_text(encoding="utf-8")
            if FOREIGN.search(module) or NOTICE.search(source):
                continue
            for name, text in doc_strings(ast.parse(source)):
                yield f"{module}:{name}", text
    for topic in sorted(topics):
        for number, section in enumerate(re.split(r"\n(?=\S[^\n]*\n[*=~-]{3,}\n)", topics[topic])):
            yield f"python:{topic}.{number}", section


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs as running text, without headings; a change of indentation starts a new one.

    The lines below a list item or a `name (type):` continue it, whatever their indentation.
    """
    lines: list[str] = []
    indent, hanging = 0, False
    for line in [*text.splitlines(), ""]:
        bare = line.strip()
        if UNDERLINE.fullmatch(bare):
            lines = []
            continue
        depth = len(line) - len(line.lstrip())
        item = ITEM.match(bare)
        if lines and (not bare or item or (depth != indent and not (hanging and depth > indent))):
            yield " ".join(lines)
            lines = []
        if bare and not lines:
            indent, hanging = depth, item is not None
            bare = bare[item.end() :] if item else bare
        if bare:
            lines.append(bare)


def prose(paragraph: str) -> str | None:
    """Return the paragraph without markup, or None where it isn't prose."""
    for pattern, replacement in MARKUP:
        paragraph = pattern.sub(replacement, paragraph)
    paragraph = paragraph.strip()
    paragraph = paragraph[:1].upper() + paragraph[1:]
    letters = sum(c.isalpha() or c in " .,;'-" for c in paragraph)
    if (
        NOT_PROSE.search(paragraph)
        or not PROSE.fullmatch(paragraph)
        or not paragraph.isascii()
        or len(paragraph.split()) < MIN_WORDS
        or len(paragraph) > MAX_CHARS
        or letters < MIN_LETTERS * len(paragraph)
    ):
        return None
    return paragraph


def collect() -> list[Document]:
    """Collect all prose; a paragraph that differs only in case, digits or signs counts as seen."""
    seen: set[str] = set()
    documents = []
    for owner, text in raw_documents():
        kept = []
        for candidate in filter(None, map(prose, paragraphs(text))):
            key = re.sub(r"[^a-z]", "", candidate.lower())
            if key not in seen:
                seen.add(key)
                kept.append(candidate)
        if kept:
            documents.append(Document(owner, tuple(kept)))
    return documents


def split(documents: Sequence[Document]) -> Corpus:
    """Deal documents, in the order of their owners' hashes, to evaluation, calibration, train."""
    ordered = iter(sorted(documents, key=lambda d: hashlib.sha256(d.owner.encode()).digest()))

    def take(n_chars: int) -> str:
        text = next(ordered).text
        while len(text) < n_chars:
            text += "\n\n" + next(ordered).text
        return text + "\n"

    evaluation, calibration = take(EVALUATION_CHARS), take(CALIBRATION_CHARS)
    return Corpus(tuple(ordered), calibration, evaluation)
