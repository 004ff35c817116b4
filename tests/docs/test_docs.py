"""What README.md, CONTRIBUTING.md and docs/ name exists, and reads well: links, paths, commands, parameters, sentences."""

import ast
import functools
import re

import pytest
import yaml
from conftest import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
README_BYTES = 14_336  # a coffee's length
MEAN_WORDS, MOST_WORDS = 22, 60  # of a sentence
# What a run or a user makes: a clone has none of it.
OUTPUTS = (
    "data/prepared", "data/responses", "data/regret_buffer", "data/own", "models/", "logs/", "metrics/report.html", "metrics/model_card.md",
)  # fmt: skip
NAMED = re.compile(r"(?:stages|tests|data|presets|metrics|docs|models|logs)/[\w./<>*-]*[\w>*/]")
FENCE = re.compile(r"^( *)```\w*\n(.*?)^\1```$", re.M | re.S)


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code(page: str) -> list[str]:
    """What stands in code style: the lines of fenced and indented blocks, and the inline spans."""
    blocks = [block for _, block in FENCE.findall(text(page))]
    prose = FENCE.sub("", text(page))
    indented = re.findall(r"^    (?! )\S.*$", prose, re.M)
    return [line.strip() for block in blocks for line in block.splitlines()] + indented + re.findall(r"`([^`\n]+)`", prose)


def tree(page: str) -> list[str]:
    """The paths of a drawn tree of the repository."""
    paths: list[str] = []
    above: list[str] = []
    for indent, name in re.findall(r"^((?:│   |    )*)[├└]── (\S+)", text(page), re.M):
        above[len(indent) // 4 :] = [name]
        paths.append("/".join(above))
    return paths


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text(page)), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exists(path: str) -> bool:
    """Whether the repository has a path, or a run makes it; a placeholder such as <k> stands for anything."""
    if path.startswith(OUTPUTS) and not path.startswith("models/base"):
        return True
    return any(ROOT.glob(re.sub(r"<[\w ]+>", "*", path.rstrip("/"))))


@functools.cache
def strings(script: str) -> set[str]:
    """The text constants of a script and of the scripts beside it, whose options it may share."""
    beside = (ROOT / script).parent.glob("*.py") if "/" in script else [ROOT / script]
    nodes = (node for file in beside for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@functools.cache
def functions() -> dict[str, set[str]]:
    """The files below stages/ that define each function."""
    found: dict[str, set[str]] = {}
    for file in (ROOT / "stages").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, set()).add(str(file.relative_to(ROOT)))
    return found


@functools.cache
def parameters() -> set[str]:
    return set(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")))


def sentences(page: str) -> list[str]:
    """The sentences of a page without code blocks, tables, headings and pictures; an item of a list ends one."""
    prose = FENCE.sub("\n\n", text(page))
    prose = re.sub(r"^(?:\||#|!\[|<!--|    \S).*$", "", prose, flags=re.M)
    prose = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", prose)
    blocks = re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", prose)
    found = [part for block in blocks for part in re.split(r"(?<=[.!?])[*_)]*\s+(?=[A-Z`*(\d])", " ".join(block.split()))]
    return [part for part in found if words(part)]


def words(sentence: str) -> int:
    return sum(bool(re.search(r"\w", word)) for word in sentence.split())


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_anchor_exists(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text(page))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(str(path.resolve().relative_to(ROOT))), target


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_code_style_exists(page):
    named = {path for line in code(page) for path in NAMED.findall(line.replace("${output_dir}", "models"))}
    missing = [path for path in sorted(named) if not exists(path)]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {target for line in code(page) for target in re.findall(r"(?:^|&& )make ([a-z][\w-]*)", line)}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets), targets


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_option_of_a_script_exists(page):
    for line in (line.split("#")[0] for line in code(page)):
        match = re.search(r"python ([\w/]+\.py)\s*(.*)", line)
        if not match:
            continue
        script, rest = match.groups()
        assert (ROOT / script).is_file(), line
        options = set(re.findall(r"--[a-z][\w-]*", rest))
        command = {rest.split()[0]} if script == "ugrr_pipeline.py" and rest else set()
        assert options | command <= strings(script), line


@pytest.mark.parametrize("page", PAGES)
def test_every_parameter_in_a_command_or_setting_exists(page):
    """``-S key=value``, and ``key: value`` where it stands alone."""
    for line in code(page):
        keys = re.findall(r"-S '?(\w+)=", line) + re.findall(r"^(\w+): \S", line)
        assert set(keys) <= parameters(), line


@pytest.mark.parametrize("page", PAGES)
def test_every_function_is_in_the_file_named_beside_it(page):
    """``name()`` is a function below stages/, in one of the files that its paragraph or row of a table names, if any."""
    for block in re.split(r"\n\s*\n|\n(?=\||- |\d\. )", FENCE.sub("", text(page))):
        files = {path for span in re.findall(r"`([^`]+)`", block) for path in NAMED.findall(span) if path.endswith(".py")}
        for name in re.findall(r"`(\w+)\(\)`", block):
            assert name in functions(), name
            assert not files or files & functions()[name], (name, files)


def test_the_readme_is_short():
    assert len(text("README.md").encode()) <= README_BYTES


def test_the_readme_links_every_page():
    assert [page for page in PAGES[1:] if f"]({page})" not in text("README.md")] == []


def test_the_tree_of_the_readme_is_the_repositorys():
    named = tree("README.md")
    assert [path for path in named if not (ROOT / path).exists()] == []
    scripts = {str(path.relative_to(ROOT)) for path in [*ROOT.glob("stages/*.py"), *ROOT.glob("stages/*.sh")]}
    rooms = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("stages/anchora/*/*.py")}
    assert scripts | rooms <= set(named)


def test_contributing_lists_the_rooms_in_the_order_of_their_imports():
    order = re.findall(r"^\| `(\w+)` \|", text("CONTRIBUTING.md"), re.M)
    files = list(ROOT.glob("stages/anchora/*/*.py"))
    assert sorted(order) == sorted({file.parent.name for file in files})
    for file in files:
        for room in re.findall(r"^\s*(?:from|import) anchora\.(\w+)", file.read_text(encoding="utf-8"), re.M):
            assert order.index(room) <= order.index(file.parent.name), file


@pytest.mark.parametrize("page", PAGES[2:])
def test_a_page_begins_with_its_question(page):
    first = next(line for line in text(page).splitlines() if line and not line.startswith(("#", "<!--")))
    assert first.startswith("**") and first.rstrip("*").endswith("?")


@pytest.mark.parametrize("page", PAGES)
def test_sentences_are_short(page):
    lengths = {sentence: words(sentence) for sentence in sentences(page)}
    longest = max(lengths, key=lengths.__getitem__)
    assert lengths[longest] <= MOST_WORDS, longest
    assert sum(lengths.values()) / len(lengths) <= MEAN_WORDS


def test_every_finding_has_its_row_and_pins_what_it_installs():
    scripts = {path.stem: path.read_text(encoding="utf-8") for path in ROOT.glob("findings/*.sh")}
    assert set(re.findall(r"^\| \[([\w-]+)\]\(\1\.sh\) \|", text("findings/README.md"), re.M)) == set(scripts)
    for name, script in scripts.items():
        packages = [word for line in re.findall(r"pip install (.+)", script) for word in line.split() if not word.startswith("--")]
        assert packages and all(re.fullmatch(r"[\w.-]+==[\w.]+", package) for package in packages), name
