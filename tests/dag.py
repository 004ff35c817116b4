"""dvc.yaml and the code that its stages import, for the tests that hold one against the other."""

import ast
import functools
from pathlib import Path

import yaml
from conftest import ROOT

STAGES = ROOT / "stages"
DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
STAGE_NAMES = sorted(DAG)


def stage(name: str) -> dict:
    """A stage's entry in dvc.yaml; of a ``foreach`` stage, what is done for each item."""
    return DAG[name].get("do", DAG[name])


def declared_code(name: str) -> set[str]:
    """The project's Python files among a stage's dependencies, those below a folder included."""
    return {file for file in declared_files(name) if file.endswith(".py")}


def declared_files(name: str) -> set[str]:
    """The files below stages/ among a stage's dependencies, those below a folder included."""
    paths = [ROOT / dep for dep in stage(name)["deps"] if dep.startswith("stages/")]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    return {str(file.relative_to(ROOT)) for file in files}


def script(name: str) -> Path:
    """The file that a stage runs."""
    (found,) = [ROOT / word for word in stage(name)["cmd"].split() if word.startswith("stages/") and word.endswith(".py")]
    return found


def import_closure(path: Path) -> set[str]:
    """The project's files that a script imports, directly or not, itself included."""
    seen, todo = set(), [path]
    while todo:
        file = todo.pop()
        if file not in seen:
            seen.add(file)
            todo += imported_files(file)
    return {str(file.relative_to(ROOT)) for file in seen}


@functools.cache
def imported_files(file: Path) -> list[Path]:
    """The project's files that a file itself imports."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [found for name in names if (found := STAGES / f"{name.replace('.', '/')}.py").is_file()]
