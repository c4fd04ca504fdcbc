"""Packs on the hub: one commit, the card, every byte verified; the hub is a local server."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import torch
from conftest import ToyVAE, toy_decoder
from huggingface_hub import ModelCard, constants

from latentctl import Ascent, AttributeCritic, Conditional, Gaussian, condition
from latentctl.cli import main
from latentctl.errors import CheckpointError, FingerprintError, InputError

PACK = {"critic.safetensors", "manifest.json", "state.json"}
TOKEN = "hf_of_the_owner"


class Hub:
    """Repositories in memory: `commits[repo][oid]` are files, `branches[repo]` name commits."""

    def __init__(self):
        self.commits, self.branches, self.private, self.messages = {}, {}, {}, []

    def create(self, repo, private=False):
        self.private[repo] = private
        self.commits[repo], self.branches[repo] = {}, {}
        self.commit(repo, "main", {".gitattributes": b""}, "initial commit")

    def commit(self, repo, branch, files, message="by hand"):
        number = sum(map(len, self.commits.values()))
        oid = hashlib.sha1(f"{repo}{branch}{number}".encode()).hexdigest()
        self.commits[repo][oid] = files
        self.branches[repo][branch] = oid
        self.messages.append(message)
        return oid

    def files(self, repo, revision="main"):
        oid = self.branches[repo].get(revision, revision)
        return oid, self.commits[repo][oid]


class Handler(BaseHTTPRequestHandler):
    """As much of the hub's API as a push and a download of small files need."""

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    @property
    def owner(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def parts(self):
        return [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]

    def do_POST(self):
        hub, parts = self.server.hub, self.parts()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if parts == ["api", "validate-yaml"]:
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.owner:
            return self.answer(401, {"error": "Invalid username or password."})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization'] or 'me'}/{asked['name']}"
            if known := repo in hub.commits:
                return self.answer(409, {"error": "exists", "url": f"{self.server.url}/{repo}"})
            hub.create(repo, asked.get("visibility") == "private" or asked.get("private", known))
            return self.answer(200, {"url": f"{self.server.url}/{repo}", "name": repo})
        _, _, owner, name, verb, revision = parts
        repo = f"{owner}/{name}"
        if verb == "branch":
            if revision in hub.branches[repo]:
                return self.answer(409, {"error": "exists"})
            hub.branches[repo][revision] = hub.branches[repo]["main"]
            return self.answer(200, {})
        if verb == "preupload":
            files = json.loads(body)["files"]
            plan = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer(200, {"files": [{"path": f["path"], **plan} for f in files]})
        assert verb == "commit"
        head, files = hub.files(repo, revision)
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
                assert value["parentCommit"] == head
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "deletedFile"
                del files[value["path"]]
        oid = hub.commit(repo, revision, files, message)
        url = f"{self.server.url}/{repo}/commit/{oid}"
        return self.answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    def do_GET(self):
        hub, parts = self.server.hub, self.parts()
        api = parts[0] == "api"
        repo = "/".join(parts[2:4] if api else parts[:2])
        if repo not in hub.commits or (hub.private[repo] and not self.owner):
            return self.refuse(404, "RepoNotFound")
        verb, revision = parts[4:6] if api and len(parts) > 4 else ("revision", "main")
        if not api:
            revision = parts[3]
        if revision not in {*hub.branches[repo], *hub.commits[repo]}:
            return self.refuse(404, "RevisionNotFound")
        oid, files = hub.files(repo, revision)
        if api and verb == "revision":
            siblings = [{"rfilename": name} for name in files]
            return self.answer(200, {"id": repo, "modelId": repo, "sha": oid, "siblings": siblings})
        if api:
            return self.answer(
                200,
                [
                    {"type": "file", "path": path, "size": len(data), "oid": etag(data)}
                    for path, data in files.items()
                ],
            )
        name = "/".join(parts[4:])
        if name not in files:
            return self.refuse(404, "EntryNotFound")
        self.server.downloads.append(name)
        return self.answer(200, files[name], ETag=f'"{etag(files[name])}"', X_Repo_Commit=oid)

    do_HEAD = do_GET


def etag(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def use(url, monkeypatch):
    """As HF_ENDPOINT does, which is read on import; nothing can go to the public hub."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    resolve = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", resolve)


@pytest.fixture(autouse=True)
def server(monkeypatch):
    # with telemetry on, the client contacts the public hub first
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the hub is in this process
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.hub, server.downloads = Hub(), []
    use(server.url, monkeypatch)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def owner():
    return {"token": TOKEN}


@pytest.fixture
def reader(tmp_path):
    return {"cache_dir": tmp_path / "cache", "token": False}


@pytest.fixture
def faces(decoder, critic):
    return condition(decoder, critic, Ascent(critic, steps=20))


def test_the_command_pushes_the_pack_with_the_same_card(
    server, decoder, tmp_path, monkeypatch, capsys
):
    faces = condition(decoder, AttributeCritic((8,), ["Smiling"], width=8))
    path = faces.save_pretrained(tmp_path / "pack")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(path), "me/smiling", "--license", "mit"]) == 0
    files = server.hub.files("me/smiling")[1]
    assert set(files) == {".gitattributes", "README.md", *PACK}
    assert files["README.md"].decode() == str(faces.model_card("me/smiling", license="mit"))
    assert all(files[name] == (path / name).read_bytes() for name in PACK)
    assert server.url in capsys.readouterr().out and not (path / "README.md").exists()


def test_a_round_trip_gives_bit_equal_outcomes(faces, server, owner, reader):
    commit = faces.push_to_hub("me/smiling", commit_message="First faces", **owner)
    oid, files = server.hub.files("me/smiling")
    assert commit.oid == oid and server.hub.messages[-1] == "First faces"
    assert set(files) == {".gitattributes", "README.md", *PACK}
    again = Conditional.from_pretrained("me/smiling", toy_decoder(ToyVAE()), **reader)
    one, other = (c.sample(12, Smiling=True, seed=3) for c in (faces, again))
    for field in ("x", "z", "start", "satisfied", "probability", "shift", "evaluations"):
        assert torch.equal(getattr(one, field), getattr(other, field)), field
    assert again.controller.config == faces.controller.config
    different = again.sample(12, Smiling=True, seed=4)
    assert not torch.equal(one.x, different.x)


def test_the_card_and_other_peoples_files_are_not_part_of_the_pack(
    faces, decoder, server, owner, reader
):
    faces.push_to_hub("me/smiling", **owner)
    files = dict(server.hub.files("me/smiling")[1])
    files |= {"README.md": b"corrected by hand", "picture.png": b"png", "other.safetensors": b"?"}
    server.hub.commit("me/smiling", "main", files)
    Conditional.from_pretrained("me/smiling", decoder, **reader)
    assert set(server.downloads) == PACK
    faces.push_to_hub("me/smiling", **owner)
    files = server.hub.files("me/smiling")[1]
    assert {"picture.png", "other.safetensors"} < set(files)
    assert files["README.md"].startswith(b"---")


def test_a_downloaded_folder_with_its_card_loads_as_any_folder(faces, decoder, tmp_path):
    path = faces.save_pretrained(tmp_path / "pack")
    assert {file.name for file in path.iterdir()} == PACK
    before = (path / "manifest.json").read_bytes()
    faces.model_card("me/smiling").save(path / "README.md")
    assert Conditional.from_pretrained(str(path), decoder).names == faces.names
    assert (path / "manifest.json").read_bytes() == before


def test_a_later_push_leaves_nothing_of_the_older_pack(
    decoder, critic, latents, server, owner, reader
):
    with_prior = condition(decoder, critic, prior=Gaussian.fit(latents))
    first = with_prior.push_to_hub("me/smiling", **owner).oid
    condition(decoder, critic, threshold=0.5).push_to_hub("me/smiling", **owner)
    assert set(server.hub.files("me/smiling")[1]) == {".gitattributes", "README.md", *PACK}
    assert Conditional.from_pretrained("me/smiling", decoder, **reader).threshold == 0.5
    older = Conditional.from_pretrained("me/smiling", decoder, revision=first, **reader)
    start = with_prior.sample(3, seed=1).start
    assert torch.equal(older.sample(3, seed=1).start, start)
    assert older.threshold == 0.95


def test_a_revision_is_a_branch_of_its_own(decoder, critic, faces, server, owner, reader):
    faces.push_to_hub("me/smiling", **owner)
    main = server.hub.branches["me/smiling"]["main"]
    for threshold in (0.6, 0.7):  # the branch is made once
        loose = condition(decoder, critic, threshold=threshold)
        loose.push_to_hub("me/smiling", revision="loose", **owner)
    assert server.hub.branches["me/smiling"]["main"] == main
    for revision, threshold in ((None, 0.95), ("loose", 0.7)):
        found = Conditional.from_pretrained("me/smiling", decoder, revision=revision, **reader)
        assert found.threshold == threshold
    with pytest.raises(CheckpointError, match=r"no pack of that name at v9: RevisionNotFound"):
        Conditional.from_pretrained("me/smiling", decoder, revision="v9", **reader)


def test_another_decoder_is_refused(faces, owner, reader):
    faces.push_to_hub("me/smiling", **owner)
    with pytest.raises(FingerprintError, match="made for toy with fingerprint"):
        Conditional.from_pretrained("me/smiling", toy_decoder(ToyVAE(seed=1)), **reader)


@pytest.mark.parametrize("name", sorted(PACK))
def test_a_damaged_file_on_the_hub_is_refused(name, faces, decoder, server, owner, reader):
    faces.push_to_hub("me/smiling", **owner)
    whole = server.hub.files("me/smiling")[1]
    flipped = bytearray(whole[name])
    flipped[len(flipped) // 2] ^= 1
    for damaged in (bytes(flipped), whole[name][:-1]):
        server.hub.commit("me/smiling", "main", whole | {name: damaged})
        with pytest.raises(
            CheckpointError, match=rf"{name} is truncated or corrupted.*fetch it again"
        ):
            Conditional.from_pretrained("me/smiling", decoder, **reader)
    if name != "manifest.json":
        rest = {key: data for key, data in whole.items() if key != name}
        server.hub.commit("me/smiling", "main", rest)
        with pytest.raises(CheckpointError, match=rf"{name} is missing"):
            Conditional.from_pretrained("me/smiling", decoder, **reader)
    server.hub.commit("me/smiling", "main", whole)
    Conditional.from_pretrained("me/smiling", decoder, **reader)


def test_a_damaged_cache_is_refused_and_can_be_fetched_again(faces, decoder, owner, reader):
    faces.push_to_hub("me/smiling", **owner)
    Conditional.from_pretrained("me/smiling", decoder, **reader)
    (file,) = reader["cache_dir"].glob("models--me--smiling/snapshots/*/critic.safetensors")
    blob = file.resolve()
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        CheckpointError, match=r"corrupted.*Remove (\S+) to fetch it again"
    ) as found:
        Conditional.from_pretrained("me/smiling", decoder, **reader)
    folder = reader["cache_dir"] / "models--me--smiling"
    assert f"Remove {folder} to" in str(found.value)
    folder.rename(folder.with_name("removed"))
    Conditional.from_pretrained("me/smiling", decoder, **reader)


def test_the_decoders_weights_are_not_pushed(critic, server, owner):
    model = ToyVAE()
    model.ballast = torch.nn.Parameter(torch.ones(2**18))
    decoder = toy_decoder(model)
    condition(decoder, critic).push_to_hub("me/smiling", **owner)
    size = sum(map(len, server.hub.files("me/smiling")[1].values()))
    learned = sum(tensor.numel() * 4 for tensor in critic.state_dict().values())
    assert learned < size < learned + 2**16 < 2**20


def test_offline_only_what_was_fetched_before_is_loaded(
    faces, decoder, server, owner, reader, monkeypatch
):
    faces.push_to_hub("me/smiling", **owner)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
    use(nowhere, monkeypatch)
    with pytest.raises(
        CheckpointError, match=r"me/smiling is not a local folder.*the network\. Offline"
    ):
        Conditional.from_pretrained("me/smiling", decoder, **reader)
    use(server.url, monkeypatch)
    online = Conditional.from_pretrained("me/smiling", decoder, **reader)
    use(nowhere, monkeypatch)
    cached = Conditional.from_pretrained("me/smiling", decoder, **reader)
    assert torch.equal(online.sample(3).x, cached.sample(3).x)
    with pytest.raises(CheckpointError, match=r"me/smiling was not pushed: .*Check.*the network"):
        faces.push_to_hub("me/smiling", **owner)


def test_private_packs_need_permission_to_read(faces, decoder, server, owner, reader):
    faces.push_to_hub("smiling", private=True, **owner)  # a bare name is under the own account
    assert server.hub.private == {"me/smiling": True}
    with pytest.raises(CheckpointError, match=r"RepositoryNotFoundError.*hf auth login"):
        Conditional.from_pretrained("me/smiling", decoder, **reader)
    Conditional.from_pretrained("me/smiling", decoder, **(reader | {"token": TOKEN}))
    card = server.hub.files("me/smiling")[1]["README.md"].decode()
    assert 'from_pretrained("me/smiling", decoder)' in card
    with pytest.raises(CheckpointError, match=r"was not pushed.*401.*right to write") as found:
        faces.push_to_hub("me/other", token="hf_of_another_account")
    assert "hf_of_another_account" not in str(found.value) and "me/other" not in server.hub.commits


def test_a_repository_with_something_else_is_neither_read_nor_overwritten(
    faces, decoder, server, owner, reader
):
    server.hub.create("me/model")
    theirs = {"model.safetensors": b"weights", "README.md": b"mine"}
    for files in (theirs, theirs | {"manifest.json": b'{"name": "a web page"}'}):
        oid = server.hub.commit("me/model", "main", files)
        with pytest.raises(InputError, match=r"files that are not a pack .*model\.safetensors"):
            faces.push_to_hub("me/model", **owner)
        assert server.hub.branches["me/model"]["main"] == oid
        with pytest.raises(
            CheckpointError, match=r"no manifest\.json|manifest\.json is truncated or"
        ):
            Conditional.from_pretrained("me/model", decoder, **reader)


def test_a_name_that_is_neither_folder_nor_repository_says_so(faces, decoder, reader, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"me/none is not a local folder, and the hub returned no pack"
    ):
        Conditional.from_pretrained("me/none", decoder, **reader)
    for name in ("no/such/folder", "nowhere", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="is missing, or is not a folder"):
            Conditional.from_pretrained(name, decoder, **reader)


def test_a_folder_goes_before_the_hub_and_has_no_revision(
    faces, decoder, server, reader, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    faces.save_pretrained("outputs/pack")
    Conditional.from_pretrained("outputs/pack", decoder, **reader)
    assert not server.downloads
    with pytest.raises(InputError, match="outputs/pack is a local folder and has no revision 'v1'"):
        Conditional.from_pretrained("outputs/pack", decoder, revision="v1", **reader)


def test_what_is_no_pack_is_refused_before_anything_is_made(decoder, critic, server, owner):
    class Mine(Ascent):
        pass

    with pytest.raises(InputError, match="Mine cannot be saved as 'controller'"):
        condition(decoder, critic, Mine(critic)).push_to_hub("me/smiling", **owner)
    assert not server.hub.commits


def test_the_card_says_what_is_known(faces, server, owner):
    results = {
        "edits": [{"attribute": "Smiling", "success": 0.98765, "n": 64}, {"attribute": "a|b"}],
        "accuracy": 0.5,
        "seconds": {"fit": 3.25},
    }
    card = faces.model_card(
        "me/smiling",
        license="mit",
        base_model="somebody/vae",
        base_license="Apache-2.0",
        scores=results,
        measured_on="400 toys",
    )
    card.data.tags.append("toys")
    faces.push_to_hub("me/smiling", card=card, **owner)
    card = ModelCard(server.hub.files("me/smiling")[1]["README.md"].decode())
    assert card.data.library_name == "latentctl" and card.data.license == "mit"
    assert card.data.base_model == "somebody/vae" and card.data["base_model_relation"] == "adapter"
    assert {"latentctl", "toys"} <= set(card.data.tags)
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == {
        "edits Smiling success": 0.98765,
        "edits Smiling n": 64,
        "accuracy": 0.5,
        "seconds fit": 3.25,
    }
    assert {result.dataset_name for result in card.data.eval_results} == {"400 toys"}
    for line in (
        f"| fingerprint (SHA-256) | `{faces.decoder.fingerprint()}` |",
        "| licence | Apache-2.0 |",
        "| latent shape | [8] |",
        "| sample shape | [3, 4, 4] |",
        "`Smiling`, `Male`, `Hat`",
        "| controller | Ascent |",
        "| steps | 20 |",
        "Measured on: 400 toys.",
        "| accuracy | 0.5 |",
        "### edits",
        "| attribute | success | n |",
        "| Smiling | 0.9877 | 64 |",
        "| a\\|b |  |  |",
        "| fit | 3.25 |",
        "## Intended use and limits",
        'conditional = latentctl.Conditional.from_pretrained("me/smiling", decoder)',
        "out = conditional.sample(16, Smiling=True, seed=0)",
    ):
        assert line in card.text.splitlines(), line


def test_the_card_says_what_is_not_known(faces):
    card = faces.model_card("me/smiling")
    assert card.data.license is None and card.data.base_model is None
    lines = card.text.splitlines()
    assert "| licence | not stated |" in lines and "| on the hub | not stated |" in lines
    assert "No scores were given for this card." in lines and card.data.eval_results is None
    assert "Measured on" not in card.text


def test_the_base_model_is_read_off_a_decoder_that_was_loaded_by_id(critic, tmp_path):
    model = ToyVAE()
    for name, found in (("somebody/vae", "somebody/vae"), (str(tmp_path), None), (None, None)):
        model.config = {"_name_or_path": name}
        card = condition(toy_decoder(model), critic).model_card("me/smiling")
        assert card.data.base_model == found
        assert (f"| on the hub | {found} |" in card.text) == (found is not None)


def test_the_lines_that_load_it_run(faces, decoder, server, owner, reader):
    faces.push_to_hub("me/smiling", **owner)
    text = server.hub.files("me/smiling")[1]["README.md"].decode()
    (code,) = text.split("```python\n")[1:]
    code = code.split("```")[0].replace("decoder = ...", "decoder = given")
    code = code.replace("decoder)", "decoder, **reader)")
    scope = {"given": decoder, "reader": reader}
    exec(code, scope)
    assert len(scope["out"]) == 16
