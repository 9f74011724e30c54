"""docs/: links lead somewhere, commands name scripts and settings that are there, examples run."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.settings import EvaluateSettings
from nemo_mm_align.evaluation.stage import evaluate
from nemo_mm_align.evaluation.tasks.task import build_task
from nemo_mm_align.labeling.judge import CallFailure, JudgeRequest, check_reply
from nemo_mm_align.labeling.registry import build_judge
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import (
    Annotation,
    Candidate,
    CandidateSet,
    Prompt,
    RatedCandidate,
    Turn,
    write_records,
)
from tests.distributed import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "containers/README.md"])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python|bash) ((?:scripts|containers)/[\w/]+\.(?:py|sh))")


def pages() -> list[str]:
    return [str(page.relative_to(REPOSITORY)) for page in PAGES]


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and Sphinx make them."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page: str) -> None:
    path = REPOSITORY / page
    for target in LINK.findall(path.read_text("utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists() and there.is_relative_to(REPOSITORY), f"{page}: {target}"
        assert not anchor or anchor in anchors(there), f"{page}: {target}"


@pytest.mark.parametrize("page", pages())
def test_every_script_that_is_named_is_there(page: str) -> None:
    for script in COMMAND.findall((REPOSITORY / page).read_text("utf-8")):
        assert (REPOSITORY / script).is_file(), f"{page}: {script}"


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = re.findall(r"^([A-Za-z_]+)$", (REPOSITORY / "docs/index.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.stem for page in (REPOSITORY / "docs").glob("*.md") if page.stem != "index")


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    built = subprocess.run([*command, str(REPOSITORY / "docs"), str(tmp_path / "html")], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "Spearman" in (tmp_path / "html/STUDY.html").read_text("utf-8")


def test_settings_that_troubleshooting_names_are_there(repository: Path) -> None:
    text = (repository / "docs/troubleshooting.md").read_text("utf-8")
    named = set(re.findall(r"`((?:data|model|faults|runner)\.[a-z_.]+)(?:=[\w.]+)?`", text))
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        known = {"train": compose("train", ["model=mini", "recipe=sft"]), "label": compose("label")}
    assert len(named) > 8
    for name in named:
        section, *path, key = name.split(".")
        values = known["label" if section == "runner" else "train"][section]
        for part in path:
            values = values[part]
        assert key in values.keys(), name  # noqa: SIM118, a missing value is no member


@pytest.fixture(scope="module")
def examples(repository: Path) -> dict[str, str]:
    """The files of docs/extending.md by the names in their first lines."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", (repository / "docs/extending.md").read_text(), re.S)
    return dict(blocks)


@pytest.fixture
def asked(helpsteer: AttributeSchema) -> JudgeRequest:
    return JudgeRequest(
        Prompt(id="p", turns=(Turn(role="user", content="Why?"),)), ("so", "because it is"), (), helpsteer
    )


def place(examples: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in examples.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(folder))


def test_the_judge_of_the_documentation_judges(examples, asked, tmp_path: Path, monkeypatch) -> None:
    place(examples, tmp_path, monkeypatch)
    judge = build_judge(yaml.safe_load(examples["my/judge/length.yaml"]), asked.schema)
    reply = check_reply(judge.judge(asked), asked)
    assert [ratings["verbosity"] for ratings in reply.ratings] == [1, 3]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"target": "a.B"}, r"judge has no _target_, which names the class"),
        ({"_target_": "nowhere_at_all.B"}, r"No module named 'nowhere_at_all'.*PYTHONPATH"),
        ({"_target_": "my_judges.Nameless"}, r"judge: Nameless lacks name, reads_metadata, which a judge has"),
    ],
)
def test_what_a_judge_of_ones_own_lacks_is_said_at_the_start(config, message, helpsteer, tmp_path, monkeypatch) -> None:
    (tmp_path / "my_judges.py").write_text(
        "class Nameless:\n    settings = {}\n\n    def judge(self, request):\n        pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_judges", raising=False)
    with pytest.raises(UserError, match=message):
        build_judge(config, helpsteer)
    with pytest.raises(UserError, match="a failure of kind 'flaky' .*: choose from rate_limit"):
        raise CallFailure("flaky", "it is")  # type: ignore[arg-type]


