"""Trees can be saved, read back and drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfprm_runtime import RfprmError, Scorer
from rfprm_runtime.search import BeamSearch, Searcher, SearchTree
from search.policies import KnownPolicy

QUESTION = "How many legs do three cats have?"


def test_a_saved_tree_is_read_back(scorer: Scorer, tmp_path: Path) -> None:
    tree = Searcher(scorer, KnownPolicy(), BeamSearch(2, 3)).search(QUESTION).tree
    tree.save(tmp_path / "tree.json")
    again = SearchTree.load(tmp_path / "tree.json")
    assert again.as_dict() == tree.as_dict()
    for old, new in zip(tree.nodes, again.nodes, strict=True):
        assert (new.depth, new.lineage) == (old.depth, old.lineage)
        assert new.step_scores.tolist() == old.step_scores.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["tree.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2}', '{"format": 1, "question": "?"}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tree.json"
    path.write_text(text)
    with pytest.raises(RfprmError, match=r"tree\.json (holds no search tree|is not JSON)"):
        SearchTree.load(path)


def test_a_tree_is_drawn(scorer: Scorer, tmp_path: Path) -> None:
    result = Searcher(scorer, KnownPolicy(), BeamSearch(2, 2)).search(QUESTION)
    figure = result.tree.plot(best=result.best)
    [axes] = figure.axes
    assert len(axes.texts) == len(result.tree.nodes) - 1
    assert result.best is not None
    [bold] = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    best = result.best
    assert bold == f"{best.step_scores[-1]:.2f} ({best.final_value:.2f})"
    figure.savefig(tmp_path / "tree.png")
    assert (tmp_path / "tree.png").stat().st_size > 5_000
    SearchTree(QUESTION).plot().savefig(tmp_path / "empty.png")
