"""CSV tables: what is read, and what is refused with the place named."""

from pathlib import Path

import numpy as np
import pytest

from harness.errors import UserError
from harness.problems.tables import read_table

GOOD = "a,kind,y\n1,red,10\n2,blue,20\n3,red,30\n"


def _write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_bytes(text.encode())
    return path


def test_numbers_and_labels(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, GOOD), "y", ("kind",))
    assert table.features.tolist() == [[1, 0, 1], [2, 1, 0], [3, 0, 1]]  # a, kind = blue, kind = red
    assert table.targets.tolist() == [[10], [20], [30]]


def test_byte_order_mark_blank_lines_and_quotes(tmp_path: Path) -> None:
    table = read_table(_write(tmp_path, '\ufeffa,y\r\n"1",2\r\n\r\n3,"4"\r\n'), "y")
    assert table.features.tolist() == [[1], [3]]


@pytest.mark.parametrize(
    ("text", "target", "categorical", "words"),
    [
        (GOOD, "z", ("kind",), ["unknown column 'z'", "a, kind, y"]),
        (GOOD, "y", ("sort",), ["unknown column 'sort'"]),
        (GOOD, "y", (), ["line 2", "column 'kind'", "'red'", "categorical"]),
        ("a;y\n1;2\n3;4\n", "y", (), ["separated by commas", "';'"]),
        ("a,y\n1,2\n,4\n", "y", (), ["line 3", "'a'", "fill it in"]),
        (GOOD, "kind", ("kind",), ["target", "categorical"]),
        ("a,y\n1,2\n,4\n", "y", (), ["line 3", "column 'a'", "''"]),
        ("a,y\n1,2\n3,nan\n", "y", (), ["line 3", "column 'y'", "'nan'"]),
        ("a,y\n1,2\n3,inf\n", "y", (), ["line 3", "'inf'"]),
        ("a,y\n1,2\n3\n", "y", (), ["line 3", "1 cells"]),
        ("a,a,y\n1,2,3\n4,5,6\n", "y", (), ["occur twice", "a"]),
        ("y\n1\n2\n", "y", (), ["no column is left"]),
        ("a,y\n", "y", (), ["at least two rows"]),
        ("", "y", (), ["at least two rows"]),
    ],
)
def test_refusals(tmp_path: Path, text: str, target: str, categorical: tuple[str, ...], words: list[str]) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_table(path, target, categorical)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="line 5"):
        read_table(_write(tmp_path, "a,y\n1,2\n\n3,4\nx,6\n"), "y")


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_table(tmp_path / "none.csv", "y")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01" * 10)
    with pytest.raises(UserError, match="cannot be read"):
        read_table(tmp_path / "bytes.csv", "y")


def test_shipped_tables_are_whole() -> None:
    data = Path(__file__).parents[2] / "harness" / "problems" / "data"
    concrete = read_table(data / "concrete.csv", "compressive_strength")
    assert concrete.features.shape == (1030, 8)
    assert np.isclose(concrete.targets.mean(), 35.82, atol=0.01)  # UCI's description: 35.82 MPa on average
    abalone = read_table(data / "abalone.csv", "rings", ("sex",))
    assert abalone.features.shape == (4177, 10)
    assert np.isclose(abalone.targets.mean(), 9.934, atol=0.001)  # UCI's abalone.names: 9.934 rings on average
