"""docs/buffer.md is made from the buffer's types, and its example runs."""

import buffer_page
from buffer_rows import small_rows

from anchora.regret.buffer import write_buffer


def test_the_page_is_current():
    """`python tests/docs/buffer_page.py` writes it anew."""
    assert buffer_page.PAGE.read_text(encoding="utf-8") == buffer_page.page()


def test_every_field_has_a_meaning_and_a_writer():
    rows = [line.split(" | ") for line in buffer_page.page().splitlines() if line.startswith("| `")]
    assert len([row for row in rows if len(row) == 5]) >= 39
    for row in rows:
        assert len(row) in (2, 5) and all(cell.strip(" |") for cell in (row[0], row[1], row[-1])), row


def test_the_pandas_example_runs(tmp_path, monkeypatch, capsys):
    write_buffer(tmp_path / "data" / "regret_buffer" / "round0.jsonl", small_rows())
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(buffer_page.EXAMPLE, names)
    shown = capsys.readouterr().out
    assert "3 + 4 = 8" in shown and "1.2" in shown
    assert names["cases"]["reference_margin"].tolist() == [0.0, 0.0]
    assert names["cases"]["regret"].tolist() == [1.5, 0.7]
