"""Fine-tuning at a host, against a real server on loopback: one upload, one job, whatever breaks in between."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from discretion.config import HostedConfig, load
from discretion.errors import ConfigError, DataError, ModelError, RunFailure, UsageError
from discretion.tune.hosted import estimate, tune_hosted

ROWS = [
    {"id": f"secret-id-{n}", "messages": [{"role": "user", "content": "x" * 40}, {"role": "assistant", "content": "é"}]}
    for n in range(10)
]


class Host:
    """Files and jobs; a job passes through its states, one per look."""

    def __init__(self, states=("validating_files", "queued", "running", "succeeded")):
        self.states, self.files, self.jobs, self.asked = list(states), {}, {}, []
        self.forgets = ()
        """Fields that jobs are shown without."""
        self.broken = {}
        """(method, path) → statuses to answer first."""
        self.keys = set()

    def answer(self, method, path, body):
        self.asked.append((method, path))
        waiting = self.broken.get((method, path), [])
        if waiting:
            return waiting.pop(0), {
                "error": {"message": f"the text {ROWS[0]['messages'][0]['content']}", "code": "odd"}
            }
        if (method, path) == ("POST", "/v1/files"):
            name = re.search(rb'filename="([^"]+)"', body).group(1).decode()
            parts = body.decode("utf-8", "replace")
            content = re.search(r"filename=.*?\r\n\r\n(.*?)\r\n--", parts, re.DOTALL).group(1)
            found = {"id": f"file-{len(self.files) + 1}", "filename": name, "bytes": len(content), "created_at": 1}
            found |= {"object": "file", "purpose": "fine-tune", "status": "processed"}
            self.files[found["id"]] = (found, content)
            return 200, found
        if (method, path) == ("GET", "/v1/files"):
            return 200, {"object": "list", "data": [found for found, _ in self.files.values()], "has_more": False}
        if method == "DELETE":
            name = path.rsplit("/", 1)[1]
            del self.files[name]
            return 200, {"id": name, "object": "file", "deleted": True}
        if (method, path) == ("POST", "/v1/fine_tuning/jobs"):
            asked = json.loads(body)
            job = {"id": f"job-{len(self.jobs) + 1}", "object": "fine_tuning.job", "status": self.states[0]}
            job |= {
                "created_at": 1,
                "organization_id": "o",
                "result_files": [],
                "fine_tuned_model": None,
                "error": None,
            }
            job |= {"seed": asked["seed"], "hyperparameters": {}, "finished_at": None, "trained_tokens": None}
            job |= {key: asked.get(key) for key in ("model", "training_file", "metadata", "method", "suffix")}
            job |= dict.fromkeys(self.forgets)
            self.jobs[job["id"]] = job | {"validation_file": None, "looks": 0}
            return 200, job
        if (method, path) == ("GET", "/v1/fine_tuning/jobs"):
            return 200, {"object": "list", "data": list(self.jobs.values()), "has_more": False}
        job = self.jobs[path.rsplit("/", 1)[1]]
        job["looks"] += 1
        job["status"] = self.states[min(job["looks"], len(self.states) - 1)]
        if job["status"] == "succeeded":
            job |= {"fine_tuned_model": "ft:small:me::1", "trained_tokens": 321}
        if job["status"] == "failed":
            job["error"] = {"code": "invalid_training_file", "message": "row 3 holds " + "x" * 40, "param": None}
        return 200, job


@contextmanager
def serving(host):
    class Handler(BaseHTTPRequestHandler):
        def _do(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            host.keys.add(self.headers.get("Authorization"))
            status, said = host.answer(self.command, self.path.split("?")[0], body)
            data = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Retry-After-Ms", "1")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def url(host, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(host) as url:
        yield url


def run(url, out, *, rows=ROWS, sleep=lambda seconds: None, **options):
    said = []
    config = HostedConfig(base="small", base_url=url, **options)
    return tune_hosted(rows, config, out, tell=said.append, sleep=sleep), said


def count(host, method, path):
    return host.asked.count((method, path))


# ------------------------------------------------------------------------------------------------ the whole


def test_rows_go_up_a_job_runs_and_the_tuned_models_name_comes_back(host, url, tmp_path):
    made, said = run(url, tmp_path / "out", epochs=2, rate_multiplier=0.5, suffix="mine", seed=5, keep_file=True)
    assert (made.model, made.trained_tokens, made.status) == ("ft:small:me::1", 321, "succeeded")
    job = host.jobs["job-1"]
    assert job["method"]["supervised"]["hyperparameters"] == {"n_epochs": 2, "learning_rate_multiplier": 0.5}
    assert (job["model"], job["seed"], job["suffix"]) == ("small", 5, "mine")
    sent = [json.loads(line) for line in host.files["file-1"][1].split("\n")]
    assert sent == [{"messages": row["messages"]} for row in ROWS]
    assert [line for line in said if line.startswith("job job-1:")] == [
        "job job-1: queued",
        "job job-1: running",
        "job job-1: succeeded",
    ]


def test_ids_stay_here_and_the_rows_are_deleted_there_afterwards(host, url, tmp_path):
    kept = {}
    original = host.answer
    host.answer = lambda method, path, body: kept.update({path: body}) or original(method, path, body)
    made, _ = run(url, tmp_path / "out")
    assert b"secret-id" not in b"".join(kept.values())
    assert host.files == {}
    assert made.file is None


def test_a_finished_one_asks_nobody(host, url, tmp_path):
    first, _ = run(url, tmp_path / "out")
    host.asked.clear()
    assert run(url, tmp_path / "out")[0] == first
    assert host.asked == []


# ------------------------------------------------------------------------------------------------ what breaks


def test_a_killed_wait_is_taken_up_without_a_second_upload_or_job(host, url, tmp_path):
    def killed(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(url, tmp_path / "out", sleep=killed)
    made, _ = run(url, tmp_path / "out")
    assert made.model == "ft:small:me::1"
    assert (count(host, "POST", "/v1/files"), count(host, "POST", "/v1/fine_tuning/jobs")) == (1, 1)


def test_a_lost_folder_does_not_start_a_second_job(host, url, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(url, tmp_path / "one", sleep=lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
    made, said = run(url, tmp_path / "two")
    assert made.job == "job-1"
    assert "job job-1 is there already" in said
    assert len(host.jobs) == 1
    assert count(host, "POST", "/v1/files") == 1


FULL = {"epochs": 1, "batch": 4, "rate_multiplier": 0.5, "keep_file": True}


def test_a_host_that_echoes_no_mark_is_asked_for_the_options_of_its_jobs(host, url, tmp_path):
    host.forgets = ("metadata",)
    run(url, tmp_path / "one", **FULL)
    again, _ = run(url, tmp_path / "two", **FULL)
    others = [run(url, tmp_path / str(n), **{**FULL, **more})[0] for n, more in enumerate(({"epochs": 5}, {"seed": 3}))]
    assert [made.job for made in (again, *others)] == ["job-1", "job-2", "job-3"]


@pytest.mark.parametrize(
    ("forgets", "first", "then"),
    [
        (("metadata",), {"epochs": 5}, {}),
        (("metadata", "method"), {"epochs": 1}, {"epochs": 5}),
        (("metadata", "seed"), FULL, FULL),
    ],
    ids=["the host may have chosen five", "no options told", "no seed told"],
)
def test_a_job_that_does_not_tell_its_options_is_neither_taken_up_nor_paid_again(
    host, url, tmp_path, forgets, first, then
):
    host.forgets = forgets
    run(url, tmp_path / "one", **{**first, "keep_file": True})
    with pytest.raises(UsageError, match="job job-1 is on the same rows and model, and does not say") as refused:
        run(url, tmp_path / "two", **{**then, "keep_file": True})
    assert "delete the file file-1 there" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(host.jobs) == 1


def test_another_recipe_on_the_same_rows_is_another_job(host, url, tmp_path):
    run(url, tmp_path / "one", keep_file=True)
    made, _ = run(url, tmp_path / "two", epochs=7, keep_file=True)
    assert made.job == "job-2"
    assert count(host, "POST", "/v1/files") == 1


def test_a_failed_job_is_named_without_the_hosts_text(host, url, tmp_path):
    host.states = ["validating_files", "failed"]
    with pytest.raises(RunFailure, match=r"job job-1: failed at the host \(invalid_training_file\)") as failed:
        run(url, tmp_path / "out")
    assert "xxxx" not in str(failed.value)


def test_a_host_that_is_busy_for_a_moment_is_asked_again(host, url, tmp_path):
    host.broken[("POST", "/v1/files")] = [503, 429]
    assert run(url, tmp_path / "out")[0].model == "ft:small:me::1"
    assert len(host.jobs) == 1


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [(401, ModelError, "check OPENAI_API_KEY"), (400, ModelError, r"refused the request \(400, odd\)")],
)
def test_a_refusal_is_one_line_without_the_hosts_text(host, url, tmp_path, status, kind, said):
    host.broken[("POST", "/v1/fine_tuning/jobs")] = [status]
    with pytest.raises(kind, match=said) as refused:
        run(url, tmp_path / "out")
    assert "xxxx" not in str(refused.value)
    assert "\n" not in str(refused.value)
    state = json.loads((tmp_path / "out" / "hosted.json").read_text())
    assert (state["file"], state["job"]) == ("file-1", None)


def test_a_host_that_is_not_there_is_a_failure_that_can_be_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    with pytest.raises(RunFailure, match="cannot be reached; the same command goes on"):
        run("http://127.0.0.1:9/v1", tmp_path / "out")


def test_a_folder_of_another_tuning_is_left_alone(host, url, tmp_path):
    run(url, tmp_path / "out")
    with pytest.raises(DataError, match="differs in epochs"):
        run(url, tmp_path / "out", epochs=9)
    with pytest.raises(DataError, match="differs in data"):
        run(url, tmp_path / "out", rows=ROWS[:-1])


# ------------------------------------------------------------------------------------------------ before any leaves


def test_the_estimate_counts_tokens_passes_and_cost():
    found = estimate(ROWS, HostedConfig(base="small", price=2.0, epochs=4))
    assert (found.rows, found.tokens, found.epochs, found.assumed) == (10, 103, 4, False)
    assert found.cost == pytest.approx(103 * 4 * 2 / 1e6)
    assert estimate(ROWS, HostedConfig(base="small")).assumed


def test_what_would_cost_too_much_sends_nothing(host, url, tmp_path):
    with pytest.raises(ConfigError, match="use fewer rows, or allow more"):
        run(url, tmp_path / "out", price=1e6, max_cost=1.0)
    assert host.asked == []
    assert not (tmp_path / "out").exists()


def test_the_command_line_sends_only_when_told_to(typed, host, url, tmp_path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ("tune-hosted", "--base", "small", "--base-url", url, "--data", "rows.jsonl", "--out", "out", "--price", 3)
    code, out, err = typed(*words)
    assert (code, host.asked) == (0, [])
    assert "10 rows, about 103 tokens, 3 epochs (assumed; the host will choose): about 0.00" in out
    assert "nothing was sent" in err
    code, out, err = typed(*words, "--upload", "--poll", 0.01)
    assert (code, out) == (0, "ft:small:me::1\n")
    assert f"next: discretion audit --base openai:small --tuned openai:ft:small:me::1 --base-url {url}" in err


# ------------------------------------------------------------------------------------------------ Together


class TogetherHost:
    """Answers as Together's published description says: a name from the start, no metadata, no seed."""

    def __init__(self):
        self.states = ["pending", "queued", "running", "uploading", "completed"]
        self.files, self.jobs, self.asked, self.keys, self.wrong = {}, {}, [], set(), {}

    def answer(self, method, path, body):
        self.asked.append((method, path))
        if path in self.wrong:
            return 200, self.wrong[path]
        match method, path.removeprefix("/v1").split("/")[1:]:
            case "POST", ["files", "upload"]:
                parts = dict(
                    re.findall(r'name="(\w+)"(?:; filename="[^"]+")?.*?\r\n\r\n(.*?)\r\n--', body.decode(), re.DOTALL)
                )
                assert parts["purpose"] == "fine-tune"
                file = {"id": f"file-{len(self.files) + 1}", "filename": parts["file_name"], "processed": False}
                self.files[file["id"]] = (file, parts["file"])
                return 200, file
            case "GET", ["files"]:
                return 200, {"data": [file for file, _ in self.files.values()]}
            case "DELETE", ["files", name]:
                del self.files[name]
                return 200, {"id": name, "deleted": True}
            case "POST", ["fine-tunes"]:
                asked = json.loads(body)
                chosen = {"n_epochs": 1, "batch_size": "max", "learning_rate": 1e-5, "model_output_name": "me/small-1"}
                job = {"id": f"ft-{len(self.jobs) + 1}", "status": self.states[0], "token_count": 7, **chosen, **asked}
                self.jobs[job["id"]] = job
                return 200, job
            case "GET", ["fine-tunes"]:
                return 200, {"data": list(self.jobs.values())}
            case "GET", ["fine-tunes", name]:
                job = self.jobs[name]
                job["status"] = self.states[min(self.states.index(job["status"]) + 1, len(self.states) - 1)]
                return 200, job
        return 404, {}