@pytest.fixture
def service() -> Iterator[tuple[str, list[dict]]]:
    """A model behind ``POST`` that rates every candidate 2, and what it was sent."""
    received: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            scores = dict.fromkeys(("helpfulness", "correctness", "coherence", "complexity", "verbosity"), 2)
            ratings = [{"candidate": number, "reasoning": "so", "scores": scores} for number in (1, 2)]
            body = json.dumps({"text": json.dumps({"ratings": ratings})}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *what: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/ask", received
    server.shutdown()
    server.server_close()


def test_the_language_model_of_the_documentation_judges(examples, asked, service, tmp_path, monkeypatch) -> None:
    place(examples, tmp_path, monkeypatch)
    url, received = service
    settings = yaml.safe_load(examples["my/judge/plain.yaml"])
    judge = build_judge({**settings, "url": url}, asked.schema)
    reply = check_reply(judge.judge(asked), asked)
    assert [ratings["complexity"] for ratings in reply.ratings] == [2, 2]
    assert "because it is" in received[0]["text"] and judge.settings["model"] == "mine"
    with pytest.raises(CallFailure, match="ConnectionError"):
        build_judge({**settings, "url": "http://127.0.0.1:9/ask"}, asked.schema).judge(asked)


def test_the_schema_of_the_documentation_is_one(examples, tmp_path: Path, monkeypatch, repository: Path) -> None:
    place(examples, tmp_path, monkeypatch)
    words = ["prompts=p", "candidates=c", "out=o.jsonl", "attribute_schema=tone"]
    with initialize_config_dir(str(repository / "conf"), version_base=None):
        config = compose("label", [f"hydra.searchpath=[file://{tmp_path}/my]", *words])
    schema = AttributeSchema.model_validate(dict(config.attribute_schema))
    assert schema.names == ("correctness", "formality") and schema.perfect_total == 4


def test_the_python_of_the_guide_runs(tmp_path: Path, monkeypatch, capsys, helpsteer: AttributeSchema) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/guide.md").read_text("utf-8"), re.DOTALL)
    values = {"worse": 1.0, "better": 3.0}
    rated = [RatedCandidate(text=text, ratings=dict.fromkeys(helpsteer.names, value)) for text, value in values.items()]
    prompt = Prompt(id="p", turns=(Turn(role="user", content="Why?"),))
    names = {"judge": "j", "schema_name": helpsteer.name, "schema_fingerprint": helpsteer.fingerprint}
    write_records(tmp_path / "annotations.jsonl", [Annotation(prompt=prompt, candidates=tuple(rated), **names)])
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.endswith("3.0} better\n")


def test_the_task_of_the_documentation_scores(
    examples, tmp_path: Path, monkeypatch, helpsteer: AttributeSchema
) -> None:
    place(examples, tmp_path, monkeypatch)
    prompts = [
        Prompt(id=answer, turns=(Turn(role="user", content="?"),), metadata={"answer": answer}) for answer in "abcd"
    ]
    write_records(tmp_path / "p.jsonl", prompts)
    for name, said in (("base", "a"), ("dpo", "abc")):
        lines = [
            CandidateSet(prompt_id=one.id, candidates=(Candidate(text=one.id if one.id in said else "?"),))
            for one in prompts
        ]
        write_records(tmp_path / f"{name}.jsonl", lines)
    task = build_task(yaml.safe_load(examples["my/task/exact.yaml"]), helpsteer)
    answers = {name: tmp_path / f"{name}.jsonl" for name in ("base", "dpo")}
    settings = EvaluateSettings(
        prompts=tmp_path / "p.jsonl", answers=answers, out=tmp_path / "out", attribute_schema=helpsteer
    )
    found = evaluate(settings, {"exact": task})["exact"].methods["dpo"].measurements["exact"]
    assert (found.value, found.minus_base, found.n) == (0.75, 0.5, 4)
    assert "DPO comes first: exact 0.75" in (tmp_path / "out/report.html").read_text()
