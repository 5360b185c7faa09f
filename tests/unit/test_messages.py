"""Every error sentence says what to do, and stands in docs/troubleshooting.md."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import generate  # noqa: E402
import messages  # noqa: E402

PACKAGE = ROOT / "src" / "tessera_flow"
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
SENTENCES = messages.sentences(PACKAGE)

ADVICE = (
    "add|ask|assign|buffer|cancel|change|check|choose|complete|copy|correct|cut|delete|did|"
    "download|draw|embed|enable|enlarge|free|get|give|leave|make|mark|mend|name|point|put|raise|"
    "remove|rename|repair|run|say|see|set|split|take|use|warp|write"
)
"""Verbs that begin what a user is told to do."""

NO_ADVICE = {
    "Block <block_id>: <cause>",  # the cause is a sentence of this list
    # and here each of the causes
    "<number> of <number> tiles could not be embedded; the others are in <out>.\n<listed>",
    "<key> is <value>: <msg>.",
    "<key>: <cause>.",
    "Unknown key <key>: the keys <section> are ….",
}
"""Sentences that are filled in with the advice, or say it by what must stand there."""


def advises(sentence: str) -> bool:
    """After a colon, a semicolon, a comma, a stop or a bracket, or at the sentence's start after
    one of these, a verb of advice; or words after which stands what has to be there."""
    found = re.search(rf"(?:[:;,.]|\bor|\band|\bso) (?:{ADVICE})\b", sentence, re.IGNORECASE)
    stated = re.search(r" must be ", sentence)
    return found is not None or stated is not None


@pytest.mark.parametrize("kind", [kind for kind in SENTENCES if kind != "MissingSceneError"])
def test_every_sentence_says_what_to_do(kind: str) -> None:
    """But those on lost scenes, which are reasons in a record."""
    silent = [text for text in SENTENCES[kind] if text not in NO_ADVICE and not advises(text)]
    assert not silent, f"{kind}: no advice in {silent}"


def test_a_sentence_without_advice_is_seen() -> None:
    assert {text for texts in SENTENCES.values() for text in texts} >= NO_ADVICE
    assert not advises("<path> cannot be read (<cause>).")
    assert not advises("<path> holds no numbers: it is of another kind.")
    assert advises("<path> cannot be read (<cause>): copy it again.")


def test_every_sentence_is_in_the_page() -> None:
    assert sum(map(len, SENTENCES.values())) > 150
    for texts in SENTENCES.values():
        for text in texts:
            assert text.partition("\n")[0] in PAGE, f"{text}: run `make generate`"


def test_a_new_error_changes_the_page(tmp_path: Path) -> None:
    module = tmp_path / "errors.py"
    module.write_text(
        "class TesseraFlowError(Exception): ...\n"
        "class RegionError(TesseraFlowError): ...\n"
        "def use(path, error):\n"
        "    why = f'it is {path.suffix}'\n"
        "    raise RegionError(f'{path} is of no use ({error}), as {why}: draw ' 'another.')\n"
    )
    assert messages.sentences(tmp_path) == {
        "RegionError": ["<path> is of no use (<cause>), as it is <suffix>: draw another."]
    }
    assert "- `<path> is of no use" in messages.reference(tmp_path)
    module.write_text(module.read_text() + "    raise RegionError(why_not(path))\n")
    with pytest.raises(messages.UnknownSentence, match=r"errors.py, line 6: why_not\(path\)"):
        messages.sentences(tmp_path)


def test_a_printed_sentence_is_recognised() -> None:
    sentence = "<path> is of no use (<cause>): draw … again."
    assert messages.pattern(sentence).search("1 roi.shp is of no use (a.b): draw it again. Then")
    assert not messages.pattern(sentence).search("roi.shp is of no use (a.b) draw it again.")


def test_what_is_said_outside_the_package_is_in_the_page() -> None:
    """The installer, the scripts and the front end."""
    installer = (ROOT / "tools/install.sh").read_text(encoding="utf-8")
    adaptor = (ROOT / "workflow/scripts/adaptor.py").read_text(encoding="utf-8")
    texts = re.findall(r'fail "(.*)"$', installer, flags=re.MULTILINE)
    texts += re.findall(r'logging\.exception\("(.*)"\)', adaptor)
    texts += ["was killed (out of memory, out of time, cancelled, or its machine went down)"]
    assert texts[-1] in (PACKAGE / "verdicts.py").read_text(encoding="utf-8")
    assert len(texts) == 6
    for text in texts:
        plain = re.sub(r"\$\([^)]*\)|\$\w+", "…", text)
        for part in plain.split("…"):
            assert part in PAGE, text


def test_the_marker_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="has lost its line"):
        generate._with_every_sentence("# Troubleshooting\n")


def test_the_tool_needs_nothing_but_the_source() -> None:
    """`python tools/generate.py` runs where only the package is installed."""
    code = "import sys; sys.path.insert(0, 'tools'); import messages; print(len(messages.GROUPS))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(messages.GROUPS)