@pytest.fixture
def together(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    host = TogetherHost()
    with serving(host) as url:
        yield host, url


ALL = {"dialect": "together", "epochs": 2, "batch": 8, "learning_rate": 1e-4, "keep_file": True}


def test_together_gets_the_same_rows_and_its_own_options(together, tmp_path):
    host, url = together
    made, said = run(url, tmp_path / "out", **{**ALL, "suffix": "mine", "keep_file": False})
    assert (made.model, made.trained_tokens, made.status, made.file) == ("me/small-1", 7, "completed", None)
    assert [line for line in said if line.startswith("job ft-1:")] == [
        f"job ft-1: {state}" for state in ("queued", "running", "uploading", "completed")
    ]
    asked = {key: host.jobs["ft-1"][key] for key in ("model", "training_file", "suffix")}
    assert asked == {"model": "small", "training_file": "file-1", "suffix": "mine"}
    assert [host.jobs["ft-1"][key] for key in ("n_epochs", "batch_size", "learning_rate")] == [2, 8, 1e-4]
    assert (host.files, host.keys) == ({}, {"Bearer a-key"})


def test_together_is_sent_messages_without_ids(together, tmp_path):
    host, url = together
    run(url, tmp_path / "out", **ALL)
    sent = [json.loads(line) for line in host.files["file-1"][1].split("\n")]
    assert sent == [{"messages": row["messages"]} for row in ROWS]


def test_a_job_at_together_is_told_by_its_options(together, tmp_path):
    host, url = together
    run(url, tmp_path / "one", **ALL)
    assert run(url, tmp_path / "two", **ALL)[0].job == "ft-1"
    assert run(url, tmp_path / "three", **{**ALL, "epochs": 5})[0].job == "ft-2"
    assert count(host, "POST", "/v1/files/upload") == 1
    with pytest.raises(UsageError, match="does not say with which options"):
        run(url, tmp_path / "four", dialect="together", batch=8, learning_rate=1e-4)
    assert len(host.jobs) == 2


def test_a_job_that_fails_at_together_ends_the_command(together, tmp_path):
    host, url = together
    host.states = ["pending", "running", "error"]
    with pytest.raises(RunFailure, match=r"job ft-1: error at the host"):
        run(url, tmp_path / "out", **ALL)


@pytest.mark.parametrize(("path", "answer"), [("/v1/files", {"files": []}), ("/v1/fine-tunes", {"data": [{"id": 3}]})])
def test_an_answer_of_another_shape_is_told_in_one_line(together, tmp_path, path, answer):
    host, url = together
    host.wrong[path] = answer
    with pytest.raises(RunFailure, match="answer holds no"):
        run(url, tmp_path / "out", **ALL)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dialect": "together"}, "--dialect together needs a --base-url"),
        (
            {"dialect": "together", "base_url": "http://x", "rate_multiplier": 2},
            "--rate-multiplier: the dialect together has none; give --learning-rate",
        ),
        ({"learning_rate": 2}, "--learning-rate: the dialect openai has none; give --rate-multiplier"),
    ],
)
def test_options_of_the_other_dialect_are_refused(given, said):
    with pytest.raises(ConfigError, match=said):
        load(HostedConfig, {"base": "small", **given})


def test_the_new_options_change_no_state_of_before():
    assert HostedConfig(base="small").recipe.keys() == {
        "base",
        "base_url",
        "epochs",
        "batch",
        "rate_multiplier",
        "seed",
    }
    theirs = HostedConfig(base="small", base_url="http://x", dialect="together", learning_rate=1e-4).recipe
    assert (theirs["dialect"], theirs["learning_rate"]) == ("together", 1e-4)
    assert estimate(ROWS, HostedConfig(base="small", base_url="http://x", dialect="together")).epochs == 1
