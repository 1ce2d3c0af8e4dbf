"""Is what is mined a negative: no document of any group whose text asks the same?"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from unimir.mine import Mining, _Pairs, _searcher


def test_documents_of_every_group_that_asks_the_same_are_answers(tmp_path: Path) -> None:
    rows = [("q", "a", 1), ("q", "b", 2), ("other", "c", 2), ("another", "d", 3)]
    table = pa.Table.from_pylist([dict(zip(("text", "doc_text", "group"), row, strict=True)) for row in rows])
    pairs = _Pairs.of(table)
    pairs.save(tmp_path)
    cosines = np.array([1.0, 1.0, 0.5, 0.6], np.float32)  # of every query to the documents a to d
    np.save(tmp_path / "queries.npy", np.tile(np.array([1, 0], np.float32), (3, 1)))
    np.save(tmp_path / "documents.npy", np.stack([cosines, np.sqrt(1 - cosines**2)], 1))
    found = _searcher(tmp_path, Mining(count=8, margin=1.0))(0, len(rows))
    named = [sorted(table["doc_text"][int(row)].as_py() for row in negatives) for negatives in found]
    for (_, own, _), negatives in zip(rows, named, strict=True):
        assert own not in negatives
    assert named[0] == named[1] == ["d"]  # c answers its group, in which q is asked too
